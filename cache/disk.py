"""A store in a folder: blobs as files of their own, records in `diskcache`, shared by the processes of one host.

    <path>/                     0700, ours, or it is not opened
      blobs/a/b/<62 hex>        one blob: a header, the key, the bytes; mtime is its last use
      blobs/a/b/.lock           held while a name in that folder is put, compared or removed
      blobs/incoming/<32 hex>   a blob being written; its writer holds a lock on it
      records/cache.db          diskcache: everything else
      records.lock              held while the database is opened or set aside
      records.damaged-<time>/   a database that could not be read, kept for the retention time

**Nothing read here is believed.**  A blob carries the SHA-256 of its header, key and content; a record begins
with the SHA-256 of its key and value.  What does not match is removed and reads as `None`.  So nothing needs
fsync: whatever a crash leaves behind is either whole or not there.

**Blobs are not in diskcache** because there a file cut short is returned as it is, a kill leaves files that no
limit ever counts, and on a full disk nothing can be deleted any more (docs/decisions/0001).  A blob appears by
`os.replace` of a complete file, so readers need no lock: an open file stays what it was.  Writers of the same
folder exclude each other by `flock`, which the kernel releases when a process dies; that is what makes `add`
and `swap` atomic over processes.  The same kind of lock tells a temporary file whose writer lives from one
that a kill left behind.

**diskcache is tamed** (CVE-2025-69872: it unpickles what the folder holds): `_PlainDisk` knows one form of key
(text) and one form of value (bytes inside the row), and refuses pickles and rows that name a file.

**Threads.**  SQLite lives on one thread, files on three, none of them shared with anybody: a full default pool
cannot starve the store, and a locked database cannot hold up the blobs.

**The quota** is kept on the write path by an estimate: what the last count found plus what was written since.
Only when that reaches the limit, or a sixteenth of the limit was written since (other processes write too), is
the folder counted again and the least recently used blobs are removed.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import io
import logging
import math
import os
import secrets
import shutil
import sqlite3
import stat
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import diskcache
from diskcache.core import DEFAULT_SETTINGS, METADATA, MODE_RAW

from cache.store import StoreError

log = logging.getLogger(__name__)

LOCK_SECONDS = 0.5
"""How long a lock held by another process is waited for: a healthy holder needs a millisecond, and behind a
stopped one a request should go on without the store rather than wait."""

BLOB_THREADS = 3
"""With the one for records: four, enough to keep two disks busy, few enough to leave the processors to others."""

SPARE = 0.9
"""Eviction goes down to this part of the limit, so that a full store is not counted at every write."""

RECOUNT = 16
"""The folder is counted again after 1/16 of the limit was written: N processes overshoot by N/16 at most."""

PAGE = 500
"""Keys fetched in one go while listing: a few milliseconds of the thread."""

_HEX = "0123456789abcdef"

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
        _own_folder(self.path)
        self._records = _Records(self.path, max_bytes=max_bytes, retention=retention_seconds)
        self._blobs = _BlobFiles(
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

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        await self._change(key, lambda medium: medium.put(key, value, ttl), len(value))

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        return await self._change(key, lambda medium: medium.add(key, value, ttl), len(value))

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
        kind, slash, _ = prefix.partition("/")
        if kind == "blob" if slash else "blob".startswith(kind):
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

    async def _change(self, key: str, change: Callable[[_Medium], T], size: int = 0) -> T:
        threads, medium = self._place(key)
        asked = time.monotonic()

        def work() -> T:
            # Who queued up behind a lock that did not come free shares its fate, or the last of a hundred
            # writers would wait a hundred times LOCK_SECONDS.
            if asked < medium.gave_up:
                raise StoreError(_locked_message(self.path))
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


# --- the folder ------------------------------------------------------------------------------------------------


def _own_folder(folder: Path) -> None:
    """Make `folder` (0700) or check that nobody else can change what is in it; `StoreError` if somebody can."""
    name = repr(str(folder))
    try:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass
        else:
            folder.chmod(0o700)  # a umask such as 0777 would have left us outside
        link = folder.lstat()
        there = folder.stat()
    except OSError as error:
        raise StoreError(
            f"the store's folder {name} cannot be made or looked at ({error.strerror}); "
            "set path in [store] to a folder that this user may write"
        ) from error
    me = os.geteuid()
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (me, 0):
        raise StoreError(
            f"the store's folder {name} is a symbolic link made by another user (uid {link.st_uid}); "
            "remove it, or set path in [store] to the folder itself"
        )
    if not stat.S_ISDIR(there.st_mode):
        raise StoreError(f"the store's path {name} is not a folder; move it away or set another path in [store]")
    if there.st_uid != me:
        raise StoreError(
            f"the store's folder {name} belongs to uid {there.st_uid}, this process is uid {me}; "
            "change its owner or set another path in [store]"
        )
    if there.st_mode & 0o022:
        raise StoreError(
            f"the store's folder {name} can be written by other users (mode {stat.S_IMODE(there.st_mode):04o}); "
            f"run: chmod 700 {name}"
        )


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock that `file` stands for; `StoreError` after `LOCK_SECONDS`, `FileNotFoundError` without its folder.

    Every call opens the file anew, so threads of one process exclude each other as processes do.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreError(_locked_message(file)) from None
                time.sleep(0.002)
        try:
            yield
        finally:
            # Closing alone would not release it while a forked child still has the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _locked_message(path: Path) -> str:
    return (
        f"the store at {str(path)!r} has been locked by another process for more than {LOCK_SECONDS} s; "
        "look for one that is stopped or overloaded"
    )


def _refuse_if_larger(size: int, limit: int, path: Path) -> None:
    if size > limit:
        raise StoreError(
            f"a value of {size} bytes is larger than the whole store at {str(path)!r} ({limit} bytes); "
            "raise max_gib in [store]"
        )


def _failed(path: Path, error: OSError | sqlite3.Error) -> StoreError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return StoreError(f"the store at {str(path)!r} failed ({reason}); check free space and permissions there")


# --- blobs -----------------------------------------------------------------------------------------------------


_MAGIC = b"chiasm1\n"
_SUM = hashlib.sha256().digest_size
_FIELDS = struct.Struct(">dIQ")
"""Expiry (Unix seconds or infinity), bytes of key, bytes of content: what follows magic and checksum."""


@dataclass(frozen=True, slots=True)
class _Head:
    """The beginning of a blob file, as far as it can be told without reading the content."""

    checksum: bytes
    expires: float
    key: bytes
    content_bytes: int

    def pack(self) -> bytes:
        return _MAGIC + self.checksum + _FIELDS.pack(self.expires, len(self.key), self.content_bytes) + self.key

    def sum(self, content: bytes) -> bytes:
        total = hashlib.sha256(_FIELDS.pack(self.expires, len(self.key), self.content_bytes) + self.key)
        total.update(content)
        return total.digest()


def _head(file: io.FileIO) -> _Head | None:
    """The head of an open blob file; `None` if it is none or the file's length is not what the head says."""
    fixed = file.read(len(_MAGIC) + _SUM + _FIELDS.size)
    if not fixed.startswith(_MAGIC) or len(fixed) < len(_MAGIC) + _SUM + _FIELDS.size:
        return None
    checksum = fixed[len(_MAGIC) : len(_MAGIC) + _SUM]
    expires, key_bytes, content_bytes = _FIELDS.unpack(fixed[len(_MAGIC) + _SUM :])
    if os.fstat(file.fileno()).st_size != len(fixed) + key_bytes + content_bytes:
        return None
    return _Head(checksum, expires, file.read(key_bytes), content_bytes)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file met while counting."""

    used: int
    size: int
    path: Path


class _BlobFiles:
    """Blobs, one file each.  Safe to use from several threads and processes at once.

    `bytes_beside` says how much of the limit the database takes.
    """

    def __init__(self, root: Path, *, max_bytes: int, retention: float, bytes_beside: Callable[[], int]) -> None:
        self.gave_up = -math.inf
        self._root = root
        self._folder = root / "blobs"
        self._incoming = self._folder / "incoming"
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
                file = _open(path)
            except FileNotFoundError:
                return None
            with file:
                value = _content(file, key)
                if value is None:
                    self._discard(path, file)
                else:
                    _touch(file.fileno())
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
                with _open(path) as file:
                    if _content(file, key) != old:
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
        return (self._folder / first / second for first in _HEX for second in _HEX)

    def keys(self, leaf: Path, prefix: str) -> list[str]:
        """The keys of the blobs in `leaf` that begin with `prefix`; the name is a hash, so the heads are read."""
        found = []
        with self._guarded():
            for seen in _files(leaf):
                try:
                    with _open(seen.path) as file:
                        head = _head(file)
                except OSError:
                    continue
                if head is not None and head.expires > time.time():
                    key = head.key.decode(errors="replace")
                    if key.startswith(prefix):
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
        unfinished = self._clear_incoming()
        self._clear_damaged()
        beside = self._bytes_beside()
        oldest_allowed = (time.time() - self._retention) * 1e9
        blobs = sorted((seen for leaf in self.leaves() for seen in _files(leaf)), key=lambda seen: seen.used)
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

    def _remove_unused(self, seen: _Found) -> bool:
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

    def _clear_incoming(self) -> int:
        removed = 0
        for seen in _files(self._incoming):
            with suppress(OSError):
                descriptor = os.open(seen.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its writer lives
                    seen.path.unlink()
                    removed += 1
                finally:
                    os.close(descriptor)
        return removed

    def _clear_damaged(self) -> None:
        for folder in self._root.glob("records.damaged-*"):
            with suppress(OSError):
                if folder.lstat().st_mtime < time.time() - self._retention:
                    shutil.rmtree(folder)

    def _make_room(self, size: int) -> None:
        _refuse_if_larger(size, self._max_bytes, self._root)
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
        bare = _Head(b"", math.inf if ttl is None else time.time() + ttl, key.encode(), len(value))
        head = _Head(bare.sum(value), bare.expires, bare.key, bare.content_bytes).pack()
        self._make_room(len(head) + len(value))
        descriptor, path = self._new_file()
        try:
            for piece in (head, value):
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            _touch(descriptor)
            yield path
        finally:
            with suppress(FileNotFoundError):
                path.unlink()
            os.close(descriptor)

    def _new_file(self) -> tuple[int, Path]:
        for _ in range(10):  # more than the races below can lose
            path = self._incoming / secrets.token_hex(16)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                descriptor = os.open(path, flags, 0o600)
            except FileNotFoundError:
                self._make_folders(self._incoming)
                continue
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:
                    return descriptor, path
            os.close(descriptor)  # a sweep took it for dead in the moment before it was locked
        raise StoreError(f"the store's folder {str(self._incoming)!r} is deleted again and again; find out by whom")

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Be the only writer in the folder of `path`, of all processes."""
        lock = path.parent / ".lock"
        if not lock.exists():
            self._make_folders(path.parent)
        with _locked(lock):
            yield

    def _make_folders(self, leaf: Path) -> None:
        _own_folder(self._root)  # again, because somebody may have deleted everything since
        for folder in (*reversed(leaf.parents), leaf):
            if folder.is_relative_to(self._folder):
                _own_folder(folder)

    def _known(self, path: Path, key: str) -> bool:
        """Is there a blob of the right shape?  If so it counts as used."""
        try:
            with _open(path) as file:
                head = _head(file)
                if head is None or head.key != key.encode() or head.expires <= time.time():
                    return False
                _touch(file.fileno())
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
        return self._folder / name[0] / name[1] / name[2:]

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _failed(self._root, error) from error


