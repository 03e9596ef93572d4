"""A store as a process uses it that is killed at a certain moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from cache.store import Store, StoreError


class Mortal:
    """A store as a process uses it that is killed before its write number `last`: nothing it asks for is answered from
    then on, until what is left of it is `buried`."""

    def __init__(self, store: Store, last: int) -> None:
        self._store = store
        self._left = last
        self.dead = asyncio.Event()
        self.buried = asyncio.Event()

    async def _alive(self, writes: int = 0) -> None:
        if self._left < writes:
            self.dead.set()
        if self.dead.is_set():
            await self.buried.wait()
            raise StoreError("nobody hears this any more")
        self._left -= writes

    async def get(self, key: str) -> bytes | None:
        await self._alive()
        return await self._store.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        await self._alive()
        return await self._store.get_many(keys)

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        await self._alive(1)
        await self._store.put(key, value, ttl=ttl)

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        await self._alive(1)
        return await self._store.add(key, value, ttl=ttl)

    async def add_many(self, values: Sequence[tuple[str, bytes]], *, ttl: float | None = None) -> list[bool]:
        return [await self.add(key, value, ttl=ttl) for key, value in values]

    async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
        await self._alive(1)
        return await self._store.swap(key, old, new, ttl=ttl)

    async def delete(self, key: str) -> bool:
        await self._alive(1)
        return await self._store.delete(key)

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        await self._alive()
        async for key in self._store.keys(prefix):
            yield key
            await self._alive()

    async def sweep(self) -> object:
        await self._alive()
        return await self._store.sweep()

    async def close(self) -> None:
        """Another one goes on with it."""
