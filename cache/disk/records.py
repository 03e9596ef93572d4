"""Small values in one SQLite database, each sealed with the SHA-256 of its key and content.

Whatever befalls the database, the next call finds one that works: a damaged one is set aside (and kept for the
retention time, in case somebody wants to look), one that was deleted or exchanged under us is noticed by its inode.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import diskcache

from cache.disk.folder import failed, files_in, own_folder, refuse_if_larger
from cache.disk.locks import locked, still_locked
from cache.disk.record_cache import RecordCache, code_of, damage
from cache.store import StoreError

log = logging.getLogger(__name__)

PAGE = 500
"""Keys fetched in one go while listing: a few milliseconds of the thread."""

_SEAL = hashlib.sha256().digest_size

_IDLE = "idle"
"""The tag of records that have no expiry of their own: theirs is the retention time, renewed by reading."""

_RENEW = 0.9
"""A read renews the retention time once a tenth of it has passed: one write in 17 hours at the default week."""

_PATIENCE = 60.0
"""Seconds without such renewals after one failed, so that reading does not wait for a lock again and again."""

_ASIDE = "records.damaged-"
"""How the names of databases set aside begin."""

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


class Records:
    """The records of the store at `root`.  To be used from one thread only, since a connection belongs to one.

    `retention` is in seconds; it, or a shorter `ttl`, is what a record lives for.
    """

    def __init__(self, root: Path, *, max_bytes: int, retention: float) -> None:
        self.gave_up = -math.inf
        self._root = root
        self._folder = root / "records"
        self._file = self._folder / "cache.db"
        self._max_bytes = max_bytes
        self._retention = retention
        self._cache: RecordCache | None = None
        self._identity: tuple[int, int] | None = None

    def get(self, key: str) -> bytes | None:
        with self._opened() as cache:
            return self._used(cache, key)

    def put(self, key: str, value: bytes, ttl: float | None) -> None:
        with self._opened() as cache:
            self._set(cache, key, value, ttl)

    def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        return self.add_many([(key, value)], ttl)[0]

    def add_many(self, values: Sequence[tuple[str, bytes]], ttl: float | None) -> list[bool]:
        """All in one transaction."""
        with self._opened() as cache, cache.transact():
            return [self._add(cache, key, value, ttl) for key, value in values]

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
        """Remove what has expired, and the oldest if the database alone nears the limit; says how many.

        Databases that were set aside long enough ago go too.
        """
        self._clear_aside()  # first, because with a full disk the rest may fail for want of this room
        with self._opened() as cache:
            if self._retention < math.inf:
                # An earlier run may have had a longer retention time.
                cache.shorten(_IDLE, time.time() + self._retention)
            return int(cache.cull())

    def size(self) -> int:
        """Bytes of the database's files; to be asked from any thread."""
        return sum(seen.size for seen in files_in(self._folder))

    def close(self) -> None:
        cache, self._cache = self._cache, None
        if cache is not None:
            with suppress(sqlite3.Error):
                cache.close()

    def _add(self, cache: RecordCache, key: str, value: bytes, ttl: float | None) -> bool:
        # Not diskcache's own `add`, to which a row that reads as None is in the way for ever.
        if self._used(cache, key) is not None:
            return False
        self._set(cache, key, value, ttl)
        return True

    def _used(self, cache: RecordCache, key: str) -> bytes | None:
        sealed, expires, tag = cache.get(key, expire_time=True, tag=True)
        value = _unsealed(key, sealed)
        due = time.time() + _RENEW * self._retention
        if value is not None and tag == _IDLE and type(expires) is float and expires < due:
            self._renew(cache, key, sealed)
        return value

    def _renew(self, cache: RecordCache, key: str, sealed: bytes) -> None:
        if time.monotonic() < self.gave_up + _PATIENCE:
            return
        try:
            with cache.transact():
                if cache.get(key, tag=True) == (sealed, _IDLE):
                    cache.touch(key, expire=self._retention)
        except (diskcache.Timeout, sqlite3.OperationalError):
            self.gave_up = time.monotonic()  # full or locked: what was read is good all the same

    def _set(self, cache: RecordCache, key: str, value: bytes, ttl: float | None) -> None:
        refuse_if_larger(len(value), self._max_bytes, self._root)
        expire = self._retention if ttl is None else min(ttl, self._retention)
        cache.set(key, _seal(key, value) + value, expire=expire, tag=_IDLE if ttl is None else None)

    @contextmanager
    def _opened(self) -> Iterator[RecordCache]:
        """The database, open; whatever goes wrong in it becomes a `StoreError` and leaves it usable."""
        try:
            if self._cache is None or self._identity != _identity(self._file):
                self.close()
                self._cache = self._open()
                self._identity = _identity(self._file)
            yield self._cache
        except (diskcache.Timeout, sqlite3.Error, OSError) as error:
            raise self._what_happened(error) from error

    def _what_happened(self, error: BaseException) -> StoreError:
        # diskcache says Timeout whatever kept it from beginning to write; the cause is beneath.
        cause: BaseException | None = error
        while isinstance(cause, diskcache.Timeout):
            cause = cause.__context__
        if isinstance(cause, OSError):
            return failed(self._file, cause)
        if isinstance(cause, sqlite3.Error) and (code := code_of(cause)) != sqlite3.SQLITE_BUSY:
            if code not in _HARMLESS:
                self.close()
            return failed(self._file, cause)
        self.gave_up = time.monotonic()
        return still_locked(self._file)

    def _open(self) -> RecordCache:
        own_folder(self._root)
        with locked(self._root / "records.lock"):
            if (what := damage(self._file)) is not None:
                self._set_aside(what)
            own_folder(self._folder)
            return RecordCache(self._folder, size_limit=int(self._max_bytes * 3 / 4))

    def _set_aside(self, what: str) -> None:
        aside = self._root / f"{_ASIDE}{time.time_ns()}"
        # The folder in one step: a log of the old database must never meet the new one.  Processes that have it open
        # notice the other inode at their next call.
        self._folder.rename(aside)
        aside.touch()
        log.warning(
            "the store's database %s is damaged (%s): moved to %s, a new one begins", self._file, what, aside.name
        )

    def _clear_aside(self) -> None:
        with suppress(OSError):  # other processes sweep too; what is left the next sweep removes
            for folder in self._root.glob(f"{_ASIDE}*"):
                if folder.lstat().st_mtime < time.time() - self._retention:
                    shutil.rmtree(folder, ignore_errors=True)


def _unsealed(key: str, sealed: bytes | None) -> bytes | None:
    if sealed is None:
        return None
    value = sealed[_SEAL:]
    return value if sealed[:_SEAL] == _seal(key, value) else None


def _seal(key: str, value: bytes) -> bytes:
    # A page that was damaged and still parses, or a value moved to another key, must not be believed.
    return hashlib.sha256(key.encode() + b"\0" + value).digest()


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
