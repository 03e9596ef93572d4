"""What is written upon a store stays there; what is below shows through."""

from __future__ import annotations

import pytest

from cache.memory import MemoryStore
from cache.overlay import Overlay

pytestmark = pytest.mark.anyio


@pytest.fixture
async def below() -> MemoryStore:
    store = MemoryStore(max_bytes=2**20)
    await store.put("a/1", b"one")
    await store.put("a/2", b"two")
    return store


async def keys(store: Overlay | MemoryStore) -> set[str]:
    return {key async for key in store.keys("a/")}


async def test_what_is_below_shows(below: MemoryStore) -> None:
    overlay = Overlay(below)
    assert await overlay.get("a/1") == b"one"
    assert await overlay.get_many(["a/2", "a/3", "a/1"]) == [b"two", None, b"one"]
    assert await keys(overlay) == {"a/1", "a/2"}


async def test_nothing_that_is_written_goes_below(below: MemoryStore) -> None:
    overlay = Overlay(below)
    await overlay.put("a/1", b"new")
    assert await overlay.add("a/3", b"three")
    assert await overlay.swap("a/1", b"new", b"newer")
    assert await overlay.delete("a/2")
    assert await overlay.get_many(["a/1", "a/2", "a/3"]) == [b"newer", None, b"three"]
    assert await keys(overlay) == {"a/1", "a/3"}
    assert await below.get_many(["a/1", "a/2", "a/3"]) == [b"one", b"two", None]


async def test_adding_and_swapping_go_by_what_is_below(below: MemoryStore) -> None:
    overlay = Overlay(below)
    assert not await overlay.add("a/1", b"x")
    assert not await overlay.swap("a/1", b"other", b"x")
    assert not await overlay.swap("a/3", b"other", b"x")
    assert not await overlay.delete("a/3")
    assert await overlay.swap("a/1", b"one", b"x")
    assert await overlay.get("a/1") == b"x"


async def test_what_was_deleted_can_be_added_again(below: MemoryStore) -> None:
    overlay = Overlay(below)
    await overlay.delete("a/1")
    assert not await overlay.delete("a/1")
    assert await overlay.add("a/1", b"again")
    assert await overlay.get("a/1") == b"again"


async def test_it_goes_with_what_was_written(below: MemoryStore) -> None:
    overlay = Overlay(below)
    await overlay.put("a/1", b"new")
    await overlay.sweep()
    assert await overlay.get("a/1") == b"new"
    await overlay.close()
    assert await below.get("a/1") == b"one"
