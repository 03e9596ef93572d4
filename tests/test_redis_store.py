"""What only the store in Redis has: a server that may be slow, gone, full, emptied, or somebody else's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import re
import secrets
import socket
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cache.redis.store
from cache.blobs import Blobs
from cache.breaker import FAILURES
from cache.open import open_store
from cache.redis import RedisStore
from cache.redis.seal import HEAD_BYTES, Kind, Sealer
from cache.redis.server import OPEN_SECONDS, SMALL_BYTES, Command, Talk
from cache.store import Store, StoreError
from cache.tables import Tables
from tests.brain import looks, says
from tests.live import becomes, live, picture, shown, user
from tests.redis_server import HANG, RedisServer, redis_server

pytestmark = pytest.mark.anyio

SECRET = "hunter2-correct-horse"
LARGE = 3 * 2**20
SHORT = 0.05
"""Seconds for servers that never answer: the shorter, the sooner the test is done."""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def running() -> Iterator[RedisServer]:
    with redis_server() as started:
        yield started


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    running.client.flushall()
    return running


@asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[RedisStore]:
    store = RedisStore(url, **{"answer_seconds": HANG, **options})  # type: ignore[arg-type]
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    async with opened(server.url) as store:
        yield store


async def keys_of(store: Store) -> list[str]:
    return sorted([key async for key in store.keys("")])


METHODS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "get": lambda store: store.get("table/t/1"),
    "put": lambda store: store.put("table/t/1", b"x"),
    "put large": lambda store: store.put("blob/t/1", bytes(LARGE)),
    "add": lambda store: store.add("table/t/1", b"x"),
    "add large": lambda store: store.add("blob/t/1", bytes(LARGE)),
    "swap": lambda store: store.swap("table/t/1", b"x", b"y"),
    "delete": lambda store: store.delete("table/t/1"),
    "keys": keys_of,
    "sweep": lambda store: store.sweep(),
}


async def fails(work: Awaitable[object]) -> str:
    """The message of the `StoreError`, which shows no secret in any form."""
    async with asyncio.timeout(HANG):
        with pytest.raises(StoreError) as failure:
            await work
    whole = "".join(traceback.format_exception(failure.value, limit=0))
    assert SECRET not in whole
    assert failure.value.__context__ is None, "a traceback would lead to what the server said"
    return str(failure.value)


# Servers that are no good


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Other:
    """Something else that listens, and counts who comes."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.visitors = 0
        self.visits: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visitors += 1
        visit = asyncio.current_task()
        assert visit is not None
        self.visits.add(visit)
        try:
            with contextlib.suppress(OSError):
                await self._answer(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self.visits.remove(visit)


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[Other]:
    other = Other(answer)
    service = await asyncio.start_server(other.visit, "127.0.0.1", 0)
    other.port = service.sockets[0].getsockname()[1]
    try:
        yield other
    finally:
        service.close()
        await asyncio.sleep(0)  # whoever was accepted last has begun
        visits = set(other.visits)
        for visit in visits:
            visit.cancel()
        if visits:
            await asyncio.wait(visits, timeout=HANG)
        await service.wait_closed()


async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(2**16):
        pass


def always(reply: bytes, *, then_close: bool = False) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(2**16):
            writer.write(reply)
            await writer.drain()
            if then_close:
                return

    return answer


@pytest.mark.parametrize("method", METHODS)
async def test_a_server_that_refuses_is_a_store_error(method: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening, so that nobody else will
        async with opened(f"redis://127.0.0.1:{taken.getsockname()[1]}") as store:
            assert await fails(METHODS[method](store)) == "Redis is out of reach"


@pytest.mark.parametrize("method", METHODS)
async def test_a_server_whose_name_nobody_knows_is_a_store_error(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    async with opened(f"redis://:{SECRET}@redis.invalid:6379") as store:
        assert await fails(METHODS[method](store)) == "Redis is out of reach"


@pytest.mark.parametrize("method", METHODS)
async def test_a_server_that_accepts_and_never_answers_is_a_store_error(method: str) -> None:
    async with listening(never) as hole, opened(hole.url, answer_seconds=SHORT) as store:
        assert await fails(METHODS[method](store)) == "Redis did not answer in time"


@pytest.mark.parametrize("scheme", ["redis://:" + SECRET + "@", "rediss://", "rediss://:" + SECRET + "@"])
async def test_one_that_falls_silent_while_connecting_is_one_too(scheme: str) -> None:
    async with listening(never) as hole, opened(f"{scheme}127.0.0.1:{hole.port}", answer_seconds=SHORT) as store:
        for _ in range(FAILURES):
            assert await fails(store.get("table/t/1")) == "Redis did not answer in time"


async def test_a_frozen_server_is_a_store_error_and_a_thawed_one_works_again(server: RedisServer) -> None:
    async with opened(server.url, answer_seconds=SHORT) as store:
        server.freeze()
        try:
            await fails(store.put("table/t/1", b"x"))
        finally:
            server.thaw()
        async with opened(server.url) as patient:
            await patient.put("table/t/1", b"y")
            assert await patient.get("table/t/1") == b"y"


GARBAGE = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"+OK\r\n",
    b":5\r\n",
    b"$3\r\nabc\r\n",
    b"$-1\r\n",
    b"$-5\r\n",
    b"$abc\r\n",
    b"$999999999999\r\nabc",
    b"*-1\r\n",
    b"*2\r\n$1\r\n0\r\n*1\r\n:1\r\n",
    b"*1\r\n$1\r\n0\r\n",
    b"*1\r\n" * 5000,
    b"*99999999\r\n",
    b"\0" * 200_000,
    b"x" * 200_000,
    b"\xff\xfe\r\n",
    b"\r\n",
    b"-\r\n",
    b"-ERR\r\n",
    b"-WRONGTYPE\r\n",
    b"-\xff\xff\r\n",
    b">3\r\n+message\r\n+a\r\n+b\r\n",
    b"",
]


async def outcome(work: Awaitable[object]) -> object:
    try:
        return await work
    except StoreError as error:
        return error


@pytest.mark.parametrize("close", [False, True], ids=["stays", "hangs up"])
@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage[:16]))
async def test_garbage_is_never_anything_but_a_store_error_or_nothing(garbage: bytes, close: bool) -> None:
    async with listening(always(garbage, then_close=close)) as other:
        for method in METHODS.values():
            async with opened(other.url, answer_seconds=SHORT) as store:
                got = await outcome(method(store))
                assert isinstance(got, StoreError) or got in (None, False, 0, []) or type(got) in (bool, int), got
        async with opened(other.url, answer_seconds=SHORT) as store:
            got = await outcome(store.get("table/t/1"))
            assert got is None or isinstance(got, StoreError)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    garbage=st.lists(
        st.sampled_from(
            [b"+OK\r\n", b"$-1\r\n", b"*0\r\n", b":1\r\n", b"+QUEUED\r\n", b"*3\r\n", b"$1\r\n0\r\n", b"$0\r\n\r\n"]
        )
        | st.binary(max_size=20),
        max_size=12,
    ).map(b"".join)
)
async def test_no_bytes_make_it_fail_in_another_way(garbage: bytes) -> None:
    async with listening(always(garbage, then_close=True)) as other:
        for method in METHODS.values():
            async with opened(other.url, answer_seconds=SHORT) as store:
                await outcome(method(store))


