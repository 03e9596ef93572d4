"""How many tokens a run may cost, prompts and answers of all servers together.

A request is made only while its worst case fits: its prompt, estimated from its bytes, and the longest answer that it
allows.  What is charged afterwards is what the server counted; where it counts nothing, the worst case.
"""

from __future__ import annotations

from collections.abc import Mapping

DEFAULT_TOKENS = 60_000
"""A brain and its eyes take 10,000 to 25,000, most of them for thoughts; the rest is room for a second brain."""


DEFAULT_REPEAT = 3

_REPETITION_TOKENS = 2_400
"""What asking for a tool call once more may take at most, without thoughts and with them."""


def granted(repeat: int) -> int:
    """For a run that asks for a tool call so often, unless somebody says otherwise."""
    return DEFAULT_TOKENS + max(0, repeat - DEFAULT_REPEAT) * _REPETITION_TOKENS


class OutOfBudget(Exception):
    """The next request could cost more than is left."""


class Budget:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.spent = 0

    def reserve(self, tokens: int) -> None:
        """Raises `OutOfBudget` where so many are not left."""
        if self.spent + tokens > self.limit:
            raise OutOfBudget

    def charge(self, tokens: int) -> None:
        self.spent += tokens


def estimated(text_bytes: int) -> int:
    """Tokens of a prompt whose JSON has so many bytes, on the safe side: real tokenizers need 0.2 to 0.35 a byte, and
    templates add some words of their own."""
    return text_bytes // 2 + 64


def counted(usage: Mapping[str, object] | None) -> int | None:
    """The tokens that a usage object tells of, those of Chiasm's eyes and hidden turns included; `None`: none told."""
    if usage is None:
        return None
    ours = usage.get("chiasm")
    extra = ours if isinstance(ours, Mapping) else {}
    prompt = _count(extra, "billed_prompt_tokens") or _count(usage, "prompt_tokens")
    looks = _count(extra, "vision_prompt_tokens") + _count(extra, "vision_completion_tokens")
    total = prompt + _count(usage, "completion_tokens") + looks
    return total or None


def _count(values: Mapping[str, object], name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
