"""diskcache, tamed: it reads nothing but text and bytes, names no files, and never waits for long.

Left alone it unpickles what the folder holds (CVE-2025-69872), removes whatever file a planted row names, makes an
attribute of itself of every row of a table, and waits for a lock for a minute per statement.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import diskcache
from diskcache.core import DEFAULT_SETTINGS, METADATA, MODE_RAW

from cache.disk.locks import LOCK_SECONDS

_SETTINGS = {
    "eviction_policy": "least-recently-stored",  # the one whose `get` writes nothing, so reading takes no lock
    "cull_limit": 0,  # with any other value `set` may evict ten records of anybody's (size_limit), fresh or not
    "statistics": 0,
    "tag_index": 0,
    "sqlite_journal_mode": "wal",
    "sqlite_synchronous": 1,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 1024,  # pages of 4 KiB; the default of 8,192 is memory that records soon fill and hardly use
    "sqlite_mmap_size": 0,  # a mapped file that somebody truncates kills the process with SIGBUS
}

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class PlainDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
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


class RecordCache(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """The database in `folder`, with bounded waiting and the statements that diskcache lacks.

    `size_limit` is in bytes and counts only when `cull` is called.  Ask `damage` first.
    """

    def __init__(self, folder: Path, *, size_limit: int) -> None:
        try:
            super().__init__(str(folder), timeout=LOCK_SECONDS, disk=PlainDisk, size_limit=size_limit, **_SETTINGS)
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
                    if code_of(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
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

    def shorten(self, tag: str, latest: float) -> None:
        """Bring later expiries of the records with `tag` down to `latest` (Unix seconds)."""
        with self.transact():
            self._sql("UPDATE Cache SET expire_time = ? WHERE tag = ? AND expire_time > ?", (latest, tag, latest))


def damage(file: Path) -> str | None:
    """What is wrong with the database `file`, in words; `None` if nothing is, or if there is none.

    Raises `sqlite3.Error` if that cannot be told now, as when it is locked.
    """
    if not file.exists():
        return None
    try:
        with closing(sqlite3.connect(file, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
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
        if code_of(error) in _DAMAGED:
            return str(error)
        raise
    return None


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code; the extended ones keep it in their low byte."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
