"""What makes a value ours: a head with a MAC over key and content.

    6 bytes  b"chiasm"
    1 byte   b"i" idle: lives as long as it is used;  b"t" timed: had a time to live of its own
    1 byte   format, b"1"
    8 bytes  length of the content, big endian
   32 bytes  HMAC-SHA256 over the 16 bytes above, the key's length and the key, and the content

The secret is the password of the store's `url`.  Whoever can write into the server without knowing that password (by
another user of its, by a way past its doors, by a dump that was loaded) cannot make a value that is believed; and the
password should be long, because who can read values can try passwords against them.  Without a password the secret is
empty: the seal then tells damage, exchange and foreign values, but is no signature.  With another password all that was
kept before reads as "no such entry".
"""

from __future__ import annotations

import hmac
import struct
from enum import Enum
from hashlib import sha256

_HEAD = struct.Struct(">6ssc8s32s")
HEAD_BYTES = _HEAD.size

_MARK = b"chiasm"
_FORMAT = b"1"


class Kind(Enum):
    """What ends a value's life."""

    IDLE = b"i"
    TIMED = b"t"


def kind_of(start: bytes, size: int) -> Kind | None:
    """What the beginning of a value of `size` bytes says it is; `None` for none of ours.  The MAC is not looked at."""
    if len(start) < HEAD_BYTES:
        return None
    mark, kind, form, length, _ = _HEAD.unpack_from(start)
    if mark != _MARK or form != _FORMAT or int.from_bytes(length) + HEAD_BYTES != size:
        return None
    try:
        return Kind(kind)
    except ValueError:
        return None


class Sealer:
    """Seals and opens values with one secret."""

    def __init__(self, password: str) -> None:
        # Not the password itself: what is a key here must be one nowhere else.
        self._secret = hmac.digest(password.encode(), b"chiasm: values in redis", "sha256")

    def seal(self, key: str, value: bytes, kind: Kind) -> bytes:
        """`value` behind its head."""
        fields = (_MARK, kind.value, _FORMAT, len(value).to_bytes(8))
        return _HEAD.pack(*fields, self._mac(b"".join(fields), key, value)) + value

    def open(self, key: str, sealed: bytes) -> bytes | None:
        """The content; `None` unless every byte is as it was sealed, under this key, with this secret."""
        if kind_of(sealed, len(sealed)) is None:
            return None
        content = memoryview(sealed)[HEAD_BYTES:]
        mac = self._mac(sealed[: HEAD_BYTES - sha256().digest_size], key, content)
        if not hmac.compare_digest(sealed[HEAD_BYTES - len(mac) : HEAD_BYTES], mac):
            return None
        return bytes(content)

    def _mac(self, fields: bytes, key: str, content: bytes | memoryview) -> bytes:
        name = key.encode()
        mac = hmac.new(self._secret, fields, "sha256")
        mac.update(len(name).to_bytes(8) + name)
        mac.update(content)
        return mac.digest()
