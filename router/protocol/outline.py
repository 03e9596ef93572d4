"""What a request's outline says (`wire_format.py`), whatever format it came in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})


def is_thought(part: Any) -> bool:
    """Whether this part of a message is a thought, in any format; clients leave them out."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    return isinstance(kind, str) and kind in _THOUGHTS


def last_words(messages: list[Any]) -> str:
    """What the user said last, for a look whose task was lost; at most a paragraph."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            parts = content if isinstance(content, list) else [content]
            texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
            return "\n".join(text for text in texts if isinstance(text, str))[-1000:].strip()
    return ""
