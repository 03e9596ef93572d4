"""How much a store holds, and of what."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from cache.disk import DiskStore
from cache.memory import MemoryStore
from cache.store import Store

COUNTED_SECONDS = 10.0
"""For so long counts of everything in the store are good enough."""


@dataclass(slots=True)
class Counted:
    """How much there is, counted at most every `COUNTED_SECONDS`."""

    store: Store
    _fresh_until: float = 0.0
    _last: tuple[int, int, int | None] = (0, 0, None)
    _lock: asyncio.Lock | None = None

    async def now(self) -> tuple[int, int, int | None]:
        """Conversations, images, bytes.  Raises `StoreError`."""
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            loop = asyncio.get_running_loop()
            if loop.time() >= self._fresh_until:
                conversations = sum([1 async for _ in self.store.keys("table/")])
                images = sum([1 async for _ in self.store.keys("row/")])
                self._last = conversations, images, await bytes_held(self.store)
                self._fresh_until = loop.time() + COUNTED_SECONDS
            return self._last


async def bytes_held(store: Store) -> int | None:
    """`None` where only its server knows.  On disk every file is asked: not for every request."""
    if isinstance(store, MemoryStore):
        return store.bytes_held
    if isinstance(store, DiskStore):
        return await to_thread.run_sync(_bytes_below, store.path)
    return None


def _bytes_below(root: Path) -> int:
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # it was just removed
                continue
    return total
