"""A store in this process's memory: for tests, for trying things out, and for those who want nothing on disk.

Entries stand in the order of their last use, so the least recently used is always the first one, and both
bounds (bytes and idle time) are kept by taking from that end.  No method waits, so on one event loop each
is atomic.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from cache.store import StoreError

ENTRY_BYTES = 300
"""What an entry costs beside its key and value (measured: 280; dict slot, object headers, times), so that
a million tiny records do not count as nothing."""


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    expires: float
    used: float


class MemoryStore:
    """`Store` for one process; what it holds ends with the process.

    `max_bytes` bounds keys, values and `ENTRY_BYTES` each; `retention_seconds` is the idle time after which an
    entry goes; `clock` gives seconds that never run backwards.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        retention_seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._retention = retention_seconds
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._entries)} entries, {self._bytes}/{self._max_bytes} bytes>"

    @property
    def bytes_held(self) -> int:
        """As counted for `max_bytes`."""
        return self._bytes

    async def get(self, key: str) -> bytes | None:
        return self._use(key)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._use(key) for key in keys]

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        self._keep(key, value, ttl)

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        if self._use(key) is not None:
            return False
        self._keep(key, value, ttl)
        return True

    async def add_many(self, values: Sequence[tuple[str, bytes]], *, ttl: float | None = None) -> list[bool]:
        return [await self.add(key, value, ttl=ttl) for key, value in values]

    async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
        if self._use(key) != old:
            return False
        self._keep(key, new, ttl)
        return True

    async def delete(self, key: str) -> bool:
        return self._use(key) is not None and self._drop(key)

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        self._forget_idle()
        now = self._clock()
        for key, entry in list(self._entries.items()):
            if key.startswith(prefix) and entry.expires > now:
                yield key

    async def sweep(self) -> int:
        """Remove what has expired or lies idle too long, which otherwise waits for the next use; says how many."""
        before = len(self._entries)
        self._forget_idle()
        now = self._clock()
        for key in [key for key, entry in self._entries.items() if entry.expires <= now]:
            self._drop(key)
        return before - len(self._entries)

    async def close(self) -> None:
        self._closed = True
        self._entries.clear()
        self._bytes = 0

    def _use(self, key: str) -> bytes | None:
        self._forget_idle()
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock()
        if entry.expires <= now:
            self._drop(key)
            return None
        self._entries[key] = _Entry(entry.value, entry.expires, now)
        self._entries.move_to_end(key)
        return entry.value

    def _keep(self, key: str, value: bytes, ttl: float | None) -> None:
        self._forget_idle()
        size = _size(key, value)
        if size > self._max_bytes:
            raise StoreError(
                f"a value of {len(value)} bytes is larger than the whole memory store ({self._max_bytes} bytes); "
                "raise max_gib in [store]"
            )
        self._drop(key)
        while self._bytes + size > self._max_bytes:
            self._drop(next(iter(self._entries)))
        now = self._clock()
        self._entries[key] = _Entry(bytes(value), math.inf if ttl is None else now + ttl, now)
        self._bytes += size

    def _drop(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._bytes -= _size(key, entry.value)
        return True

    def _forget_idle(self) -> None:
        if self._closed:
            raise StoreError("the memory store is closed; open a new one")
        oldest_allowed = self._clock() - self._retention
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.used >= oldest_allowed:
                return
            self._drop(key)


def _size(key: str, value: bytes) -> int:
    return ENTRY_BYTES + len(key) + len(value)
