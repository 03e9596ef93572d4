"""From the `[store]` table of the configuration to a store."""

from __future__ import annotations

from typing import Literal, assert_never

from cache.disk import DiskStore
from cache.memory import MemoryStore
from cache.store import Store, StoreError

StoreKind = Literal["memory", "disk", "redis"]


def open_store(kind: StoreKind, path: str, url: str, max_gib: float, retention_hours: float) -> Store:
    """The store that the configuration asks for; `StoreError` says why it cannot be had.

    `path` is for "disk", `url` for "redis" (it may hold a password, so no message shows it).  `max_gib` bounds what
    is kept (not in Redis, whose own `maxmemory` does), `retention_hours` how long it may lie unused.
    """
    max_bytes = int(max_gib * 2**30)
    retention_seconds = retention_hours * 3600
    match kind:
        case "memory":
            return MemoryStore(max_bytes=max_bytes, retention_seconds=retention_seconds)
        case "disk":
            return DiskStore(path, max_bytes=max_bytes, retention_seconds=retention_seconds)
        case "redis":
            return _redis_store(url, retention_seconds)
        case _:
            assert_never(kind)


def _redis_store(url: str, retention_seconds: float) -> Store:
    try:
        from cache.redis import RedisStore
    except ModuleNotFoundError:
        raise StoreError("the client for Redis is not installed: pip install 'chiasm[redis]'") from None
    return RedisStore(url, retention_seconds=retention_seconds)