@pytest.mark.parametrize("claimed", [10**18, -1, 2**29 + 1])
async def test_a_server_that_claims_an_absurd_size_is_not_asked_for_all_of_it(claimed: int) -> None:
    start = Sealer("").seal("blob/t/1", bytes(LARGE), Kind.IDLE)[: HEAD_BYTES + SMALL_BYTES]
    looked_at = b"$%d\r\n%s\r\n:%d\r\n:-1\r\n"
    honest = looked_at % (len(start), start, LARGE + HEAD_BYTES)
    async with listening(always(looked_at % (len(start), start, claimed))) as other, opened(other.url) as store:
        assert "no Redis" in await fails(store.get("blob/t/1"))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            queued = b"+OK\r\n" + b"+QUEUED\r\n" * (data.count(b"GETRANGE") + 1)
            replies = b"*%d\r\n:%d\r\n" % (data.count(b"GETRANGE") + 1, claimed) + b"$0\r\n\r\n" * data.count(
                b"GETRANGE"
            )
            writer.write(b"+PONG\r\n" if b"PING" in data else queued + replies if b"MULTI" in data else honest)

    async with listening(answer) as other, opened(other.url) as store:
        assert "no Redis" in await fails(store.get("blob/t/1"))


async def test_what_a_server_says_reaches_no_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for word in ("ERR", "WRONGPASS", "NOAUTH", "NOPERM", "LOADING", "READONLY", "MISCONF", SECRET):
        refusal = f"-{word} args beginning with 'AUTH' '{SECRET}'\r\n".encode()
        async with listening(always(refusal)) as other:
            async with opened(f"redis://:{SECRET}@127.0.0.1:{other.port}") as store:
                await fails(store.get("table/t/1"))
            async with opened(other.url) as store:
                await fails(store.put("table/t/1", b"x"))
                assert SECRET not in repr(store)
    assert SECRET not in caplog.text


