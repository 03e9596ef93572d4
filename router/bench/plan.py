"""What is to be run, in which order, and what it can cost at most: pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

Side: TypeAlias = Literal["alone", "behind"]
"""The brain alone, or the brain behind Chiasm."""

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where a needle is put, in fractions of the prompt."""

NEEDLE_ANSWER_TOKENS = 512
"""A code word takes five; the rest is for a brain that thinks before it says it."""

IMAGE_ANSWER_TOKENS = 800
IMAGE_BEHIND_TOKENS = 10_000
"""What an image turn sets off behind the answer: hidden turns, looks and their pictures."""

_MOST_STREAMS = 512
"""Three descriptors each, client and Chiasm together; and a client in one process is itself the limit long before."""

_FEWEST_PROMPT_TOKENS = 48
"""The question and a chat template take about so many."""

_WARM_UP_TOKENS = 16
_SPARE_REQUESTS = 8
"""For fields that a server refuses and connections that break before an answer begins."""

_TOOLS_TOKENS = 1_500
"""Of our tools and the words about them, where they are offered always."""


class BadPlan(ValueError):
    """`str(error)` says which wish cannot be met."""


@dataclass(frozen=True, slots=True)
class Wave:
    streams: int
    round: int
    """From 0."""
    side: Side


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a run stays within, whatever the servers do."""

    requests: int
    tokens: int
    """Prompts and answers, of brain and eyes."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Raises `BadPlan` where it makes no sense."""

    sides: tuple[Side, ...] = ("alone", "behind")
    streams: tuple[int, ...] = (1, 2, 4, 8)
    """Levels of the sweep; empty: none."""
    rounds: int = 3
    prompt_tokens: int = 512
    max_tokens: int = 128
    needle_tokens: int = 0
    """0: no needle test."""
    images: int = 0
    """Image turns behind Chiasm."""
    seconds: float = 600.0
    cached: bool = False
    """The same prompt every time, for a prefix cache to answer; else no two prompts begin alike."""

    def __post_init__(self) -> None:
        if not self.sides:
            raise BadPlan("there is no side to measure")
        if len(set(self.streams)) != len(self.streams) or not all(1 <= n <= _MOST_STREAMS for n in self.streams):
            raise BadPlan(f"--streams: different numbers from 1 to {_MOST_STREAMS}, separated by commas")
        for name, value in (("--prompt-tokens", self.prompt_tokens), ("--needle", self.needle_tokens)):
            if 0 < value < _FEWEST_PROMPT_TOKENS or value < 0:
                raise BadPlan(f"{name}: at least {_FEWEST_PROMPT_TOKENS}, since the question takes as many")
        if self.images and "behind" not in self.sides:
            raise BadPlan("--images: a text model alone sees none; leave --alone out")
        if not (self.streams or self.needle_tokens or self.images):
            raise BadPlan("there is nothing to measure")

    def waves(self) -> Iterator[Wave]:
        """Sides alternate, and each round begins with the other one."""
        for streams in self.streams:
            for number in range(self.rounds):
                for side in self.sides if number % 2 == 0 else self.sides[::-1]:
                    yield Wave(streams, number, side)

    def needles(self) -> Iterator[tuple[float, Side]]:
        if self.needle_tokens:
            for number, depth in enumerate(DEPTHS):
                for side in self.sides if number % 2 == 0 else self.sides[::-1]:
                    yield depth, side

    @property
    def requests(self) -> int:
        """Those that are meant, without what a server makes necessary besides."""
        sweep = sum(self.streams) * self.rounds * len(self.sides)
        return len(self.sides) + sweep + len(list(self.needles())) + self.images

    def bounds(self, *, exact: bool, tools: bool) -> Bounds:
        """`exact`: prompts are counted by the server's tokenizer.  `tools`: ours are in every prompt behind Chiasm."""
        ours = _TOOLS_TOKENS if tools and "behind" in self.sides else 0
        longest = max(self.prompt_tokens, self.needle_tokens)
        spare = _SPARE_REQUESTS + len(self.sides)
        tokens = spare * (worst_prompt(longest, exact=exact) + max(_WARM_UP_TOKENS, self.max_tokens) + ours)
        sweep = sum(self.streams) * self.rounds * len(self.sides)
        tokens += sweep * (worst_prompt(self.prompt_tokens, exact=exact) + self.max_tokens + ours)
        needle = worst_prompt(self.needle_tokens, exact=exact) + NEEDLE_ANSWER_TOKENS + ours
        tokens += len(list(self.needles())) * needle
        tokens += self.images * (IMAGE_ANSWER_TOKENS + IMAGE_BEHIND_TOKENS)
        return Bounds(self.requests + _SPARE_REQUESTS, tokens, self.seconds)

    @property
    def warm_up_tokens(self) -> int:
        """Of the answer to a side's first request, which is not counted."""
        return min(_WARM_UP_TOKENS, self.max_tokens)


def worst_prompt(tokens: int, *, exact: bool) -> int:
    """What a prompt meant to have so many tokens can have.  Where nobody counts, by its bytes: words take three to six
    of them, and `doctor.budget.estimated` lends half a token for each."""
    return tokens + 64 if exact else 3 * tokens + 512


def tools_tokens(side: Side, *, tools: bool) -> int:
    return _TOOLS_TOKENS if tools and side == "behind" else 0


def numbers(words: str) -> tuple[int, ...]:
    """`1,2,4` as numbers; an empty text is no level at all.  Raises `BadPlan`."""
    try:
        return tuple(int(word) for word in words.split(",")) if words.strip() else ()
    except ValueError:
        raise BadPlan(f"--streams: numbers separated by commas, not {words!r}") from None
