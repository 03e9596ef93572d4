"""Image turns behind Chiasm, as a client sees them.

What happens between the brain's call and its next word cannot be seen from outside but as a silence: the end of the
call, the look, and the brain's prefill of the next turn.  So the longest silence of the stream is what is told, from
the moment the question was due, beside what `usage.chiasm` says of turns and looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from secrets import token_hex
from typing import Any

from router.bench.load import Answer
from router.doctor.card import Card, reads

QUESTION = "What is the code word in this image?"


@dataclass(frozen=True, slots=True)
class ImageTurn:
    """Seconds; `None`: no word came."""

    first: float | None
    silence: float | None
    """The longest time without a word, that before the first one included."""
    whole: float
    turns: int
    """Completions of the brain; 0: not told."""
    vision_calls: int
    vision_prompt_tokens: int
    vision_completion_tokens: int
    read: bool
    """The answer holds the code word."""
    why: str = ""


def asking(card: Card) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [card.part, {"type": "text", "text": QUESTION}]}]


def conversation() -> Mapping[str, str]:
    """The headers of a conversation that there never was."""
    return {"x-chiasm-conversation": f"bench-{token_hex(8)}"}


def judged(answer: Answer, card: Card) -> ImageTurn:
    steps = [later - earlier for earlier, later in pairwise([0.0, *answer.arrivals])]
    told = {name: value for name, value in answer.ours.items() if isinstance(value, int)}
    return ImageTurn(
        answer.arrivals[0] if answer.arrivals else None,
        max(steps) if steps else None,
        answer.ended,
        told.get("turns", 0),
        told.get("vision_calls", 0),
        told.get("vision_prompt_tokens", 0),
        told.get("vision_completion_tokens", 0),
        reads(answer.text, card.words[0]),
        answer.why or ("" if answer.arrivals else "no words came"),
    )
