"""The store itself: which medium a key belongs to, and which thread works on it.

SQLite lives on one thread, files on three, none of them shared with anybody: a full default pool cannot starve the
store, and a locked database cannot hold up the blobs.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from cache.disk.blob_files import BlobFiles
from cache.disk.folder import own_folder
from cache.disk.locks import still_locked
from cache.disk.records import Records
from cache.store import StoreError

log = logging.getLogger(__name__)

BLOB_THREADS = 3
"""With the one for records: four, enough to keep two disks busy, few enough to leave the processors to others."""

_ADDED_AT_ONCE = 500
"""Records in one transaction: some 20 ms, in which no other process writes."""

T = TypeVar("T")


class _Medium(Protocol):
    """What files and database have in common; every call may block, and raises only `StoreError`."""

    gave_up: float
    """When a lock was last waited for in vain, in `time.monotonic` seconds."""

    def get(self, key: str) -> bytes | None: ...
    def put(self, key: str, value: bytes, ttl: float | None) -> None: ...
    def add(self, key: str, value: bytes, ttl: float | None) -> bool: ...
    def swap(self, key: str, old: bytes, new: bytes, ttl: float | None) -> bool: ...
    def delete(self, key: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep found and did; counts of things, and bytes that remain (blobs and database)."""

    blobs: int
    records: int
    unfinished: int
    bytes_kept: int


class DiskStore:
    """`Store` in the folder `path` (`~` is expanded), for all processes of one host; not for network file systems.

    `max_bytes` bounds blobs and database together; `retention_seconds` is the idle time after which an entry
    goes (a shorter `ttl` wins).  Raises `StoreError` if the folder is not safely ours.  A first sweep starts at
    once in the background; call `sweep` now and then.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int, retention_seconds: float = math.inf) -> None:
        try:
            self.path = Path(path).expanduser().absolute()
        except RuntimeError as error:
            raise StoreError(
                f"the store's folder {os.fspath(path)!r} has no home to expand; give a full path"
            ) from error
        own_folder(self.path)
        self._records = Records(self.path, max_bytes=max_bytes, retention=retention_seconds)
        self._blobs = BlobFiles(
            self.path, max_bytes=max_bytes, retention=retention_seconds, bytes_beside=self._records.size
        )
        self._record_thread = ThreadPoolExecutor(1, thread_name_prefix="chiasm-records")
        self._blob_threads = ThreadPoolExecutor(BLOB_THREADS, thread_name_prefix="chiasm-blobs")
        self._closed = False
        self._sweep_soon()

    def __repr__(self) -> str:
        return f"<DiskStore {str(self.path)!r}{' closed' if self._closed else ''}>"

    async def get(self, key: str) -> bytes | None:
        threads, medium = self._place(key)
        return await self._run(threads, lambda: medium.get(key))

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        if any(self._place(key)[1] is not self._records for key in keys):  # blobs: nobody asks for many at once
            return [await self.get(key) for key in keys]
        return await self._run(self._record_thread, lambda: [self._records.get(key) for key in keys]) if keys else []

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        await self._change(key, lambda medium: medium.put(key, value, ttl), len(value))

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        return await self._change(key, lambda medium: medium.add(key, value, ttl), len(value))

    async def add_many(self, values: Sequence[tuple[str, bytes]], *, ttl: float | None = None) -> list[bool]:
        if any(self._place(key)[1] is not self._records for key, _ in values):
            return [await self.add(key, value, ttl=ttl) for key, value in values]
        added: list[bool] = []
        for first in range(0, len(values), _ADDED_AT_ONCE):
            page = values[first : first + _ADDED_AT_ONCE]
            added += await self._change_records(partial(self._records.add_many, page, ttl), page)
        return added

    async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
        return await self._change(key, lambda medium: medium.swap(key, old, new, ttl), len(new))

    async def delete(self, key: str) -> bool:
        return await self._change(key, lambda medium: medium.delete(key))

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        start: str | None = prefix
        while start is not None:
            page, start = await self._run(self._record_thread, partial(self._records.page, prefix, start))
            for key in page:
                yield key
        if prefix.startswith("blob/") or "blob/".startswith(prefix):
            for leaf in self._blobs.leaves():
                for key in await self._run(self._blob_threads, partial(self._blobs.keys, leaf, prefix)):
                    yield key

    async def sweep(self) -> Swept:
        """Remove what is expired, idle too long, over the quota, or left behind by a killed process."""
        records = await self._run(self._record_thread, self._records.sweep)
        blobs, unfinished, kept = await self._run(self._blob_threads, self._blobs.sweep)
        return Swept(blobs, records, unfinished, kept)

    async def close(self) -> None:
        """Let go of files, connections and threads, after what has been asked for is done."""
        if self._closed:
            return
        self._closed = True
        # Shutting a pool down waits for its work, so it happens on a thread of ours, and to its end even if
        # whoever waits for it here is cancelled.
        done = self._record_thread.submit(self._let_go)
        self._record_thread.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(done))

    def _let_go(self) -> None:
        self._blob_threads.shutdown()
        self._records.close()

    def _place(self, key: str) -> tuple[Executor, _Medium]:
        if key.partition("/")[0] == "blob":
            return self._blob_threads, self._blobs
        return self._record_thread, self._records

    async def _change_records(self, change: Callable[[], T], values: Sequence[tuple[str, bytes]]) -> T:
        size = sum(len(value) for _, value in values)
        return await self._change(values[0][0], lambda _: change(), size)

    async def _change(self, key: str, change: Callable[[_Medium], T], size: int = 0) -> T:
        threads, medium = self._place(key)
        asked = time.monotonic()

        def work() -> T:
            # Who queued up behind a lock that did not come free shares its fate, or the last of a hundred
            # writers would wait a hundred times LOCK_SECONDS.
            if asked < medium.gave_up:
                raise still_locked(self.path)
            outcome = change(medium)
            if medium is self._records and self._blobs.note(size):
                self._sweep_soon()
            return outcome

        return await self._run(threads, work)

    async def _run(self, threads: Executor, work: Callable[[], T]) -> T:
        if self._closed:
            raise StoreError(f"the store at {str(self.path)!r} is closed; open a new one")
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    def _sweep_soon(self) -> None:
        with suppress(RuntimeError):  # the store is closing, and the next one begins with a sweep
            self._record_thread.submit(self._quietly, self._records.sweep)
            self._blob_threads.submit(self._quietly, self._blobs.sweep)

    def _quietly(self, sweep: Callable[[], object]) -> None:
        try:
            sweep()
        except StoreError as error:
            log.warning("could not sweep the store: %s", error)
