"""What a number means does not change while the brain works with it."""

from __future__ import annotations

import asyncio

import pytest

from cache.blobs import Blobs
from cache.memory import MemoryStore
from cache.store import StoreError
from cache.table import ImageRecord, ImageTable
from cache.tables import Tables
from router.conversation import Conversation
from router.images import ConversationImages

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
        if self.failing_swap:
            raise StoreError("not now")
        return await super().swap(key, old, new, ttl=ttl)

    failing_swap = False


async def images(store: MemoryStore, *digests: str) -> ConversationImages:
    tables = Tables(store)

    def number(table: ImageTable) -> None:
        for digest in digests:
            table.number(ImageRecord(0, digest))

    table, _ = await tables.update("t", "k", number)
    return ConversationImages(CHAT, table, blobs=Blobs(store), tables=tables)


async def kept(store: MemoryStore) -> dict[str, tuple[int, str]]:
    return {record.digest: (record.looks, record.last_answer) for record in await Tables(store).get("t", "k")}


async def test_looks_side_by_side_are_all_kept() -> None:
    store = MemoryStore(max_bytes=10**6)
    these = await images(store, "a", "b", "c")
    await asyncio.gather(*(these.looked([number], "t", f"saw {number}") for number in (1, 2, 3)))
    assert await kept(store) == {"a": (1, "saw 1"), "b": (1, "saw 2"), "c": (1, "saw 3")}


async def test_a_store_that_fails_takes_no_image_away() -> None:
    store = Moody(max_bytes=10**6)
    these = await images(store, "a", "b")
    store.failing = True
    await these.looked([1], "t", "saw")
    assert set(these.records()) == {1, 2}


async def test_what_was_seen_goes_to_the_image_that_was_looked_at_whatever_its_number_is_now() -> None:
    store = Moody(max_bytes=10**6)
    await images(store, "a", "b")
    store.failing = True
    these = await images(store, "b")
    assert these.records()[1].digest == "b"
    store.failing = False
    await these.looked([1], "t", "saw b")
    assert await kept(store) == {"a": (0, ""), "b": (1, "saw b")}
    assert these.records()[1].digest == "b"


async def test_a_change_that_could_not_be_kept_is_not_made_twice() -> None:
    store = Moody(max_bytes=10**6)
    these = await images(store, "a")
    store.failing_swap = True
    table, _ = await Tables(store).update(
        "t", "k", lambda table: setattr(table.records[1], "looks", table.records[1].looks + 1)
    )
    assert table.records[1].looks == 1
    assert these.records()[1].looks == 0
