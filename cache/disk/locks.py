"""Locks between processes, released by the kernel when their holder dies, and never waited for long."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.store import StoreError

LOCK_SECONDS = 0.5
"""How long a lock held by another process is waited for: a healthy holder needs a millisecond, and behind a
stopped one a request should go on without the store rather than wait."""


@contextmanager
def locked(file: Path) -> Iterator[None]:
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
                    raise still_locked(file) from None
                time.sleep(0.002)
        try:
            yield
        finally:
            # Closing alone would not release it while a forked child still has the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def still_locked(path: Path) -> StoreError:
    """What to raise when the lock on `path` did not come free."""
    return StoreError(
        f"the store at {str(path)!r} has been locked by another process for more than {LOCK_SECONDS} s; "
        "look for one that is stopped or overloaded"
    )
