"""Blobs as files, one each, and the limit that they are held to.

A blob appears by `os.replace` of a complete file, so readers need no lock: an open file stays what it was.  Writers of
the same folder exclude each other by a lock; that is what makes `add` and `swap` atomic over processes.

**The quota** is kept on the write path by an estimate: what the last count found plus what was written since.
Only when that reaches the limit, or a sixteenth of the limit was written since (other processes write too), is
the folder counted again and the least recently used blobs are removed.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.disk.blob_format import open_blob, packed_head, read_content, read_head, touch
from cache.disk.folder import Found, failed, files_in, own_folders, refuse_if_larger
from cache.disk.incoming import Incoming
from cache.disk.locks import locked
from cache.store import StoreError

SPARE = 0.9
"""Eviction goes down to this part of the limit, so that a full store is not counted at every write."""

RECOUNT = 16
"""The folder is counted again after 1/16 of the limit was written: N processes overshoot by N/16 at most."""

_HEX = "0123456789abcdef"

_LOCK = ".lock"
"""In every folder of blobs: what its writers lock."""


class BlobFiles:
    """The blobs of the store at `root`.  Safe to use from several threads and processes at once.

    `retention` is in seconds; `bytes_beside` says how much of the limit the database takes.
    """

    def __init__(self, root: Path, *, max_bytes: int, retention: float, bytes_beside: Callable[[], int]) -> None:
        self.gave_up = -math.inf
        self._root = root
        self._incoming = Incoming(root)
        self._max_bytes = max_bytes
        self._retention = retention
        self._bytes_beside = bytes_beside
        self._account = threading.Lock()
        self._kept = 0
        self._unseen = max_bytes  # nothing has been counted yet, so the first write counts

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        with self._guarded():
            try:
                file = open_blob(path)
            except FileNotFoundError:
                return None
            with file:
                value = read_content(file, key)
                if value is None:
                    self._discard(path, file)
                else:
                    touch(file.fileno())
                return value

    def put(self, key: str, value: bytes, ttl: float | None) -> None:
        path = self._path(key)
        with self._guarded(), self._written(key, value, ttl) as whole, self._alone(path):
            os.replace(whole, path)

    def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        """Whether the content of a blob that is there is unharmed shows only on `get`: this reads its head alone."""
        path = self._path(key)
        with self._guarded():
            if self._known(path, key):
                return False
            with self._written(key, value, ttl) as whole, self._alone(path):
                if self._known(path, key):
                    return False
                os.replace(whole, path)
                return True

    def swap(self, key: str, old: bytes, new: bytes, ttl: float | None) -> bool:
        path = self._path(key)
        with self._guarded(), self._written(key, new, ttl) as whole, self._alone(path):
            try:
                with open_blob(path) as file:
                    if read_content(file, key) != old:
                        return False
            except FileNotFoundError:
                return False
            os.replace(whole, path)
            return True

    def delete(self, key: str) -> bool:
        path = self._path(key)
        with self._guarded():
            if not path.parent.is_dir():
                return False
            with self._alone(path):
                known = self._known(path, key)
                with suppress(FileNotFoundError):
                    path.unlink()
                return known

    def leaves(self) -> Iterator[Path]:
        """The 256 folders that blobs lie in, whether or not they exist."""
        return (self._root / "blobs" / first / second for first in _HEX for second in _HEX)

    def keys(self, leaf: Path, prefix: str) -> list[str]:
        """The keys of the blobs in `leaf` that begin with `prefix`; the name is a hash, so the heads are read."""
        found = []
        with self._guarded():
            for seen in self._blobs_in(leaf):
                try:
                    with open_blob(seen.path) as file:
                        head = read_head(file)
                except OSError:
                    continue
                key = head.key.decode(errors="replace") if head else None
                if key is not None and key.startswith(prefix):
                    found.append(key)
        return found

    def note(self, size: int) -> bool:
        """Account for `size` bytes that were written elsewhere under the limit; says if it is time for a sweep."""
        due = max(1, self._max_bytes // RECOUNT)
        if not self._account.acquire(blocking=False):
            return False  # a count is under way, and nobody should wait for it
        try:
            before, self._unseen = self._unseen, self._unseen + size
            return before < due <= self._unseen
        finally:
            self._account.release()

    def sweep(self) -> tuple[int, int, int]:
        """Remove idle and surplus blobs and dead temporary files: (blobs, temporary files, bytes that remain)."""
        with self._guarded(), self._account:
            return self._sweep(0)

    def _sweep(self, room: int) -> tuple[int, int, int]:
        unfinished = self._incoming.clear()
        beside = self._bytes_beside()
        oldest_allowed = (time.time() - self._retention) * 1e9
        blobs = sorted((seen for leaf in self.leaves() for seen in self._blobs_in(leaf)), key=lambda seen: seen.used)
        kept = sum(seen.size for seen in blobs)
        goal = self._max_bytes
        if kept + beside + room > goal:
            goal = int(goal * SPARE)
        removed = 0
        for seen in blobs:
            if seen.used >= oldest_allowed and kept + beside + room <= goal:
                break
            if self._remove_unused(seen):
                removed += 1
                kept -= seen.size
        self._kept, self._unseen = kept, 0
        return removed, unfinished, kept + beside

    def _remove_unused(self, seen: Found) -> bool:
        try:
            with self._alone(seen.path):
                if seen.path.lstat().st_mtime_ns != seen.used:
                    return False
                seen.path.unlink()
                return True
        except FileNotFoundError:
            return True
        except StoreError:
            return False  # somebody is stopped in that folder; the next sweep comes by again

    def _make_room(self, size: int) -> None:
        refuse_if_larger(size, self._max_bytes, self._root)
        with self._account:
            beside = self._bytes_beside()
            if self._kept + beside + size > self._max_bytes or self._unseen + size > self._max_bytes // RECOUNT:
                _, _, kept = self._sweep(size)
                if kept + size > self._max_bytes:
                    raise StoreError(
                        f"the store at {str(self._root)!r} is full of what cannot be removed now "
                        f"({kept} of {self._max_bytes} bytes); raise max_gib in [store]"
                    )
            self._kept += size
            self._unseen += size

    @contextmanager
    def _written(self, key: str, value: bytes, ttl: float | None) -> Iterator[Path]:
        """A complete file for `key` under a temporary name, gone at the end unless it was renamed."""
        head = packed_head(key, value, math.inf if ttl is None else time.time() + ttl)
        self._make_room(len(head) + len(value))
        with self._incoming.written((head, value)) as whole:
            yield whole

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Be the only writer in the folder of `path`, of all processes."""
        lock = path.parent / _LOCK
        if not lock.exists():
            own_folders(self._root, path.parent)  # from the root on, because somebody may have deleted everything
        with locked(lock):
            yield

    def _known(self, path: Path, key: str) -> bool:
        """Is there a blob of the right shape?  If so it counts as used."""
        try:
            with open_blob(path) as file:
                head = read_head(file)
                if head is None or head.key != key.encode():
                    return False
                touch(file.fileno())
                return True
        except FileNotFoundError:
            return False

    def _discard(self, path: Path, file: io.FileIO) -> None:
        """Remove `path` if it still is the file that was found wanting."""
        with suppress(OSError, StoreError), self._alone(path):
            if os.path.samestat(path.lstat(), os.fstat(file.fileno())):
                path.unlink()

    def _path(self, key: str) -> Path:
        # Hashed, so that no key can name a path; 16 x 16 folders keep 50,000 blobs at 200 a folder, and
        # counting them opens 256 folders, not 65,536.
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._root / "blobs" / name[0] / name[1] / name[2:]

    def _blobs_in(self, leaf: Path) -> Iterator[Found]:
        return (seen for seen in files_in(leaf) if seen.path.name != _LOCK)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise failed(self._root, error) from error
