"""One record an image: found by number, changed without losing a rival's change, gone when deleted."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cache.memory import MemoryStore
from cache.record import ImageRecord
from cache.rows import Rows
from cache.store import StoreError
from tests.failing import FailingStore, broken

pytestmark = pytest.mark.anyio

HERE = "tenant/conversation/generation"
KEY = f"row/{HERE}/3"


def store() -> MemoryStore:
    return MemoryStore(max_bytes=10**6)


def looked(row: ImageRecord) -> int:
    row.looks += 1
    return row.looks


FULL = ImageRecord(
    3, "d", "image/png", 4, 5, 6, "tool", "odd", "a.png", "a cat", "caption", 7, "task", "answer", 8.5, 9.5
)


async def test_a_row_is_kept_with_everything_in_it() -> None:
    rows = Rows(store())
    assert await rows.add(HERE, FULL) is True
    assert await rows.get(HERE, 3) == FULL


async def test_a_row_is_found_at_its_own_place_only() -> None:
    rows = Rows(store())
    await rows.add(HERE, FULL)
    assert await rows.get(HERE, 33) is None
    assert await rows.get("tenant/conversation/other", 3) is None


async def test_many_rows_come_by_number_without_those_that_are_not_there() -> None:
    rows = Rows(store())
    for number in (2, 1):
        await rows.add(HERE, ImageRecord(number, f"d{number}"))
    found = await rows.get_many(HERE, [2, 5, 1])
    assert found == {2: ImageRecord(2, "d2"), 1: ImageRecord(1, "d1")}


async def test_a_row_that_is_there_is_not_replaced() -> None:
    rows = Rows(store())
    await rows.add(HERE, FULL)
    assert await rows.add(HERE, ImageRecord(3, "other")) is False
    assert await rows.get(HERE, 3) == FULL


async def test_a_damaged_row_gives_way_to_a_new_one() -> None:
    kept = store()
    rows = Rows(kept)
    await kept.put(KEY, b'1 {"number": 3')
    assert await rows.get(HERE, 3) is None
    assert await rows.change(HERE, 3, looked) is None
    assert await rows.add(HERE, FULL) is True
    assert await rows.get(HERE, 3) == FULL


async def test_a_row_of_another_version_is_left_alone() -> None:
    kept = store()
    rows = Rows(kept)
    await kept.put(KEY, b"7 whatever")
    assert await rows.get(HERE, 3) is None
    assert await rows.add(HERE, FULL) is False
    assert await rows.change(HERE, 3, looked) is None
    assert await kept.get(KEY) == b"7 whatever"


async def test_no_change_of_rivals_is_lost() -> None:
    kept = store()
    await Rows(kept).add(HERE, ImageRecord(3, "d"))
    answers = await asyncio.gather(*(Rows(kept).change(HERE, 3, looked) for _ in range(20)))
    assert sorted(answer or 0 for answer in answers) == list(range(1, 21))


async def test_many_rows_are_kept_behind_what_is_to_be_there_first_and_damaged_ones_anew() -> None:
    kept = store()
    rows = Rows(kept)
    await rows.add(HERE, FULL)
    await kept.put(f"row/{HERE}/4", b"damaged")
    await rows.add_many(
        HERE, [replace(FULL, number=number, last_task="x") for number in (3, 4, 5)], before=[("held/x", b"1")]
    )
    assert await rows.get(HERE, 3) == FULL
    assert sorted(await rows.get_many(HERE, [3, 4, 5])) == [3, 4, 5]
    assert await kept.get("held/x") == b"1"


async def test_a_deleted_row_does_not_come_back_by_a_change() -> None:
    rows = Rows(store())
    await rows.add(HERE, FULL)
    assert await rows.delete(HERE, 3) is True
    assert await rows.change(HERE, 3, looked) is None
    assert await rows.get(HERE, 3) is None
    assert await rows.delete(HERE, 3) is False


async def test_a_row_that_is_deleted_while_it_is_changed_stays_deleted() -> None:
    class Deleting(MemoryStore):
        async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
            await self.delete(key)
            return await super().swap(key, old, new, ttl=ttl)

    kept = Deleting(max_bytes=10**6)
    rows = Rows(kept)
    await rows.add(HERE, FULL)
    assert await rows.change(HERE, 3, looked) is None
    assert await rows.get(HERE, 3) is None


async def test_a_store_that_fails_says_so_where_a_row_would_be_lost_and_is_quiet_elsewhere() -> None:
    failing = FailingStore()
    failing.on_read = failing.on_write = broken
    rows = Rows(failing)
    assert await rows.get(HERE, 3) is None
    assert await rows.get_many(HERE, [3, 4]) == {}
    assert await rows.change(HERE, 3, looked) is None
    with pytest.raises(StoreError):
        await rows.add(HERE, FULL)


async def test_a_change_that_cannot_be_kept_is_answered_all_the_same() -> None:
    failing = FailingStore()
    rows = Rows(failing)
    await rows.add(HERE, FULL)
    failing.on_write = broken
    assert await rows.change(HERE, 3, looked) == 8
    assert await rows.get(HERE, 3) == FULL
