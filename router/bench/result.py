"""What a run has brought so far; it grows, so that a run that is stopped has something to show."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from router.bench.figures import Measured
from router.bench.images import ImageTurn
from router.bench.needle import Needle
from router.bench.plan import Bounds, Plan
from router.bench.purse import Purse

Stopped: TypeAlias = Literal["", "interrupted", "seconds", "bounds"]
"""Why it ended before its plan did; empty: it did not."""


@dataclass(slots=True)
class Result:
    plan: Plan
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    brain: str = ""
    """The id that is asked for."""
    brain_url: str = ""
    chiasm: str = ""
    """Which one, in words; empty: none was asked."""
    exact: bool = False
    """Prompts were counted by the server's tokenizer."""
    bounds: Bounds | None = None
    purse: Purse | None = None
    waves: list[Measured] = field(default_factory=list)
    needles: list[Needle] = field(default_factory=list)
    images: list[ImageTurn] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures should know."""
    stopped: Stopped = ""
    failed: str = ""
    """Why nothing more could be measured; empty: nothing kept it."""

    @property
    def good(self) -> bool:
        """There are figures, and every request that was made came whole."""
        if not (self.waves or self.needles or self.images):
            return False
        failures = any(wave.failures for wave in self.waves)
        unwell = any(one.outcome == "failed" for one in self.needles) or any(one.why for one in self.images)
        return not (self.failed or failures or unwell)

    def note(self, words: str) -> None:
        if words not in self.notes:
            self.notes.append(words)