def _open(path: Path) -> io.FileIO:
    """Open for reading; anything but a regular file (a link, a pipe) is as good as not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink():
            raise FileNotFoundError(str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(str(path))
    return io.FileIO(descriptor, "rb")


def _content(file: io.FileIO, key: str) -> bytes | None:
    head = _head(file)
    if head is None or head.key != key.encode() or head.expires <= time.time():
        return None
    content = file.readall()
    return content if head.sum(content) == head.checksum else None


def _touch(descriptor: int) -> None:
    """Mark a blob as used now; not by the kernel's own stamp, which advances in steps of up to 10 ms."""
    now = time.time_ns()
    with suppress(OSError):  # on a read-only volume there is no last use, but there are still the bytes
        os.utime(descriptor, ns=(now, now))


def _files(folder: Path) -> list[_Found]:
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == ".lock":
                    continue
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(status.st_mode):
                        found.append(_Found(status.st_mtime_ns, status.st_size, Path(entry.path)))
    except FileNotFoundError:
        pass
    return found


# --- records ---------------------------------------------------------------------------------------------------


_IDLE = "idle"
"""The tag of records that have no expiry of their own: theirs is the retention time, renewed by reading."""

_RENEW = 0.9
"""A read renews the retention time once a tenth of it has passed: one write in 17 hours at the default week."""

