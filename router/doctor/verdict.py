"""What a check comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`warn`: works, but not as well as it could, or the model rather than the server is at fault.  `fail`: requests
    that clients will make break.  `skipped`: not asked, and why."""

    level: Level
    seen: str
    """What was seen, in one line."""
    change: str = ""
    """The flag, configuration key or version that makes it better; empty where there is nothing to change."""

    @property
    def usable(self) -> bool:
        """Whether checks that need this one make sense."""
        return self.level in ("ok", "warn")


def ok(seen: str, change: str = "") -> Verdict:
    return Verdict("ok", seen, change)


def warn(seen: str, change: str) -> Verdict:
    return Verdict("warn", seen, change)


def fail(seen: str, change: str) -> Verdict:
    return Verdict("fail", seen, change)


def skipped(why: str, change: str = "") -> Verdict:
    return Verdict("skipped", why, change)
