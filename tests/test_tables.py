"""Numbers are given once, and no rival's change is lost."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.memory import MemoryStore
from cache.store import StoreError
from cache.table import ImageRecord, ImageTable
from cache.tables import Tables

pytestmark = pytest.mark.anyio


def image(digest: str) -> ImageRecord:
    return ImageRecord(0, digest)


def test_images_are_numbered_in_order_of_appearance() -> None:
    table = ImageTable()
    assert [table.number(image(digest)).number for digest in "aabac"] == [1, 1, 2, 1, 3]


def test_the_clients_number_is_given_if_it_is_free() -> None:
    table = ImageTable()
    assert table.number(image("a"), 2).number == 2
    assert table.number(image("b"), 2).number == 3
    assert table.number(image("c"), 1).number == 1
    assert table.number(image("d")).number == 4
    assert table.number(image("a"), 9).number == 2


@pytest.mark.parametrize("wanted", [0, -1, 100_000, 10**30])
def test_a_number_that_is_no_counter_is_not_given(wanted: int) -> None:
    assert ImageTable().number(image("a"), wanted).number == 1


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.none() | st.integers(0, 12)), max_size=30))
def test_a_number_never_moves_and_never_means_two(asked: list[tuple[str, int | None]]) -> None:
    table = ImageTable()
    given_out: dict[str, int] = {}
    for digest, wanted in asked:
        number = table.number(image(digest), wanted).number
        assert given_out.setdefault(digest, number) == number
    assert len(set(given_out.values())) == len(given_out)
    assert {record.digest: record.number for record in table} == given_out


async def test_a_table_is_kept_with_everything_in_it() -> None:
    tables = Tables(MemoryStore(max_bytes=10**6))
    record = ImageRecord(0, "d", "image/png", 3, 4, 5, "tool", "", 1, "task", "answer")
    await tables.update("t", "c", lambda table: table.number(record))
    kept = await tables.get("t", "c")
    assert kept.records == {1: record}
    assert kept.of_digest("d") == record


async def test_rivals_numbering_at_once_agree() -> None:
    store = MemoryStore(max_bytes=10**6)

    async def one(replica: int) -> list[tuple[str, int]]:
        tables = Tables(store)
        numbers = []
        for step in range(10):
            digest = f"{(step * 7 + replica) % 12}"
            _, record = await tables.update("t", "c", partial(numbered, image(digest)))
            numbers.append((digest, record.number))
        return numbers

    everyone = await asyncio.gather(*(one(replica) for replica in range(8)))
    seen: dict[str, int] = {}
    for digest, number in chain.from_iterable(everyone):
        assert seen.setdefault(digest, number) == number
    assert sorted(seen.values()) == list(range(1, len(seen) + 1))


def numbered(new: ImageRecord, table: ImageTable) -> ImageRecord:
    return table.number(new)


async def test_a_damaged_table_is_begun_anew() -> None:
    store = MemoryStore(max_bytes=10**6)
    await store.put("table/t/c", b'[{"number": "not json')
    tables = Tables(store)
    _, record = await tables.update("t", "c", lambda table: table.number(image("a")))
    assert record.number == 1


async def test_a_store_that_fails_costs_memory_and_nothing_else() -> None:
    class Broken(MemoryStore):
        async def get(self, key: str) -> bytes | None:
            raise StoreError("disk on fire")

    tables = Tables(Broken(max_bytes=10**6))
    table, record = await tables.update("t", "c", lambda table: table.number(image("a")))
    assert (record.number, len(table)) == (1, 1)
    assert len(await tables.get("t", "c")) == 0
