"""Every store keeps the same promises.  A new one joins by one line in `STORES`."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.disk import DiskStore
from cache.memory import MemoryStore
from cache.redis import RedisStore
from cache.store import Store, StoreError
from tests.redis_server import HANG, RedisServer, redis_server

pytestmark = pytest.mark.anyio

ROOM = 256 * 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as started:
        yield started


def _in_memory(request: pytest.FixtureRequest) -> Store:
    return MemoryStore(max_bytes=ROOM)


def _on_disk(request: pytest.FixtureRequest) -> Store:
    folder: Path = request.getfixturevalue("tmp_path")
    return DiskStore(folder / "store", max_bytes=ROOM)


def _in_redis(request: pytest.FixtureRequest) -> Store:
    server: RedisServer = request.getfixturevalue("server")
    server.client.flushall()
    return RedisStore(server.url, answer_seconds=HANG)


STORES: dict[str, Callable[[pytest.FixtureRequest], Store]] = {
    "memory": _in_memory,
    "disk": _on_disk,
    "redis": _in_redis,
}


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    opened = STORES[request.param](request)
    yield opened
    await opened.close()


@pytest.fixture(params=["blob/tenant/", "table/tenant/"])
def place(request: pytest.FixtureRequest) -> str:
    """The beginning of a key of either kind: a store may keep the two in different ways."""
    return str(request.param)


async def all_keys(store: Store, prefix: str = "") -> list[str]:
    return sorted([key async for key in store.keys(prefix)])


async def test_an_unknown_key_is_none_and_cannot_be_deleted_or_swapped(store: Store, place: str) -> None:
    assert await store.get(place + "1") is None
    assert await store.delete(place + "1") is False
    assert await store.swap(place + "1", b"", b"new") is False
    assert await store.get(place + "1") is None


async def test_the_last_put_is_what_get_gives(store: Store, place: str) -> None:
    await store.put(place + "1", b"first")
    await store.put(place + "1", b"second")
    await store.put(place + "2", b"another")
    assert await store.get(place + "1") == b"second"
    assert await store.get(place + "2") == b"another"


async def test_many_are_given_in_their_order_whatever_is_not_there_and_whatever_is_asked_twice(store: Store) -> None:
    await store.put("table/tenant/1", b"one")
    await store.put("table/tenant/2", b"")
    await store.put("blob/tenant/1", b"x" * 100_000)
    await store.put("table/tenant/gone", b"x", ttl=0.01)
    await asyncio.sleep(0.05)
    keys = ["table/tenant/2", "table/tenant/no", "table/tenant/1", "table/tenant/gone", "table/tenant/2"]
    assert await store.get_many(keys) == [b"", None, b"one", None, b""]
    assert await store.get_many(["blob/tenant/1", *keys[:3]]) == [b"x" * 100_000, b"", None, b"one"]
    assert await store.get_many([f"table/tenant/{number}" for number in range(2500)]) == [
        {1: b"one", 2: b""}.get(number) for number in range(2500)
    ]
    assert await store.get_many([]) == []


async def test_an_empty_value_is_a_value(store: Store, place: str) -> None:
    await store.put(place + "1", b"")
    assert await store.get(place + "1") == b""
    assert await store.add(place + "1", b"x") is False
    assert await store.swap(place + "1", b"", b"x") is True
    assert await store.get(place + "1") == b"x"


async def test_many_are_added_in_their_order_and_only_where_nothing_is(store: Store, place: str) -> None:
    await store.put(place + "1", b"first")
    values = [(place + "2", b"two"), (place + "1", b"second"), ("row/t/3", b""), (place + "2", b"other")]
    assert await store.add_many(values) == [True, False, True, False]
    assert await store.get_many([place + "1", place + "2", "row/t/3"]) == [b"first", b"two", b""]
    assert await store.add_many([("row/t/4", b"x")], ttl=0.05) == [True]
    await asyncio.sleep(0.1)
    assert await store.get("row/t/4") is None
    many = [(f"row/many/{number}", b"%d" % number) for number in range(1200)]
    assert await store.add_many(many) == [True] * 1200
    assert await store.get_many([key for key, _ in many]) == [value for _, value in many]
    assert await store.add_many([]) == []


async def test_add_puts_only_where_nothing_is(store: Store, place: str) -> None:
    assert await store.add(place + "1", b"first") is True
    assert await store.add(place + "1", b"second") is False
    assert await store.get(place + "1") == b"first"


async def test_swap_puts_only_over_exactly_the_old_value(store: Store, place: str) -> None:
    await store.put(place + "1", b"first")
    assert await store.swap(place + "1", b"firs", b"x") is False
    assert await store.swap(place + "1", b"first\0", b"x") is False
    assert await store.get(place + "1") == b"first"
    assert await store.swap(place + "1", b"first", b"second") is True
    assert await store.get(place + "1") == b"second"


async def test_deleting_makes_a_key_unknown_and_free(store: Store, place: str) -> None:
    await store.put(place + "1", b"first")
    assert await store.delete(place + "1") is True
    assert await store.get(place + "1") is None
    assert await store.delete(place + "1") is False
    assert await all_keys(store) == []
    assert await store.add(place + "1", b"second") is True


async def test_after_its_ttl_a_value_is_gone_for_every_method(store: Store, place: str) -> None:
    for name in "abcde":
        await store.put(place + name, b"soon gone", ttl=0.05)
    await asyncio.sleep(0.1)
    assert await all_keys(store) == []
    assert await store.get(place + "a") is None
    assert await store.swap(place + "b", b"soon gone", b"x") is False
    assert await store.delete(place + "c") is False
    assert await store.add(place + "d", b"new") is True
    assert await store.get(place + "d") == b"new"
    await store.put(place + "e", b"new")
    assert await store.get(place + "e") == b"new"


async def test_every_way_of_putting_obeys_its_ttl_and_lifts_an_earlier_one(store: Store, place: str) -> None:
    await store.add(place + "added", b"x", ttl=0.05)
    await store.put(place + "swapped", b"x")
    await store.swap(place + "swapped", b"x", b"y", ttl=0.05)
    await store.put(place + "put again", b"x", ttl=0.05)
    await store.put(place + "put again", b"y")
    await store.put(place + "long", b"x", ttl=3600)
    await asyncio.sleep(0.1)
    assert await all_keys(store) == [place + "long", place + "put again"]
    assert await store.get(place + "added") is None
    assert await store.get(place + "swapped") is None
    assert await store.get(place + "put again") == b"y"
    assert await store.get(place + "long") == b"x"


async def test_a_ttl_of_nothing_is_gone_at_once(store: Store, place: str) -> None:
    await store.put(place + "1", b"x", ttl=0)
    await store.put(place + "2", b"x", ttl=-1)
    assert await store.get(place + "1") is None
    assert await store.get(place + "2") is None


async def test_keys_lists_what_begins_with_the_prefix_over_both_kinds(store: Store) -> None:
    names = ["blob/t/1", "blob/t/2", "blob/u/1", "blobs/t/1", "look/t/1", "table/t/1", "table/t%/1", "table/t"]
    for name in names:
        await store.put(name, b"x")
    for prefix in ["", "b", "blob", "blob/", "blob/t/", "blobs", "table/t", "table/t/", "table/t%", "nothing/"]:
        assert await all_keys(store, prefix) == sorted(name for name in names if name.startswith(prefix)), prefix


async def test_keys_lists_more_than_a_page(store: Store) -> None:
    names = sorted(f"table/t/{number:04}" for number in range(1203))
    await asyncio.gather(*(store.put(name, b"x") for name in names))
    assert await all_keys(store, "table/") == names


async def test_keys_that_look_like_paths_and_patterns_stay_apart(store: Store, place: str) -> None:
    names = ["..", "../..", "/etc/passwd", "a*", "a?", "a%", "a_", "A_", "a\0b", "a\nb", "", " ", "x" * 900]
    for name in names:
        assert await store.add(place + name, name.encode()) is True
    for name in names:
        assert await store.get(place + name) == name.encode()
    assert await all_keys(store, place) == sorted(place + name for name in names)


KEYS = st.tuples(
    st.sampled_from(["blob/", "table/", "look/", "blob", ""]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60),
).map("".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.dictionaries(KEYS, st.binary(max_size=5000), max_size=6))
async def test_bytes_come_back_exactly(store: Store, contents: dict[str, bytes]) -> None:
    for key, value in contents.items():
        await store.put(key, value)
    for key, value in contents.items():
        assert await store.get(key) == value
    assert set(contents) <= set(await all_keys(store))


async def test_large_values_come_back_exactly(store: Store, place: str) -> None:
    values = {f"{place}{number}": secrets.token_bytes(2**20 + number) for number in range(5)}
    await asyncio.gather(*(store.put(key, value) for key, value in values.items()))
    for key, value in values.items():
        assert await store.get(key) == value


async def test_of_fifty_rivals_one_adds(store: Store, place: str) -> None:
    rivals = [f"rival {number}".encode() for number in range(50)]
    won = await asyncio.gather(*(store.add(place + "1", rival) for rival in rivals))
    assert won.count(True) == 1
    assert await store.get(place + "1") == rivals[won.index(True)]


async def test_of_fifty_rivals_one_swaps(store: Store, place: str) -> None:
    await store.put(place + "1", b"old")
    rivals = [f"rival {number}".encode() for number in range(50)]
    won = await asyncio.gather(*(store.swap(place + "1", b"old", rival) for rival in rivals))
    assert won.count(True) == 1
    assert await store.get(place + "1") == rivals[won.index(True)]


async def test_no_increment_by_swap_is_lost(store: Store, place: str) -> None:
    await store.put(place + "count", b"0")

    async def increment() -> None:
        while True:
            old = await store.get(place + "count")
            assert old is not None
            if await store.swap(place + "count", old, str(int(old) + 1).encode()):
                return

    await asyncio.gather(*(increment() for _ in range(25)))
    assert await store.get(place + "count") == b"25"


async def test_readers_beside_writers_never_see_a_part(store: Store, place: str) -> None:
    def sealed() -> bytes:
        content = secrets.token_bytes(200_000 + secrets.randbelow(200_000))
        return hashlib.sha256(content).digest() + content

    seen = 0
    writing = True

    async def write() -> None:
        for _ in range(10):
            await store.put(place + "1", sealed())

    async def read() -> None:
        nonlocal seen
        while writing:
            value = await store.get(place + "1")
            assert value is not None
            assert hashlib.sha256(value[32:]).digest() == value[:32]
            seen += 1
            await asyncio.sleep(0)

    await store.put(place + "1", sealed())
    readers = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.gather(*(write() for _ in range(3)))
    writing = False
    await asyncio.gather(*readers)
    assert seen > 0


async def test_a_sweep_takes_nothing_that_is_alive(store: Store, place: str) -> None:
    await store.put(place + "short", b"x", ttl=0.05)
    await store.put(place + "long", b"x", ttl=3600)
    await store.put(place + "unlimited", b"x")
    await asyncio.sleep(0.1)
    await store.sweep()
    assert await all_keys(store) == [place + "long", place + "unlimited"]
    assert await store.get(place + "long") == b"x"
    assert await store.get(place + "unlimited") == b"x"


async def test_after_close_every_method_says_so_and_closing_again_is_fine(store: Store, place: str) -> None:
    await store.put(place + "1", b"x")
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.get(place + "1")
    with pytest.raises(StoreError, match="closed"):
        await store.get_many([place + "1"])
    with pytest.raises(StoreError):
        await store.add_many([(place + "1", b"x")])
    with pytest.raises(StoreError, match="closed"):
        await store.put(place + "1", b"x")
    with pytest.raises(StoreError, match="closed"):
        await store.add(place + "1", b"x")
    with pytest.raises(StoreError, match="closed"):
        await store.swap(place + "1", b"x", b"y")
    with pytest.raises(StoreError, match="closed"):
        await store.delete(place + "1")
    with pytest.raises(StoreError, match="closed"):
        await store.sweep()
    with pytest.raises(StoreError, match="closed"):
        await all_keys(store)


async def test_closing_lets_what_was_asked_before_finish(store: Store, place: str) -> None:
    asked = [asyncio.create_task(store.put(f"{place}{number}", b"x" * 100_000)) for number in range(20)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*asked)
