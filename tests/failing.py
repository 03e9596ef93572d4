"""A store that fails or stops where a test wants it to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cache.memory import MemoryStore
from cache.store import StoreError


class Killed(BaseException):
    """The process is gone; nothing may catch it."""


class FailingStore(MemoryStore):
    """Every put, add and swap asks `on_write` and every read `on_read`, which may raise; `torn` writes are made all the
    same, and nobody learns of it."""

    def __init__(self) -> None:
        super().__init__(max_bytes=2**28)
        self.writes = 0
        self.on_write: Callable[[str], None] = lambda key: None
        self.on_read: Callable[[str], None] = lambda key: None
        self.torn = False

    def _asked(self, key: str) -> None:
        self.writes += 1
        self.on_write(key)

    async def get(self, key: str) -> bytes | None:
        self.on_read(key)
        return await super().get(key)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        for key in keys:
            self.on_read(key)
        return await super().get_many(keys)

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        if self.torn:
            await super().put(key, value, ttl=ttl)
        self._asked(key)
        await super().put(key, value, ttl=ttl)

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        if self.torn:
            done = await super().add(key, value, ttl=ttl)
            self._asked(key)
            return done
        self._asked(key)
        return await super().add(key, value, ttl=ttl)

    async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
        if self.torn:
            done = await super().swap(key, old, new, ttl=ttl)
            self._asked(key)
            return done
        self._asked(key)
        return await super().swap(key, old, new, ttl=ttl)


def broken(key: str) -> None:
    raise StoreError("disk on fire")