# The breaker


async def test_after_some_failures_nobody_comes_until_one_may_probe() -> None:
    clock = Clock()
    async with listening(never) as hole, opened(hole.url, answer_seconds=SHORT, clock=clock) as store:
        for _ in range(FAILURES):
            await fails(store.get("table/t/1"))
        await becomes(lambda: hole.visitors == FAILURES)
        for method in METHODS.values():
            assert "left alone for a while: Redis did not answer in time" in await fails(method(store))
        clock.now += OPEN_SECONDS - 0.01
        await fails(store.get("table/t/1"))
        assert hole.visitors == FAILURES
        clock.now += 0.01
        await asyncio.gather(*(fails(store.get("table/t/1")) for _ in range(50)))
        await becomes(lambda: hole.visitors == FAILURES + 1)
        await fails(store.get("table/t/1"))
        assert hole.visitors == FAILURES + 1


async def test_of_hundreds_at_once_none_waits_behind_those_that_fail() -> None:
    async with listening(never) as hole, opened(hole.url, answer_seconds=SHORT) as store:
        await asyncio.gather(*(fails(store.get(f"table/t/{number}")) for number in range(500)))
        assert hole.visitors < 50


async def test_a_server_that_dies_and_comes_back_is_used_again() -> None:
    clock = Clock()
    with redis_server() as server:
        async with opened(server.url, clock=clock) as store:
            await store.put("table/t/1", b"x")
            server.kill()
            for _ in range(FAILURES):
                await fails(store.get("table/t/1"))
            server.start()
            assert "left alone" in await fails(store.get("table/t/1"))
            clock.now += OPEN_SECONDS
            assert await store.get("table/t/1") is None
            await store.put("table/t/1", b"y")
            assert await store.get("table/t/1") == b"y"


async def test_a_restart_between_two_calls_goes_unnoticed() -> None:
    with redis_server() as server:
        async with opened(server.url) as store:
            await asyncio.gather(*(store.put(f"table/t/{number}", b"x") for number in range(20)))
            server.kill()
            server.start()
            await asyncio.sleep(0.01)  # the connections that have ended are seen to have
            assert await store.get("table/t/1") is None
            assert await store.add("table/t/1", b"y") is True


async def test_a_caller_that_hangs_up_is_no_failure_and_leaves_no_answer_behind(server: RedisServer) -> None:
    async with opened(server.url) as store:
        await store.put("table/t/mine", b"mine")
        await store.put("table/t/other", b"other")
        for _ in range(2 * FAILURES):
            server.freeze()
            try:
                asking = asyncio.create_task(store.get("table/t/other"))
                await asyncio.sleep(0.01)
                asking.cancel()
                await asyncio.wait([asking])
                assert asking.cancelled()
            finally:
                server.thaw()
            assert await store.get("table/t/mine") == b"mine"


# A server that others use, or that has its own mind


async def test_a_flush_between_calls_is_a_loss_and_nothing_else(store: RedisStore, server: RedisServer) -> None:
    await store.put("table/t/1", b"x")
    await store.put("blob/t/1", bytes(LARGE))
    server.client.flushall()
    assert await store.get("table/t/1") is None
    assert await store.get("blob/t/1") is None
    assert await store.swap("table/t/1", b"x", b"y") is False
    assert await store.delete("table/t/1") is False
    assert await store.add("table/t/1", b"z") is True
    assert await keys_of(store) == ["table/t/1"]


async def test_a_full_server_says_so_and_can_still_be_read() -> None:
    with redis_server("--maxmemory", "2mb", "--maxmemory-policy", "noeviction") as server:
        async with opened(server.url) as store:
            await store.put("table/t/1", b"x")
            filler = 0
            while not isinstance(said := await outcome(store.put(f"table/t/f{filler}", bytes(60_000))), StoreError):
                filler += 1
            assert str(said).startswith("Redis is full: raise its maxmemory")
            for _ in range(2 * FAILURES):
                assert "full" in await fails(store.put("blob/t/1", bytes(LARGE)))
                assert "full" in await fails(store.add("table/t/2", bytes(50_000)))
                assert "full" in await fails(store.swap("table/t/1", b"x", bytes(50_000)))
                assert await store.get("table/t/1") == b"x"
            assert await store.delete("table/t/1") is True


