"""The store itself: what the contract's methods are in the server's commands."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from cache.redis.address import read_address
from cache.redis.seal import HEAD_BYTES, Kind, Sealer, kind_of
from cache.redis.server import (
    ANSWER_SECONDS,
    SLICE_BYTES,
    SMALL_BYTES,
    Command,
    Server,
    Talk,
    accepted,
    done,
    items,
    number,
    text,
)
from cache.store import StoreError

T = TypeVar("T")

PREFIX = b"chiasm:"

PAGE = 500
"""Keys looked at in one go while listing: a fraction of a millisecond of the server, which does nothing else then."""

MOST_PAGES = 200_000
"""A hundred million keys, which take more memory than such a server has.  What lists more is no Redis."""

_FIRST = HEAD_BYTES + SMALL_BYTES
"""Bytes of a value that every look at it brings along: all of a small one."""

_FOREVER = 100 * 365 * 86400.0
"""Seconds from which on a life is kept without an end; the server's count of milliseconds has one."""

_RENEW = 0.9
"""A use renews the retention time once a tenth of it has passed: one write in 17 hours at the default week."""

_MOST_BYTES = 2**29
"""The longest string that there is in Redis; what claims to be longer would be asked for in millions of pieces."""

_SPECIAL = re.compile(rb"[*?\[\]\\^]")
"""What has a meaning in a pattern of SCAN."""

_ATTEMPTS = 32
"""More rivals than this on one key at one moment is not traffic but a fault."""

_SEALERS = 2
"""Threads that may compute seals at once: a large value takes milliseconds, and the other processors have streams."""


_MANY = 500
"""Keys that are looked at in one talk: half a megabyte of small records at most."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A look at a value."""

    start: bytes | None
    """Its first bytes; empty where there is none, `None` where it is no string."""
    size: int
    left: int
    """Milliseconds; negative without an end."""

    @property
    def absent(self) -> bool:
        return self.start == b""

    @property
    def whole(self) -> bool:
        return self.start is None or len(self.start) < _FIRST


