"""What the user sees: a line for each check as it is made, and what it came to; or all of it as JSON.

Servers have words in it, such as the names of models and of tools that were called, and a terminal obeys control
characters: all that is shown is made harmless here.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from router.doctor.budget import Budget
from router.doctor.check import Checked
from router.doctor.verdict import Level

_STYLES: dict[Level, str] = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}
_SHOWN: dict[Level, str] = {"ok": "ok", "warn": "warn", "fail": "FAIL", "skipped": "skip"}
_WIDEST_NAME = 33


class Report(Protocol):
    def opening(self, budget: Budget) -> None: ...

    def subject(self, title: str) -> None: ...

    def checked(self, one: Checked) -> None: ...

    def closing(self, made: Sequence[Checked], budget: Budget) -> None: ...


class Lines:
    """One line for each check; on a terminal it is folded, in a file it stays one."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def opening(self, budget: Budget) -> None:
        self._console.print(f"chiasm doctor: spends {budget.limit} tokens at most (--max-tokens)", soft_wrap=True)

    def subject(self, title: str) -> None:
        self._console.print()
        self._console.print(Text(_shown(title), style="bold"), soft_wrap=True)

    def checked(self, one: Checked) -> None:
        level = one.verdict.level
        said = Text(_shown(one.verdict.seen))
        if one.verdict.change:
            said.append(" → ", style="bold")
            said.append(_shown(one.verdict.change))
        mark, name = Text(_SHOWN[level].ljust(4), style=_STYLES[level]), one.check.ljust(_WIDEST_NAME)
        if not self._console.is_terminal:
            self._console.print(Text.assemble("  ", mark, "  ", name, "  ", said), soft_wrap=True)
            return
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(width=6)
        row.add_column(width=_WIDEST_NAME)
        row.add_column(ratio=1)
        row.add_row(Text("  ") + mark, name, said)
        self._console.print(row)

    def closing(self, made: Sequence[Checked], budget: Budget) -> None:
        count = Counter(one.verdict.level for one in made)
        told = ", ".join(f"{count[level]} {word}" for level, word in _WORDS.items() if count[level])
        self._console.print()
        self._console.print(f"{told}; {budget.spent} of {budget.limit} tokens spent", soft_wrap=True)


_WORDS: dict[Level, str] = {"ok": "ok", "warn": "to improve", "fail": "failed", "skipped": "skipped"}


class Json:
    """One object on standard output, at the end."""

    def opening(self, budget: Budget) -> None: ...

    def subject(self, title: str) -> None: ...

    def checked(self, one: Checked) -> None: ...

    def closing(self, made: Sequence[Checked], budget: Budget) -> None:
        told: dict[str, Any] = {
            "chiasm": version("chiasm"),
            "ok": passed(made),
            "tokens": {"spent": budget.spent, "limit": budget.limit},
            "checks": [
                {
                    "subject": _shown(one.subject),
                    "check": one.check,
                    "verdict": one.verdict.level,
                    "seen": _shown(one.verdict.seen),
                    "change": _shown(one.verdict.change),
                    "seconds": round(one.seconds, 3),
                }
                for one in made
            ],
        }
        sys.stdout.write(json.dumps(told, ensure_ascii=False, indent=2) + "\n")


def _shown(words: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in words)


def passed(made: Sequence[Checked]) -> bool:
    """Nothing failed, and nothing that was to be checked was left out for want of tokens."""
    return not any(
        one.verdict.level == "fail" or (one.verdict.level == "skipped" and one.verdict.change) for one in made
    )
