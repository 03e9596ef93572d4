"""Looks seen from outside: whoever counts them or follows them learns who looked and how it ended, never what was asked
or seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from tools.call import VisionUsage

Ending = Literal[
    "answered",
    "remembered",
    "shared",
    "busy",
    "failed_retryable",
    "failed",
    "gone",
    "cancelled",
    "behind",
]
"""`answered`: the eyes were asked; `remembered`: they were not; `shared`: somebody asks the same at this moment, and
pays; `busy`: too many looks waited; `gone`: the image's bytes are; `behind`: asked while nobody waited."""


@dataclass(frozen=True, slots=True)
class Price:
    """Of a million tokens, in whatever currency the configuration names."""

    input: float = 0.0
    output: float = 0.0

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1_000_000


FREE = Price()


class WatchedLook(Protocol):
    def ended(self, outcome: Ending, usage: VisionUsage) -> None:
        """Exactly once.  `usage`: what this very asker has to pay."""


class LookWatch(Protocol):
    def look(self, eyes: str, images: int) -> WatchedLook:
        """One begins, of so many images."""


class _Nobody:
    def look(self, eyes: str, images: int) -> _Nobody:
        return self

    def ended(self, outcome: Ending, usage: VisionUsage) -> None:
        """Nobody wants to know."""


NOBODY: LookWatch = _Nobody()