async def test_a_conversation_goes_on_with_a_full_server() -> None:
    with redis_server("--maxmemory", "1mb", "--maxmemory-policy", "noeviction") as server:
        async with opened(server.url) as store:
            _, (number,), _ = await Tables(store).number("t", "c", [("a" * 64, None)], lambda *_: None)
            assert number == 1


async def test_something_else_under_a_key_is_no_value_and_gives_way(store: RedisStore, server: RedisServer) -> None:
    for name in ("get", "put", "add", "swap", "delete"):
        server.client.rpush(f"chiasm:table/t/{name}", "a", "b")
    assert await keys_of(store) == []
    assert await store.swap("table/t/swap", b"", b"x") is False
    assert await store.delete("table/t/delete") is False
    assert await store.get("table/t/get") is None
    await store.put("table/t/put", b"x")
    assert await store.get("table/t/put") == b"x"
    assert await store.add("table/t/add", b"x") is True
    assert await store.get("table/t/add") == b"x"
    assert await keys_of(store) == ["table/t/add", "table/t/put"]


async def test_every_key_is_under_one_prefix_and_others_are_left_alone(store: RedisStore, server: RedisServer) -> None:
    server.client.set("table/t/1", b"theirs")
    server.client.set("chiasm", b"theirs")
    server.client.set("chiasm*", b"theirs")
    await store.put("table/t/1", b"ours")
    await store.sweep()
    assert await keys_of(store) == ["table/t/1"]
    assert sorted(server.names()) == [b"chiasm", b"chiasm*", b"chiasm:table/t/1", b"table/t/1"]
    assert server.client.get("table/t/1") == b"theirs"


async def test_the_rights_that_the_security_page_names_are_enough(server: RedisServer) -> None:
    page = (Path(__file__).parent.parent / "SECURITY.md").read_text()
    [rights] = re.findall(r"^ACL SETUSER chiasm on >\S+ (.+)$", page, re.MULTILINE)
    server.admin("ACL", "SETUSER", "chiasm", "reset", "on", ">" + SECRET, *rights.split())
    assert "@all" not in rights
    async with opened(server.url_with(SECRET, "chiasm"), retention_seconds=1000) as store:
        for name in ("table/t/1", "blob/t/1"):
            for value in (b"x", bytes(LARGE)):
                await store.put(name, value)
                assert await store.swap(name, value, value, ttl=100) is True
                assert await store.swap(name, b"else", value) is False
                assert await store.add(name, value) is False
                assert await store.get(name) == value
                server.client.pexpire("chiasm:" + name, 2_000_000)
                await store.sweep()
                assert await store.get(name) == value
                server.client.setrange("chiasm:" + name, HEAD_BYTES, b"#")
                assert await store.get(name) is None
                assert await store.add(name, value) is True
                assert await store.delete(name) is True
                assert await keys_of(store) == []


async def test_a_user_without_rights_is_told_so(server: RedisServer) -> None:
    server.admin("ACL", "SETUSER", "nobody", "reset", "on", ">" + SECRET)
    async with opened(server.url_with(SECRET, "nobody")) as store:
        assert "does not allow" in await fails(store.get("table/t/1"))
    async with opened(server.url_with(SECRET + "x", "nobody")) as store:
        assert "refuses the name or the password" in await fails(store.get("table/t/1"))


# Values that are not what was put


def raw(server: RedisServer, key: str) -> bytes:
    value = server.client.get("chiasm:" + key)
    assert isinstance(value, bytes)
    return value


async def test_a_byte_changed_anywhere_makes_a_value_unknown(store: RedisStore, server: RedisServer) -> None:
    await store.put("table/t/1", b"value")
    good = raw(server, "table/t/1")
    for place in range(len(good)):
        bad = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
        server.client.set("chiasm:table/t/1", bad)
        assert await store.swap("table/t/1", b"value", b"x") is False
        assert await store.get("table/t/1") is None
    for bad in (good[:-1], good + b"x", good[1:], b"x", b"value", pickle.dumps("value"), bytes(HEAD_BYTES)):
        server.client.set("chiasm:table/t/1", bad)
        assert await store.delete("table/t/1") is False
        server.client.set("chiasm:table/t/1", bad)
        assert await store.get("table/t/1") is None
        server.client.set("chiasm:table/t/1", bad)
        assert await store.add("table/t/1", b"new") is True
        assert await store.get("table/t/1") == b"new"


