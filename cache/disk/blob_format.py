"""The inside of one blob file, in which nothing is believed until its checksum agrees.

    8 bytes    "chiasm1" and a newline
    32 bytes   SHA-256 of everything that follows
    20 bytes   expiry (Unix seconds, or infinity), bytes of key, bytes of content
    the key, the content

The head alone tells whether a file is cut short, whose it is and whether it has expired; only the content tells whether
it is unharmed.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"chiasm1\n"
_SUM = hashlib.sha256().digest_size
_FIELDS = struct.Struct(">dIQ")


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before the content of a blob that has not expired."""

    key: bytes
    checksum: bytes
    covered: bytes
    """What the checksum covers besides the content: expiry, lengths and key."""


def packed_head(key: str, content: bytes, expires: float) -> bytes:
    """The bytes to write before `content`; `expires` in Unix seconds, or infinity."""
    name = key.encode()
    covered = _FIELDS.pack(expires, len(name), len(content)) + name
    return _MAGIC + _checksum(covered, content) + covered


def open_blob(path: Path) -> io.FileIO:
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


def read_head(file: io.FileIO) -> Head | None:
    """The head of an open blob file; `None` if it has expired, is cut short or is no blob at all."""
    fixed = file.read(len(_MAGIC) + _SUM + _FIELDS.size)
    if not fixed.startswith(_MAGIC) or len(fixed) < len(_MAGIC) + _SUM + _FIELDS.size:
        return None
    checksum, fields = fixed[len(_MAGIC) : -_FIELDS.size], fixed[-_FIELDS.size :]
    expires, key_bytes, content_bytes = _FIELDS.unpack(fields)
    if os.fstat(file.fileno()).st_size != len(fixed) + key_bytes + content_bytes or expires <= time.time():
        return None
    key = file.read(key_bytes)
    return Head(key, checksum, fields + key)


def read_content(file: io.FileIO, key: str) -> bytes | None:
    """The content of an open blob file; `None` if it is not that of `key` or not unharmed."""
    head = read_head(file)
    if head is None or head.key != key.encode():
        return None
    content = file.readall()
    return content if _checksum(head.covered, content) == head.checksum else None


def touch(descriptor: int) -> None:
    """Mark a blob as used now; not by the kernel's own stamp, which advances in steps of up to 10 ms."""
    now = time.time_ns()
    with suppress(OSError):  # on a read-only volume there is no last use, but there are still the bytes
        os.utime(descriptor, ns=(now, now))


def _checksum(covered: bytes, content: bytes) -> bytes:
    total = hashlib.sha256(covered)
    total.update(content)  # not joined with what comes before: content may be many megabytes
    return total.digest()