class RedisStore:
    """`Store` on the Redis or Valkey server at `url` (`redis://`, `rediss://` with TLS, `unix://`), for any number of
    machines.

    `retention_seconds` is the idle time after which an entry goes (a shorter `ttl` wins); how much is kept is the
    server's own affair (`maxmemory`).  Raises `StoreError` for a url that cannot be used.  The server is asked for
    nothing before it is needed: `answer_seconds` and `clock` are those of `Server`.
    """

    def __init__(
        self,
        url: str,
        *,
        retention_seconds: float = math.inf,
        answer_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        address = read_address(url)
        self._server = Server(
            address, answer_seconds=ANSWER_SECONDS if answer_seconds is None else answer_seconds, clock=clock
        )
        self._sealer = Sealer(address.password)
        self._sealers = CapacityLimiter(_SEALERS)
        self._retention = retention_seconds
        self._closed = False
        self._asked = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<RedisStore {self._server!r}{' closed' if self._closed else ''}>"

    async def get(self, key: str) -> bytes | None:
        with self._open():
            return await self._of(key, await self._look(key))

    async def _of(self, key: str, seen: _Seen) -> bytes | None:
        """The value of which this was seen."""
        if seen.absent:
            return None
        start = seen.start or b""
        value: bytes | None = None
        if kind_of(start, seen.size) is not None:
            pieces = [start] if seen.whole else await self._pieces(key, seen.size)
            value = await self._unsealed(key, pieces)
        if value is None:
            # Out of the way of an `add`, which believes the head of a large value.
            with suppress(StoreError):
                await self._clear(key, seen)
        else:
            await self._use(key, seen)
        return value

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for first in range(0, len(keys), _MANY):
            found += await self._get_page(keys[first : first + _MANY])
        return found

    async def _get_page(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._open():
            looks = [command for key in keys for command in _look(key)]
            seen = await self._server.ask(*looks, read=_all_seen)
            return [await self._of(key, one) for key, one in zip(keys, seen, strict=True)]

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        with self._open():
            sealed = await self._sealed(key, value, _kind(ttl))
            await self._server.ask(self._set(key, sealed, ttl), read=_done, size=len(sealed))

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        with self._open():
            sealed: bytes | None = None
            for _ in range(_ATTEMPTS):
                # First, so that a large value is not sent for nothing, and a damaged one does not stay in the way.
                seen = await self._look(key)
                if self._sound(key, seen):
                    await self._use(key, seen)
                    return False
                if not seen.absent:
                    await self._clear(key, seen)
                if _gone_at_once(ttl):
                    return True
                if sealed is None:
                    sealed = await self._sealed(key, value, _kind(ttl))
                if await self._server.ask((*self._set(key, sealed, ttl), "NX"), read=_done, size=len(sealed)):
                    return True
            raise _too_many_rivals()

    async def add_many(self, values: Sequence[tuple[str, bytes]], *, ttl: float | None = None) -> list[bool]:
        return [await self.add(key, value, ttl=ttl) for key, value in values]

    async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
        with self._open():
            # The same bytes have the same seal, so what is there is compared as it is.
            expected = [await self._sealed(key, old, kind) for kind in Kind]
            sealed = await self._sealed(key, new, _kind(ttl))

            async def attempt(talk: Talk) -> bool | None:
                _, *replies = await talk.ask(("WATCH", _name(key)), *_look(key))
                seen = _seen(replies)
                current = seen.start
                if not seen.whole and seen.size == len(expected[0]):
                    current = b"".join(map(text, await talk.ask(*_ranges(key, seen.size))))
                if current not in expected:
                    await talk.ask(("UNWATCH",))
                    return False
                return None if await talk.exchange(self._set(key, sealed, ttl)) is None else True

            return await self._until_alone(attempt, size=max(len(old), len(new)))

    async def delete(self, key: str) -> bool:
        with self._open():
            commands = (*_look(key), ("UNLINK", _name(key)))
            seen, removed = await self._server.ask(
                *commands, read=lambda replies: (_seen(replies[:-1]), number(replies[-1]))
            )
            return removed == 1 and self._sound(key, seen)

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        shown: set[bytes] = set()  # while its table grows, the server may name a key twice
        async for page in self._pages(prefix):
            for name in page:
                if name not in shown:
                    shown.add(name)
                    yield name[len(PREFIX) :].decode(errors="replace")

    async def sweep(self) -> int:
        """Shorten the lives that an earlier run with a longer retention time gave, and say of how many; the rest the
        server does by itself."""
        shortened = 0
        async for page in self._pages(""):
            with self._open():
                lefts = await self._server.ask(*[("PTTL", name) for name in page], read=_numbers)
                for name, left in zip(page, lefts, strict=True):
                    if self._too_long(left):
                        shortened += await self._renew(name)
        return shortened

    async def close(self) -> None:
        """Let go of the connections, after what has been asked for is done."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._idle.wait()
        finally:
            await self._server.close()

    @contextmanager
    def _open(self) -> Iterator[None]:
        if self._closed:
            raise StoreError("the store in Redis is closed; open a new one")
        self._asked += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._asked -= 1
            if not self._asked:
                self._idle.set()

    async def _look(self, key: str) -> _Seen:
        return await self._server.ask(*_look(key), read=_seen)

    async def _pieces(self, key: str, size: int) -> list[bytes]:
        """All of a large value, in pieces of one moment; none where it has gone or is no string any more."""
        for _ in range(_ATTEMPTS):
            commands = (("MULTI",), ("STRLEN", _name(key)), *_ranges(key, size), ("EXEC",))
            now, pieces = await self._server.ask(*commands, read=_size_and_pieces, size=size)
            if now <= size:
                return pieces
            size = now
        raise _too_many_rivals()

    async def _use(self, key: str, seen: _Seen) -> None:
        """Renew the retention time where that is due.  If it fails, what was found is good all the same."""
        if self._due(kind_of(seen.start or b"", seen.size), seen.left):
            with suppress(StoreError):
                await self._renew(_name(key))

    def _due(self, kind: Kind | None, left: int) -> bool:
        return self._too_long(left) or (kind is Kind.IDLE and left < _RENEW * self._retention * 1000)

    def _too_long(self, left: int) -> bool:
        limit = _milliseconds(self._retention)
        return limit is not None and (left < 0 or left > limit)

    async def _renew(self, name: bytes) -> bool:
        """Give an entry the retention time from now on, if that is due; says whether it was."""
        limit = _milliseconds(self._retention)
        if limit is None:
            return False

        async def attempt(talk: Talk) -> bool | None:
            _, *replies = await talk.ask(("WATCH", name), *_look_at(name, HEAD_BYTES))
            seen = _seen(replies)
            if seen.absent or not self._due(kind_of(seen.start or b"", seen.size), seen.left):
                await talk.ask(("UNWATCH",))
                return False
            return None if await talk.exchange(("PEXPIRE", name, limit)) is None else True

        return await self._until_alone(attempt)

    async def _clear(self, key: str, seen: _Seen) -> None:
        """Remove what was seen, if it is still that."""

        async def attempt(talk: Talk) -> bool | None:
            _, *replies = await talk.ask(("WATCH", _name(key)), *_look(key))
            now = _seen(replies)
            if (now.start, now.size) != (seen.start, seen.size):
                await talk.ask(("UNWATCH",))
                return False
            return None if await talk.exchange(("UNLINK", _name(key))) is None else True

        await self._until_alone(attempt)

    async def _until_alone(self, attempt: Callable[[Talk], Awaitable[bool | None]], *, size: int = 0) -> bool:
        """Attempt it until nobody touches the key in between, which `attempt` tells by `None`."""
        for _ in range(_ATTEMPTS):
            outcome = await self._server.talk(attempt, size=size)
            if outcome is not None:
                return outcome
        raise _too_many_rivals()

    async def _pages(self, prefix: str) -> AsyncIterator[list[bytes]]:
        """Names of entries, some at a time."""
        pattern = _SPECIAL.sub(rb"\\\g<0>", _name(prefix)) + b"*"
        cursor: bytes = b"0"
        for _ in range(MOST_PAGES):
            asked = cursor
            with self._open():
                command = ("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE, "TYPE", "string")
                cursor, names = await self._server.ask(command, read=_page)
            if names:
                yield names
            if cursor == b"0":
                return
            if cursor == asked:
                break
        raise StoreError("Redis lists its keys without coming to an end")

    def _set(self, key: str, sealed: bytes, ttl: float | None) -> Command:
        if _gone_at_once(ttl):
            return ("UNLINK", _name(key))
        life = _milliseconds(self._retention if ttl is None else min(ttl, self._retention))
        return ("SET", _name(key), sealed, *(() if life is None else ("PX", life)))

    def _sound(self, key: str, seen: _Seen) -> bool:
        """Whether it is a value of ours.  Of a large one only the head is known; whether it is whole shows on `get`."""
        start = seen.start or b""
        if seen.whole:
            return self._sealer.open(key, start) is not None
        return kind_of(start, seen.size) is not None

    async def _sealed(self, key: str, value: bytes, kind: Kind) -> bytes:
        return await self._computed(lambda: self._sealer.seal(key, value, kind), len(value))

    async def _unsealed(self, key: str, pieces: Sequence[bytes]) -> bytes | None:
        return await self._computed(lambda: self._sealer.open(key, b"".join(pieces)), sum(map(len, pieces)))

    async def _computed(self, work: Callable[[], T], size: int) -> T:
        # Up to there it takes less than the way to a thread and back.
        return work() if size <= _FIRST else await to_thread.run_sync(work, limiter=self._sealers)


def _name(key: str) -> bytes:
    return PREFIX + key.encode()


def _look(key: str) -> Sequence[Command]:
    return _look_at(_name(key), _FIRST)


def _look_at(name: bytes, size: int) -> Sequence[Command]:
    return ("GETRANGE", name, 0, size - 1), ("STRLEN", name), ("PTTL", name)


def _seen(replies: Sequence[object]) -> _Seen:
    start, size, left = replies
    if start is None or size is None:
        return _Seen(None, 0, number(left))
    return _Seen(text(start), _size(size), number(left))


def _size(reply: object) -> int:
    size = number(reply)
    if not 0 <= size <= _MOST_BYTES:
        raise ValueError(f"no value has {size} bytes")
    return size


def _all_seen(replies: Sequence[object]) -> list[_Seen]:
    return [_seen(replies[first : first + 3]) for first in range(0, len(replies), 3)]


def _ranges(key: str, size: int) -> Sequence[Command]:
    return [("GETRANGE", _name(key), start, start + SLICE_BYTES - 1) for start in range(0, size, SLICE_BYTES)]


def _size_and_pieces(replies: list[object]) -> tuple[int, list[bytes]]:
    size, *pieces = accepted(items(replies[-1]))
    if size is None:  # no string any more
        return 0, []
    return _size(size), [text(piece) for piece in pieces]


def _page(replies: list[object]) -> tuple[bytes, list[bytes]]:
    cursor, names = items(replies[0])
    return text(cursor), [text(name) for name in items(names)]


def _numbers(replies: list[object]) -> list[int]:
    return [number(reply) for reply in replies]


def _done(replies: list[object]) -> bool:
    return done(replies[0])


def _kind(ttl: float | None) -> Kind:
    return Kind.IDLE if ttl is None else Kind.TIMED


def _gone_at_once(ttl: float | None) -> bool:
    return ttl is not None and ttl <= 0


def _milliseconds(life: float) -> int | None:
    return max(1, round(life * 1000)) if life < _FOREVER else None


def _too_many_rivals() -> StoreError:
    return StoreError(f"an entry was changed by others {_ATTEMPTS} times in a row; going on without it")