@pytest.mark.parametrize("place", [0, 20, HEAD_BYTES, SMALL_BYTES + HEAD_BYTES, LARGE // 2, LARGE + HEAD_BYTES - 1])
async def test_a_large_value_with_a_changed_byte_is_unknown_and_not_in_the_way(
    store: RedisStore, server: RedisServer, place: int
) -> None:
    picture = secrets.token_bytes(LARGE)
    blobs = Blobs(store)
    digest = await blobs.put("t", picture)
    [name] = server.names()
    before = raw(server, name.removeprefix(b"chiasm:").decode())[place]
    server.client.setrange(name, place, bytes([before ^ 1]))
    assert await blobs.get("t", digest) is None
    await blobs.put("t", picture)
    assert await blobs.get("t", digest) == picture


async def test_a_value_moved_to_another_key_is_unknown(store: RedisStore, server: RedisServer) -> None:
    await store.put("table/alice/1", b"hers")
    server.client.set("chiasm:table/bob/1", raw(server, "table/alice/1"))
    assert await store.get("table/bob/1") is None
    assert await store.get("table/alice/1") == b"hers"


def test_the_key_and_the_content_cannot_lend_each_other_bytes() -> None:
    sealer = Sealer("")
    assert sealer.open("ab", sealer.seal("a", b"bc", Kind.IDLE)) is None
    assert sealer.open("a", sealer.seal("a", b"bc", Kind.IDLE)) == b"bc"


async def test_who_does_not_know_the_password_cannot_make_a_value(server: RedisServer) -> None:
    server.admin("ACL", "SETUSER", "ours", "reset", "on", ">" + SECRET, "~*", "+@all")
    async with opened(server.url_with(SECRET, "ours")) as ours, opened(server.url) as theirs:
        await theirs.put("table/t/1", b"poison")
        await theirs.put("blob/t/1", bytes(LARGE))
        assert await theirs.get("table/t/1") == b"poison"
        assert await ours.get("table/t/1") is None
        assert await ours.get("blob/t/1") is None
        assert await ours.add("table/t/1", b"good") is True
        assert await theirs.get("table/t/1") is None


async def test_a_damaged_value_is_not_cleared_once_a_good_one_stands_there(
    store: RedisStore, server: RedisServer
) -> None:
    """Looking and clearing are two steps, and a rival comes in between."""
    server.client.set("chiasm:table/t/1", b"damaged")
    look = store._look

    async def look_and_be_late(key: str) -> object:
        seen = await look(key)
        await rival.put(key, b"good")
        return seen

    async with opened(server.url) as rival:
        store._look = look_and_be_late  # type: ignore[method-assign, assignment]
        assert await store.get("table/t/1") is None
        assert await rival.get("table/t/1") == b"good"


# Times to live


def left(server: RedisServer, key: str) -> int:
    milliseconds = server.client.pttl("chiasm:" + key)
    assert isinstance(milliseconds, int)
    return milliseconds


USES: dict[str, Callable[[Store, str, bytes], Awaitable[object]]] = {
    "get": lambda store, key, value: store.get(key),
    "add": lambda store, key, value: store.add(key, value),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("size", [10, LARGE])
async def test_a_use_renews_the_retention_time_once_a_tenth_has_passed(
    server: RedisServer, use: str, size: int
) -> None:
    async with opened(server.url, retention_seconds=10_000) as store:
        value = bytes(size)
        await store.put("blob/t/1", value)
        assert 9_900_000 < left(server, "blob/t/1") <= 10_000_000
        server.client.pexpire("chiasm:blob/t/1", 9_200_000)
        await USES[use](store, "blob/t/1", value)
        assert left(server, "blob/t/1") <= 9_200_000
        server.client.pexpire("chiasm:blob/t/1", 8_900_000)
        await USES[use](store, "blob/t/1", value)
        assert left(server, "blob/t/1") > 9_900_000


async def test_a_time_to_live_is_not_renewed_and_the_shorter_limit_wins(server: RedisServer) -> None:
    async with opened(server.url, retention_seconds=1000) as store:
        await store.put("table/t/short", b"x", ttl=100)
        await store.put("table/t/long", b"x", ttl=5000)
        for _ in range(2):
            assert left(server, "table/t/short") <= 100_000
            assert 900_000 < left(server, "table/t/long") <= 1_000_000
            assert await store.get("table/t/short") == b"x"
            assert await store.add("table/t/long", b"y") is False
        server.client.pexpire("chiasm:table/t/long", 500_000)
        await store.get("table/t/long")
        assert left(server, "table/t/long") <= 500_000


async def test_a_renewal_never_lengthens_what_was_put_meanwhile(server: RedisServer) -> None:
    async with opened(server.url, retention_seconds=1000) as store, opened(server.url) as rival:
        await store.put("table/t/1", b"old")
        server.client.pexpire("chiasm:table/t/1", 500_000)
        look = store._look

        async def look_and_be_late(key: str) -> object:
            seen = await look(key)
            await rival.put(key, b"new", ttl=60)
            return seen

        store._look = look_and_be_late  # type: ignore[method-assign, assignment]
        assert await store.get("table/t/1") == b"old"
        assert left(server, "table/t/1") <= 60_000


async def test_a_renewal_that_fails_spoils_no_reading(server: RedisServer) -> None:
    async with opened(server.url, retention_seconds=1000) as store:
        await store.put("table/t/1", b"x")
        server.client.pexpire("chiasm:table/t/1", 500_000)
        server.admin("ACL", "SETUSER", "default", "-pexpire")
        try:
            assert await store.get("table/t/1") == b"x"
        finally:
            server.admin("ACL", "SETUSER", "default", "+pexpire")


async def test_a_sweep_shortens_what_a_longer_retention_time_left(server: RedisServer) -> None:
    async with opened(server.url) as forever, opened(server.url, retention_seconds=5000) as longer:
        await forever.put("table/t/forever", b"x")
        await longer.put("table/t/longer", b"x")
        await longer.put("table/t/timed", b"x", ttl=4000)
        await longer.put("table/t/short", b"x", ttl=10)
        assert left(server, "table/t/forever") == -1
    async with opened(server.url, retention_seconds=1000) as store:
        assert await store.sweep() == 3
        for name in ("forever", "longer", "timed"):
            assert 900_000 < left(server, "table/t/" + name) <= 1_000_000
        assert left(server, "table/t/short") <= 10_000
        assert await store.sweep() == 0


async def test_what_lay_idle_for_the_retention_time_is_gone(server: RedisServer) -> None:
    async with opened(server.url, retention_seconds=0.05) as store:
        await store.put("table/t/1", b"x")
        await asyncio.sleep(0.1)
        assert await store.get("table/t/1") is None
        assert await keys_of(store) == []


# Large values


async def test_tens_of_megabytes_come_back_from_another_store(server: RedisServer) -> None:
    pictures = [secrets.token_bytes(20 * 2**20 + number) for number in range(3)]
    async with opened(server.url) as one, opened(server.url) as other:
        digests = await asyncio.gather(*(Blobs(one).put("t", picture) for picture in pictures))
        found = await asyncio.gather(*(Blobs(other).get("t", digest) for digest in digests))
        assert found == pictures
        assert await one.swap("blob/t/" + digests[0], pictures[0], b"small") is True
        assert await one.swap("blob/t/" + digests[0], b"small", pictures[1]) is True
        assert await other.get("blob/t/" + digests[0]) == pictures[1]


async def test_an_add_of_a_large_value_that_is_there_carries_nothing_of_it(
    store: RedisStore, server: RedisServer
) -> None:
    await store.add("blob/t/1", bytes(LARGE))
    before = server.client.info("stats")
    assert await store.add("blob/t/1", bytes(LARGE)) is False
    after = server.client.info("stats")
    assert after["total_net_input_bytes"] - before["total_net_input_bytes"] < 10_000
    assert after["total_net_output_bytes"] - before["total_net_output_bytes"] < 2 * SMALL_BYTES


@asynccontextmanager
async def slow_way_to(server: RedisServer, seconds: float) -> AsyncIterator[str]:
    """A url whose way to the server stops for `seconds` once a connection has carried a megabyte."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carried = 0
        stopped = False
        while data := await reader.read(2**16):
            carried += len(data)
            if carried > 2**20 and not stopped:
                stopped = True
                await asyncio.sleep(seconds)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))
        finally:
            far_writer.close()

    async with listening(answer) as other:
        yield other.url


async def test_the_limit_of_a_large_value_grows_with_its_size(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.redis.server.BYTES_PER_SECOND", LARGE / HANG)
    async with slow_way_to(server, 2.0) as url, opened(url, answer_seconds=1.0) as store:
        await store.put("blob/t/1", bytes(LARGE))
        assert await store.get("blob/t/1") == bytes(LARGE)
    monkeypatch.setattr("cache.redis.server.BYTES_PER_SECOND", 2.0**40)
    async with slow_way_to(server, HANG) as url, opened(url, answer_seconds=1.0) as store:
        assert await fails(store.put("blob/t/2", bytes(LARGE))) == "Redis did not answer in time"
        assert await fails(store.get("blob/t/1")) == "Redis did not answer in time"


# Several machines


async def test_of_rivals_on_two_stores_one_adds_and_one_swaps(server: RedisServer) -> None:
    async with opened(server.url) as one, opened(server.url) as other:
        for round_ in range(5):
            key = f"table/t/{round_}"
            rivals = [f"rival {number}".encode() for number in range(60)]
            stores = [one, other] * 30
            won = await asyncio.gather(*(store.add(key, rival) for store, rival in zip(stores, rivals, strict=True)))
            assert won.count(True) == 1
            first = rivals[won.index(True)]
            won = await asyncio.gather(
                *(store.swap(key, first, b"then " + rival) for store, rival in zip(stores, rivals, strict=True))
            )
            assert won.count(True) == 1
            assert await one.get(key) == await other.get(key) == b"then " + rivals[won.index(True)]


async def test_two_routers_give_each_image_of_a_conversation_one_number_of_its_own(server: RedisServer) -> None:
    async with opened(server.url) as one, opened(server.url) as other:
        routers = [Tables(one), Tables(other)]
        digests = [f"{number:064x}" for number in range(16)]

        async def number(router: Tables, digest: str) -> int:
            _, (given,), _ = await router.number("tenant", "conversation", [(digest, None)], lambda *_: None)
            return given

        given = await asyncio.gather(*(number(routers[place % 2], digest) for place, digest in enumerate(digests)))
        assert sorted(given) == list(range(1, len(digests) + 1))
        for router in routers:
            table = await router.get("tenant", "conversation")
            assert [table.recent[digest] for digest in digests] == given


async def test_a_renewal_by_a_rival_does_not_make_a_swap_fail(store: RedisStore, server: RedisServer) -> None:
    await store.put("table/t/1", b"old")
    exchanges = 0
    exchange = Talk.exchange

    async def late(talk: Talk, *commands: Command) -> list[object] | None:
        nonlocal exchanges
        exchanges += 1
        if exchanges == 1:
            server.client.pexpire("chiasm:table/t/1", 500_000)
        return await exchange(talk, *commands)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Talk, "exchange", late)
        assert await store.swap("table/t/1", b"old", b"new") is True
    assert exchanges == 2
    assert await store.get("table/t/1") == b"new"


# Addresses


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"redis://:{SECRET}/x@h", "cannot be read"),
        (f"redis://:12/{SECRET}@h", "number of a database"),
        (f"redis://:1#{SECRET}@h", "must not hold a #"),
        (f"redis://h:{SECRET}", "cannot be read"),
        (f"redis://h/{SECRET}", "number of a database"),
        (f"redis://h?db={SECRET}", "cannot be read"),
        (f"redis://h?{SECRET}=1", "no others"),
        (f"redis://:{SECRET}@h?socket_timeout=60", "no others"),
        (f"redis://:{SECRET}@h?retry_on_timeout=yes", "no others"),
        (f"redis://:{SECRET}@h?ssl_cert_reqs=none", "rediss://"),
        (f"redis://[{SECRET}", "cannot be read"),
        (f"rediss://:{SECRET}@h?ssl_cert_reqs={SECRET}", "cannot be used"),
        (f"rediss://:{SECRET}@h?ssl_ca_certs=/{SECRET}", "cannot be used: No such file"),
        (f"unix://:{SECRET}@", "path of a socket"),
        (f"http://:{SECRET}@h", "cannot be read"),
        (SECRET, "cannot be read"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_shown(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=re.escape(words)) as refused:
        open_store("redis", "", url, 1, 1)
    assert SECRET not in "".join(traceback.format_exception(refused.value))
    assert refused.value.__context__ is None


async def test_a_unix_socket_and_another_database_work(server: RedisServer) -> None:
    async with opened(f"unix://{server.socket}?db=2") as store, opened(f"redis://127.0.0.1:{server.port}/2") as same:
        await store.put("table/t/1", b"x")
        assert await same.get("table/t/1") == b"x"
    async with opened(server.url) as other:
        assert await other.get("table/t/1") is None


async def test_tls_works_and_a_certificate_that_nobody_vouches_for_does_not(tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    arguments = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    with redis_server(*arguments, scheme="rediss") as server:
        async with opened(f"{server.url}?ssl_ca_certs={certificate}") as store:
            await store.put("blob/t/1", bytes(LARGE))
            assert await store.get("blob/t/1") == bytes(LARGE)
        async with opened(server.url) as store:
            assert "does this machine trust its certificate" in await fails(store.get("blob/t/1"))


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=HANG,
    )
    return certificate, key


def test_a_missing_client_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "redis" or name.startswith("cache.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(StoreError, match=re.escape("not installed: pip install 'chiasm[redis]'")):
        open_store("redis", "", f"redis://:{SECRET}@127.0.0.1", 1, 1)


# The whole application


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of real use could strike on a machine that is busy with other tests."""
    monkeypatch.setattr("cache.redis.store.ANSWER_SECONDS", HANG)


@pytest.mark.live
@pytest.mark.usefixtures("patient")
async def test_two_routers_on_one_redis_are_one_to_the_client(server: RedisServer) -> None:
    """Any of them may get the next request: numbers go on, and pictures that only the other saw can be looked at."""
    server.admin("ACL", "SETUSER", "router", "reset", "on", ">" + SECRET, "~*", "+@all")
    cat, dog = picture(1), picture(2)
    talk = {"x-chiasm-conversation": "a-long-talk"}
    table = {"kind": "redis", "url": server.url_with(SECRET, "router")}
    async with live(store=table) as one, live(store=table) as other:
        one.brain.will(says("Hello."))
        await one.chat(user("Look.", shown(cat)), headers=talk)
        other.brain.will(says(looks(1, "What was it?")), says("A cat."))
        answer = await other.chat(user("And this?", shown(dog)), headers=talk, stream=True)
        assert answer.text == "A cat."
        assert "[Image #2]" in str(other.brain.asked[0].messages[-1]["content"])
        assert len(other.eyes.looks[0].pictures) == 1
        assert (await other.get("/readyz")).status == 200
    names = server.names()
    assert len([name for name in names if name.startswith(b"chiasm:blob/")]) == 2
    assert all(name.startswith(b"chiasm:") and 0 < server.client.pttl(name) <= 168 * 3_600_000 for name in names)


@pytest.mark.live
@pytest.mark.usefixtures("patient")
async def test_an_answer_is_the_same_when_redis_dies_in_the_middle_of_a_conversation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with redis_server() as server:
        url = server.url.replace("://", f"://:{SECRET}@")
        server.admin("CONFIG", "SET", "requirepass", SECRET)
        async with live(store={"kind": "redis", "url": url}) as house:
            house.brain.will(*(script for _ in range(3) for script in (says(looks(1, "What?")), says("A cat."))))
            asked = user("What is it?", shown(picture(1)))
            assert (await house.chat(asked, stream=True)).text == "A cat."
            assert server.client.dbsize() > 0
            server.kill()
            for _ in range(2):
                assert (await house.chat(asked, stream=True)).text == "A cat."
            ready = await house.get("/readyz")
            assert (ready.status, ready.json["status"]) == (503, "degraded")
            assert ready.json["checks"]["store"] == "not usable"
            assert SECRET not in ready.body.decode()
    assert SECRET not in caplog.text


# A listing without end


@pytest.mark.parametrize("method", ["keys", "sweep"])
@pytest.mark.parametrize("cursors", ["one", "ever others"])
async def test_a_server_that_lists_without_end_is_not_listened_to_for_ever(
    method: str, cursors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.redis.store, "MOST_PAGES", 50)
    asked = 0

    async def ask(*commands: Command, read: Callable[[list[object]], object], size: int = 0) -> object:
        nonlocal asked
        if commands[0][0] != "SCAN":
            return read([1_000 for _ in commands])
        asked += 1
        return read([[b"7" if cursors == "one" else b"%d" % asked, [b"chiasm:x"]]])

    async with opened("redis://127.0.0.1:1") as store:
        monkeypatch.setattr(store._server, "ask", ask)
        assert await fails(METHODS[method](store)) == "Redis lists its keys without coming to an end"
    assert asked == (2 if cursors == "one" else 50)
