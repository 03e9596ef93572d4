"""A fact in a long prompt, asked for: is it found, wherever it stands?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from router.bench.load import Answer
from router.bench.plan import Side
from router.doctor.card import reads

QUESTION = "One sentence above names the code word of the lighthouse. Say that code word and nothing else."

Outcome: TypeAlias = Literal["found", "not found", "cut", "failed"]
"""`cut`: the answer's token limit came before the code word did, as it may with a brain that thinks long."""


@dataclass(frozen=True, slots=True)
class Needle:
    side: Side
    depth: float
    """0: at the head of the prompt, 1: right before the question."""
    outcome: Outcome
    prompt_tokens: int
    """As the server counted them; far fewer than were sent: it cut the prompt without a word.  0: it tells none."""
    wanted_tokens: int
    first: float | None
    """Seconds to the first token."""
    why: str = ""


def fact(word: str) -> str:
    return f"The code word of the lighthouse is {word}."


def judged(answer: Answer, word: str, *, side: Side, depth: float, wanted: int) -> Needle:
    return Needle(
        side,
        depth,
        _outcome(answer, word),
        answer.count("prompt_tokens"),
        wanted,
        answer.arrivals[0] if answer.arrivals else None,
        answer.why,
    )


def _outcome(answer: Answer, word: str) -> Outcome:
    if answer.why or not answer.arrivals:
        return "failed"
    if reads(answer.text, word):
        return "found"
    return "cut" if answer.finish == "length" else "not found"
