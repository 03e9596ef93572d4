"""Blobs being written, each a file under a temporary name that its writer holds a lock on.

The kernel releases a lock when its holder dies, and that is what tells a file whose writer lives from one that a kill
left behind, without any clock.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.disk.blob_format import touch
from cache.disk.folder import files_in, own_folders
from cache.store import StoreError


class Incoming:
    """The folder of such files, in the store at `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / "blobs" / "incoming"

    @contextmanager
    def written(self, pieces: Iterable[bytes]) -> Iterator[Path]:
        """A complete file that holds `pieces`, gone at the end unless it was renamed."""
        descriptor, path = self._new_file()
        try:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            touch(descriptor)
            yield path
        finally:
            with suppress(FileNotFoundError):
                path.unlink()
            os.close(descriptor)

    def clear(self) -> int:
        """Remove what dead writers left behind; says how many files."""
        removed = 0
        for seen in files_in(self._folder):
            with suppress(OSError):
                descriptor = os.open(seen.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its writer lives
                    seen.path.unlink()
                    removed += 1
                finally:
                    os.close(descriptor)
        return removed

    def _new_file(self) -> tuple[int, Path]:
        for _ in range(10):  # more than the races below can lose
            path = self._folder / secrets.token_hex(16)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                descriptor = os.open(path, flags, 0o600)
            except FileNotFoundError:
                own_folders(self._root, self._folder)
                continue
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:
                    return descriptor, path
            os.close(descriptor)  # a sweep took it for dead in the moment before it was locked
        raise StoreError(f"the store's folder {str(self._folder)!r} is deleted again and again; find out by whom")
