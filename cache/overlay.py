"""A store upon another: what is read comes from below, what is written stays here and goes with it.

For whoever wants to know what would be without making it so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from cache.store import Store


class Overlay:
    """A `Store` for as long as one question takes, so `ttl` means nothing here.  One event loop."""

    def __init__(self, below: Store) -> None:
        self._below = below
        self._own: dict[str, bytes | None] = {}
        """`None`: deleted."""

    async def get(self, key: str) -> bytes | None:
        return self._own[key] if key in self._own else await self._below.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        asked = [key for key in keys if key not in self._own]
        found = dict(zip(asked, await self._below.get_many(asked) if asked else [], strict=True))
        return [self._own[key] if key in self._own else found[key] for key in keys]

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        self._own[key] = value

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        if await self.get(key) is not None or self._own.get(key) is not None:
            return False
        self._own[key] = value
        return True

    async def add_many(self, values: Sequence[tuple[str, bytes]], *, ttl: float | None = None) -> list[bool]:
        return [await self.add(key, value) for key, value in values]

    async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
        before = await self.get(key)
        if self._own.get(key, before) != old:  # a rival may have been here while we read
            return False
        self._own[key] = new
        return True

    async def delete(self, key: str) -> bool:
        known = await self.get(key) is not None
        self._own[key] = None
        return known

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        async for key in self._below.keys(prefix):
            if key not in self._own:
                yield key
        for key, value in list(self._own.items()):
            if value is not None and key.startswith(prefix):
                yield key

    async def sweep(self) -> None:
        """Nothing here lives long enough."""

    async def close(self) -> None:
        self._own.clear()