_PATIENCE = 60.0
"""Seconds without such renewals after one failed, so that reading does not wait for a lock again and again."""

_SETTINGS = {
    "eviction_policy": "least-recently-stored",  # the one whose `get` writes nothing, so reading takes no lock
    "cull_limit": 0,  # with any other value `set` may evict ten records of anybody's (size_limit), fresh or not
    "statistics": 0,
    "tag_index": 0,
    "sqlite_journal_mode": "wal",
    "sqlite_synchronous": 1,
    "sqlite_auto_vacuum": 1,
    "sqlite_mmap_size": 0,  # a mapped file that somebody truncates kills the process with SIGBUS
}

_HARMLESS = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
    }
)
"""Errors of the moment: the open database goes on being used.  After any other it is opened and checked anew."""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class _PlainDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Text keys, bytes inside the row, nothing else: never a pickle, never a file.

    What is refused on reading is an `OSError`, which diskcache turns into "no such key".
    """

    def put(self, key: object) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"a key is text, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str | None:
        return key if raw and type(key) is str else None

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, memoryview]:
        if type(value) is not bytes or read:
            raise TypeError(f"a value is bytes, not {type(value).__name__}")
        return 0, MODE_RAW, None, memoryview(value)

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> bytes:
        if mode != MODE_RAW or filename is not None or type(value) is not bytes or read:
            raise OSError("a row that this store never writes")
        return value

    def remove(self, file_path: object) -> None:
        """Nothing: no row of ours has a file, and the base class removes whatever path a planted one names."""


class _RecordCache(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """diskcache with bounded waiting and the statements that it lacks."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        try:
            super().__init__(str(folder), **settings)
        except BaseException:
            self.close()
            raise

    @property
    def _sql_retry(self) -> Callable[..., sqlite3.Cursor]:
        def execute(statement: str, *arguments: Any) -> sqlite3.Cursor:
            deadline = time.monotonic() + LOCK_SECONDS  # diskcache's own is a minute per statement
            while True:
                try:
                    return self._sql(statement, *arguments)  # type: ignore[no-any-return]
                except sqlite3.OperationalError as error:
                    if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.005)

        return execute

    def live_keys(self, start: str, prefix: str, limit: int) -> list[str]:
        """The first `limit` unexpired keys from `start` on that begin with `prefix`, in order."""
        rows = self._sql(
            "SELECT CAST(key AS BLOB) FROM Cache WHERE raw = 1 AND key >= ? AND key < ?"
            " AND (expire_time IS NULL OR expire_time > ?) ORDER BY key LIMIT ?",
            (start, prefix + "\U0010ffff", time.time(), limit),
        ).fetchall()
        return [key.decode(errors="replace") for (key,) in rows]

    def shorten(self, latest: float) -> None:
        """Bring expiries that an earlier, longer retention time gave down to `latest` (Unix seconds)."""
        with self.transact():
            self._sql("UPDATE Cache SET expire_time = ? WHERE tag = ? AND expire_time > ?", (latest, _IDLE, latest))


