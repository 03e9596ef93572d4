"""How much of each prompt is the beginning of the one before it: what a server's prefix cache can use again.

Counted in bytes of the messages as they go out, pictures apart, because tokens are known to the server only.  Of the
last prompt of a conversation nothing is kept but a hash of each message.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

MOST_CONVERSATIONS = 1000
MOST_MESSAGES = 2000
"""Eight bytes each, and as much again for the number: at most 64 MB where every conversation is as long as that."""


class Prefixes:
    """Of one process."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, list[int]] = OrderedDict()

    def compare(self, conversation: str, requests: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Bytes of these prompts, which follow each other, and how many of those the prompt before had begun with."""
        total = reused = 0
        last = self._last.pop(conversation, [])
        known: list[tuple[Any, int, int]] = []
        for request in requests:
            now = _hashed(request, known)
            same = 0
            for (_, digest, _), before in zip(now, last, strict=False):
                if digest != before:
                    break
                same += 1
            total += sum(size for _, _, size in now)
            reused += sum(size for _, _, size in now[:same])
            last, known = [digest for _, digest, _ in now], now
        self._last[conversation] = last
        while len(self._last) > MOST_CONVERSATIONS:
            self._last.popitem(last=False)
        return total, reused


def _hashed(request: Mapping[str, Any], known: list[tuple[Any, int, int]]) -> list[tuple[Any, int, int]]:
    """Each part with its hash and its size.  The tools come first: templates put them there.  `known`: those of the
    prompt before, with which a follow-up shares its messages."""
    parts = [request.get("tools"), *request["messages"][:MOST_MESSAGES]]
    return [
        known[at] if at < len(known) and known[at][0] is part else _hashed_part(part) for at, part in enumerate(parts)
    ]


def _hashed_part(part: Any) -> tuple[Any, int, int]:
    try:
        data = orjson.dumps(part)
    except orjson.JSONEncodeError:  # half a surrogate pair, a number of more than 64 bits
        data = repr(part).encode("utf-8", "replace")
    return part, hash(data), len(data)
