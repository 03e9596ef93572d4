"""What goes over the pipes between a worker and its parent: a length-prefixed JSON object, then bytes.

Nothing is pickled.  Who reads says how much it takes, so that a worker that was taken over cannot fill its parent's
memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

HEAD = struct.Struct(">IQ")
"""Length of the JSON, length of the bytes behind it."""

MAX_FACTS = 64 * 1024
"""Bytes of JSON.  Notes on a picture have a hundred."""


class BadFrame(Exception):
    """Not what was agreed; whoever sent it is not to be talked with any more."""


def head_and_facts(facts: Mapping[str, Any], size: int) -> bytes:
    """All of a frame but its `size` bytes of data, which need not be copied for it."""
    text = json.dumps(facts).encode()
    return HEAD.pack(len(text), size) + text


def lengths(head: bytes, most: int) -> tuple[int, int]:
    """Of the JSON and of the data, which may have `most` bytes.  Raises `BadFrame`."""
    facts, data = HEAD.unpack(head)
    if facts > MAX_FACTS or data > most:
        raise BadFrame
    return facts, data


def parsed(facts: bytes) -> dict[str, Any]:
    """Raises `BadFrame`."""
    try:
        found = json.loads(facts)
    except (ValueError, RecursionError):
        raise BadFrame from None
    if not isinstance(found, dict):
        raise BadFrame
    return found