class _Records:
    """Small values in SQLite.  To be used from one thread only, since a connection belongs to one."""

    def __init__(self, root: Path, *, max_bytes: int, retention: float) -> None:
        self.gave_up = -math.inf
        self._root = root
        self._folder = root / "records"
        self._file = self._folder / "cache.db"
        self._max_bytes = max_bytes
        self._retention = retention
        self._cache: _RecordCache | None = None
        self._identity: tuple[int, int] | None = None

    def get(self, key: str) -> bytes | None:
        with self._opened() as cache:
            sealed, expires, tag = cache.get(key, expire_time=True, tag=True)
            value = _unsealed(key, sealed)
            due = time.time() + _RENEW * self._retention
            if value is not None and tag == _IDLE and type(expires) is float and expires < due:
                self._renew(cache, key, sealed)
            return value

    def put(self, key: str, value: bytes, ttl: float | None) -> None:
        with self._opened() as cache:
            self._set(cache, key, value, ttl)

    def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        # Not diskcache's own `add`, to which a row that reads as None is in the way for ever.
        with self._opened() as cache, cache.transact():
            if _unsealed(key, cache.get(key)) is not None:
                return False
            self._set(cache, key, value, ttl)
            return True

    def swap(self, key: str, old: bytes, new: bytes, ttl: float | None) -> bool:
        with self._opened() as cache, cache.transact():
            if _unsealed(key, cache.get(key)) != old:
                return False
            self._set(cache, key, new, ttl)
            return True

    def delete(self, key: str) -> bool:
        with self._opened() as cache, cache.transact():
            known = _unsealed(key, cache.get(key)) is not None
            cache.delete(key)
            return known

    def page(self, prefix: str, start: str) -> tuple[list[str], str | None]:
        """Some keys that begin with `prefix`, from `start` on, and where to go on."""
        with self._opened() as cache:
            keys = cache.live_keys(start, prefix, PAGE)
            return keys, keys[-1] + "\0" if len(keys) == PAGE else None

    def sweep(self) -> int:
        """Remove what has expired, and the oldest if the database alone nears the limit; says how many."""
        with self._opened() as cache:
            if self._retention < math.inf:
                cache.shorten(time.time() + self._retention)
            return int(cache.cull())

    def size(self) -> int:
        """Bytes of the database's files; to be asked from any thread."""
        return sum(seen.size for seen in _files(self._folder))

    def close(self) -> None:
        cache, self._cache = self._cache, None
        if cache is not None:
            with suppress(sqlite3.Error):
                cache.close()

    def _renew(self, cache: _RecordCache, key: str, sealed: bytes) -> None:
        if time.monotonic() < self.gave_up + _PATIENCE:
            return
        try:
            with cache.transact():
                if cache.get(key, tag=True) == (sealed, _IDLE):
                    cache.touch(key, expire=self._retention)
        except (diskcache.Timeout, sqlite3.OperationalError):
            self.gave_up = time.monotonic()  # full or locked: what was read is good all the same

    def _set(self, cache: _RecordCache, key: str, value: bytes, ttl: float | None) -> None:
        _refuse_if_larger(len(value), self._max_bytes, self._root)
        expire = self._retention if ttl is None else min(ttl, self._retention)
        cache.set(key, _sealed(key, value), expire=expire, tag=_IDLE if ttl is None else None)

    @contextmanager
    def _opened(self) -> Iterator[_RecordCache]:
        """The database, open; whatever goes wrong in it becomes a `StoreError` and leaves it usable."""
        try:
            if self._cache is None or self._identity != _identity(self._file):
                self.close()
                self._cache = self._open()
                self._identity = _identity(self._file)
            yield self._cache
        except (diskcache.Timeout, sqlite3.Error, OSError) as error:
            # diskcache says Timeout whatever kept it from beginning to write; the cause is beneath.
            cause: BaseException | None = error
            while isinstance(cause, diskcache.Timeout):
                cause = cause.__context__
            if isinstance(cause, sqlite3.Error) and _code(cause) not in _HARMLESS:
                self.close()
            if isinstance(cause, sqlite3.Error) and _code(cause) == sqlite3.SQLITE_BUSY:
                self.gave_up = time.monotonic()
                raise StoreError(_locked_message(self._file)) from error
            if isinstance(cause, (sqlite3.Error, OSError)):
                raise _failed(self._file, cause) from error
            raise StoreError(_locked_message(self._file)) from error

    def _open(self) -> _RecordCache:
        _own_folder(self._root)
        with _locked(self._root / "records.lock"):
            damage = self._damage()
            if damage is not None:
                aside = self._root / f"records.damaged-{time.time_ns()}"
                # The folder in one step: a log of the old database must never meet the new one.  Processes
                # that have it open notice the other inode at their next call.
                self._folder.rename(aside)
                aside.touch()
                log.warning("the store's database %s is damaged (%s): moved to %s, a new one begins",
                            self._file, damage, aside.name)  # fmt: skip
            _own_folder(self._folder)
            return _RecordCache(
                self._folder,
                timeout=LOCK_SECONDS,
                disk=_PlainDisk,
                size_limit=int(self._max_bytes * 3 / 4),
                **_SETTINGS,
            )

    def _damage(self) -> str | None:
        """What is wrong with the database, in words; `None` if nothing is, or if there is none."""
        if not self._file.exists():
            return None
        try:
            with closing(sqlite3.connect(self._file, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")  # so that a lock shows here and not inside diskcache
                connection.execute("ROLLBACK")
                (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    return str(verdict)
                if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'Settings'").fetchone():
                    return None
                # diskcache makes an attribute of itself of every row of this table.
                for name, value in connection.execute("SELECT key, value FROM Settings"):
                    if name not in DEFAULT_SETTINGS and name not in METADATA:
                        return "a setting that is not diskcache's"
                    if name in METADATA and type(value) is not int:
                        return "a count that is no number"
        except sqlite3.DatabaseError as error:
            if _code(error) in _DAMAGED:
                return str(error)
            raise
        return None


def _sealed(key: str, value: bytes) -> bytes:
    return _seal(key, value) + value


def _unsealed(key: str, sealed: bytes | None) -> bytes | None:
    if sealed is None:
        return None
    value = sealed[_SUM:]
    return value if sealed[:_SUM] == _seal(key, value) else None


def _seal(key: str, value: bytes) -> bytes:
    # A page that was damaged and still parses, or a value moved to another key, must not be believed.
    return hashlib.sha256(key.encode() + b"\0" + value).digest()


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; the extended ones keep it in their low byte."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
