"""Bytes under the digest of themselves."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import cache.at_hand
from cache.at_hand import SECONDS, AtHand
from cache.blobs import INLINE_BYTES, Blobs
from cache.disk import DiskStore
from cache.memory import ENTRY_BYTES, MemoryStore
from cache.store import Store, StoreError
from tests.failing import FailingStore, broken

pytestmark = pytest.mark.anyio

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda folder: MemoryStore(max_bytes=2**28),
    "disk": lambda folder: DiskStore(folder / "store", max_bytes=2**28),
}


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened = STORES[request.param](tmp_path)
    yield opened
    await opened.close()


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, 3_000_000])
async def test_what_was_put_comes_back_by_its_sha256(store: Store, size: int) -> None:
    blobs = Blobs(store)
    data = os.urandom(size)
    digest = await blobs.put("tenant", data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert await blobs.get("tenant", digest) == data
    assert [key async for key in store.keys("")] == [f"blob/tenant/{digest}"]


async def test_one_tenant_does_not_see_what_another_has(store: Store) -> None:
    blobs = Blobs(store)
    digest = await blobs.put("alice", b"picture")
    assert await blobs.get("bob", digest) is None
    assert await blobs.delete("bob", digest) is False
    assert await blobs.put("bob", b"picture") == digest
    assert await blobs.delete("alice", digest) is True
    assert await blobs.get("alice", digest) is None
    assert await blobs.get("bob", digest) == b"picture"


async def test_bytes_that_are_not_the_digest_are_none_and_deleted(store: Store) -> None:
    blobs = Blobs(store)
    digest = await blobs.put("tenant", b"picture")
    await store.put(f"blob/tenant/{digest}", b"another picture")
    assert await blobs.get("tenant", digest) is None
    assert await store.get(f"blob/tenant/{digest}") is None
    await blobs.put("tenant", b"picture")
    assert await blobs.get("tenant", digest) == b"picture"


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "A" * 64, "../" + "0" * 61, "0" * 64 + "\n"])
async def test_what_is_no_digest_names_nothing(store: Store, digest: str) -> None:
    await store.put(f"blob/tenant/{digest}", b"x")
    assert await Blobs(store).get("tenant", digest) is None
    assert await Blobs(store).delete("tenant", digest) is False
    assert await store.get(f"blob/tenant/{digest}") == b"x"


@pytest.mark.parametrize("tenant", ["", "a/b", "/"])
async def test_a_tenant_that_would_reach_into_another_is_refused(store: Store, tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        await Blobs(store).put(tenant, b"x")
    with pytest.raises(ValueError, match="tenant"):
        await Blobs(store).get(tenant, "0" * 64)


async def test_a_blob_put_again_is_not_written_again_but_counts_as_used(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "store", max_bytes=2**28)
    blobs = Blobs(store)
    await blobs.put("tenant", b"picture")
    (file,) = (path for path in (tmp_path / "store" / "blobs").glob("?/?/*") if path.name != ".lock")
    os.utime(file, (1, 1))
    before = file.stat()
    await blobs.put("tenant", b"picture")
    after = file.stat()
    assert after.st_ino == before.st_ino
    assert after.st_mtime > before.st_mtime
    await store.close()


async def test_the_memory_store_keeps_its_bound_and_drops_the_least_recently_used() -> None:
    store = MemoryStore(max_bytes=3 * (1000 + ENTRY_BYTES))
    blobs = Blobs(store)
    pictures = [bytes([number]) * 800 for number in range(4)]
    digests = [await blobs.put("tenant", picture) for picture in pictures[:3]]
    assert await blobs.get("tenant", digests[0]) == pictures[0]
    await blobs.put("tenant", pictures[1])
    digests.append(await blobs.put("tenant", pictures[3]))
    there = [await blobs.get("tenant", digest) is not None for digest in digests]
    assert there == [True, True, False, True]
    with pytest.raises(StoreError, match="larger than the whole memory store"):
        await blobs.put("tenant", b"x" * 10_000)
    assert await blobs.get("tenant", digests[0]) == pictures[0]


async def test_the_memory_store_forgets_what_lay_idle() -> None:
    now = 0.0
    store = MemoryStore(max_bytes=2**20, retention_seconds=10, clock=lambda: now)
    await store.put("table/t/read", b"x")
    await store.put("table/t/idle", b"x")
    now = 6
    assert await store.get("table/t/read") == b"x"
    now = 12
    assert [key async for key in store.keys("")] == ["table/t/read"]
    await store.put("table/t/short", b"x", ttl=1)
    now = 14
    assert await store.sweep() == 1
    assert await store.get("table/t/idle") is None
    assert await store.get("table/t/read") == b"x"


# A store that does not take them


async def test_what_the_store_does_not_take_can_be_looked_at_all_the_same() -> None:
    store = FailingStore()
    blobs = Blobs(store)
    store.on_write = broken
    digest = hashlib.sha256(b"picture").hexdigest()
    with pytest.raises(StoreError):
        await blobs.put("tenant", b"picture")
    store.on_read = broken
    assert await blobs.get("tenant", digest) == b"picture"
    with pytest.raises(StoreError):
        await blobs.get("another", digest)


async def test_what_is_at_hand_goes_when_the_store_takes_it_or_it_is_deleted() -> None:
    store = FailingStore()
    blobs = Blobs(store)
    digest = hashlib.sha256(b"picture").hexdigest()
    for how in (blobs.put("tenant", b"picture"), blobs.delete("tenant", digest)):
        store.on_write = broken
        with pytest.raises(StoreError):
            await blobs.put("tenant", b"picture")
        store.on_write = lambda key: None
        assert await how
        await store.delete(f"blob/tenant/{digest}")
        assert await blobs.get("tenant", digest) is None


async def test_a_picture_that_the_store_did_not_give_is_missed_until_it_is_put_again() -> None:
    store = FailingStore()
    blobs = Blobs(store)
    digest = await blobs.put("tenant", b"picture")
    assert await blobs.get("tenant", digest) == b"picture"
    assert not blobs.missed("tenant", digest)
    store.on_read = broken
    with pytest.raises(StoreError):
        await blobs.get("tenant", digest)
    assert blobs.missed("tenant", digest)
    assert not blobs.missed("another", digest)
    store.on_read = lambda key: None
    assert await blobs.put("tenant", b"picture") == digest
    assert not blobs.missed("tenant", digest)


def test_what_is_at_hand_is_bounded_in_size_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(cache.at_hand, "MOST_BYTES", 10)
    hand = AtHand(lambda: now)
    hand.put("first", b"1" * 6)
    now = 1
    hand.put("second", b"2" * 4)
    assert (hand.get("first"), hand.get("second")) == (b"1" * 6, b"2" * 4)
    hand.put("third", b"3")
    assert (hand.get("first"), hand.get("second"), hand.get("third")) == (None, b"2" * 4, b"3")
    hand.put("larger than all", b"x" * 11)
    assert repr(hand) == "<AtHand 0 values, 0 bytes>"
    hand.put("late", b"4")
    now += SECONDS
    assert hand.get("late") is None
    assert repr(hand) == "<AtHand 0 values, 0 bytes>"
