"""The images of a conversation, as the tools see them."""

from __future__ import annotations

import asyncio

import pytest

from cache.blobs import Blobs
from cache.memory import MemoryStore
from cache.record import ImageRecord
from cache.rows import Rows
from cache.store import StoreError
from cache.table import ImageTable
from cache.tables import Tables, place
from router.intake.conversation import Conversation
from router.intake.images import ConversationImages, short
from tools.vision.backend import VisionBusy, VisionError

pytestmark = pytest.mark.anyio

CHAT = Conversation("t", "k", "n")


class Moody(MemoryStore):
    """A store that fails while told to."""

    failing = False

    async def get(self, key: str) -> bytes | None:
        if self.failing:
            raise StoreError("not now")
        return await super().get(key)

    async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
        if self.failing:
            raise StoreError("not now")
        return await super().swap(key, old, new, ttl=ttl)


async def images(store: MemoryStore, *digests: str, origin: str = "user") -> ConversationImages:
    """As of a request that brought these."""
    tables, rows = Tables(store), Rows(store)

    def arrive(table: ImageTable, numbers: list[int], new: set[int]) -> None:
        for number in new:
            table.arrive(number, tool=False, tokens=10)

    table, numbers, _ = await tables.number("t", "k", [(digest, None) for digest in digests], arrive)
    brought = {
        number: ImageRecord(number, digest, origin=origin) for digest, number in zip(digests, numbers, strict=True)
    }
    for row in brought.values():
        await rows.add(place("t", "k", table), row)
    return ConversationImages(CHAT, table, brought, blobs=Blobs(store), tables=tables, rows=rows)


async def kept(of: ConversationImages) -> dict[int, tuple[int, str]]:
    return {number: (row.looks, row.last_answer) for number, row in (await of.records(of.numbers())).items()}


async def test_looks_side_by_side_are_all_kept() -> None:
    these = await images(MemoryStore(max_bytes=10**6), "a", "b", "c")
    await asyncio.gather(*(these.looked([number], "t", f"saw {number}", tokens=7) for number in (1, 2, 3)))
    assert await kept(these) == {1: (1, "saw 1"), 2: (1, "saw 2"), 3: (1, "saw 3")}
    assert {number: image.tokens for number, image in these.table.loaded.items()} == {1: 17, 2: 17, 3: 17}


async def test_a_look_that_failed_is_counted_and_one_whose_turn_did_not_come_is_not() -> None:
    these = await images(MemoryStore(max_bytes=10**6), "a")
    await these.failed([1], VisionError("The eyes are down: 500", retryable=True))
    await these.failed([1], VisionBusy())
    row = (await these.records([1]))[1]
    assert (row.errors, row.last_error) == (1, "The eyes are down")


async def test_a_store_that_fails_takes_no_image_away() -> None:
    store = Moody(max_bytes=10**6)
    these = await images(store, "a", "b")
    store.failing = True
    await these.looked([1], "t", "saw", tokens=1)
    assert these.numbers() == [1, 2]
    assert set(await these.records([1, 2])) == {1, 2}


async def test_a_look_makes_an_image_the_most_recently_used() -> None:
    these = await images(MemoryStore(max_bytes=10**6), "a", "b")
    await these.looked([1], "t", "saw", tokens=1)
    assert list(these.table.loaded) == [2, 1]


@pytest.mark.parametrize("how", ["looked", "recalled"])
async def test_a_forgotten_image_is_loaded_by_looking_and_by_recalling(how: str) -> None:
    store = MemoryStore(max_bytes=10**6)
    these = await images(store, "a", "b")
    await Tables(store).change("t", "k", lambda table: table.forget([1]))
    again = await images(store, "b")
    assert not again.is_loaded(1)
    stamp = await (again.looked([1], "t", "saw", tokens=5) if how == "looked" else again.recalled(1, tokens=5))
    assert again.is_loaded(1)
    assert again.table.stands([1], stamp)
    assert not again.table.stands([1], these.table.stamp), "what was seen before does not come back by itself"


async def test_an_image_of_a_tool_that_a_rival_has_forgotten_meanwhile_comes_back_as_one() -> None:
    store = MemoryStore(max_bytes=10**6)
    these = await images(store, "a", origin="tool")
    await Tables(store).change("t", "k", lambda table: table.forget([1]))
    await these.looked([1], "t", "saw", tokens=5)
    assert these.table.loaded[1].tool


async def test_a_number_of_nobody_is_nothing() -> None:
    these = await images(MemoryStore(max_bytes=10**6), "a")
    assert await these.records([2, 0, -1]) == {}
    assert await these.data(2) is None


async def test_the_bytes_are_those_of_the_image() -> None:
    store = MemoryStore(max_bytes=10**6)
    digest = await Blobs(store).put("t", b"png")
    these = await images(store, digest, "gone")
    assert await these.data(1) == b"png"
    assert await these.data(2) is None


async def test_a_deleted_image_has_no_bytes_and_says_so() -> None:
    store = MemoryStore(max_bytes=10**6)
    digest = await Blobs(store).put("t", b"png")
    await images(store, digest)
    await Tables(store).change("t", "k", lambda table: table.delete(1))
    these = await images(store, digest)
    assert (await these.records([1]))[1].problem == "it was deleted"
    assert await these.data(1) is None


async def test_what_is_learnt_after_the_conversation_was_deleted_is_not_kept() -> None:
    store = MemoryStore(max_bytes=10**6)
    these = await images(store, "a")
    await store.delete("table/t/k")
    await store.delete(f"row/{these.where}/1")
    await these.looked([1], "t", "saw", tokens=1)
    assert [key async for key in store.keys("")] == []


async def test_the_first_look_gives_the_description() -> None:
    these = await images(MemoryStore(max_bytes=10**6), "a", "b")
    await these.looked([1, 2], "compare", "They differ.", tokens=1)
    await these.looked([1], "t", "A login form. It has two fields.", tokens=1)
    await these.looked([1], "t", "Something else.", tokens=1)
    rows = await these.records([1, 2])
    assert (rows[1].description, rows[2].description) == ("A login form", "")


@pytest.mark.parametrize(
    ("answer", "description"),
    [
        ("A cat.", "A cat"),
        ("\n\n## A form. With fields.", "A form"),
        ("x" * 81, "…"),
        ("one two " * 20, " one two one two one…"),
        ("", ""),
        (" \n* \n", ""),
    ],
)
def test_a_description_is_the_beginning_of_an_answer(answer: str, description: str) -> None:
    assert short(answer).endswith(description)
    assert len(short(answer)) <= 80


async def test_the_facts_of_what_came_with_the_request_need_no_store_and_a_deleted_image_says_so() -> None:
    store = Moody(max_bytes=10**6)
    here = await images(store, "a", "b")
    store.failing = True
    assert {number: row.digest for number, row in (await here.facts([1, 2, 3])).items()} == {1: "a", 2: "b"}
    here.table.delete(2)
    assert (await here.facts([1, 2]))[2].problem == "it was deleted"
