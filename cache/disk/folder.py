"""The store's folder: ours alone, what lies in it, and what is said when it fails or is too small."""

from __future__ import annotations

import os
import sqlite3
import stat
from dataclasses import dataclass
from pathlib import Path

from cache.store import StoreError


def own_folder(folder: Path) -> None:
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


def own_folders(root: Path, leaf: Path) -> None:
    """Make or check `root` and every folder from there down to `leaf`, which lies below it."""
    folder = root
    own_folder(folder)
    for part in leaf.relative_to(root).parts:
        folder /= part
        own_folder(folder)


@dataclass(frozen=True, slots=True)
class Found:
    """A file met while counting: its last use (Unix nanoseconds), its bytes, its place."""

    used: int
    size: int
    path: Path


def files_in(folder: Path) -> list[Found]:
    """The files directly in `folder`, in no order; none if it does not exist."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    found.append(Found(status.st_mtime_ns, status.st_size, Path(entry.path)))
    except FileNotFoundError:
        pass
    return found


def refuse_if_larger(size: int, limit: int, root: Path) -> None:
    if size > limit:
        raise StoreError(
            f"a value of {size} bytes is larger than the whole store at {str(root)!r} ({limit} bytes); "
            "raise max_gib in [store]"
        )


def failed(path: Path, error: OSError | sqlite3.Error) -> StoreError:
    """What to raise when the operating system or SQLite refused."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return StoreError(f"the store at {str(path)!r} failed ({reason}); check free space and permissions there")
