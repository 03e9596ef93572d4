"""A follow-up turn as it was put together, so that it can be put together again smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from router.protocol.turn import Turn
from tools.call import ToolResult

SHORT = 600
"""Characters that are left of a look's words where the prompt is full: some 150 tokens, enough to answer from."""

CUT_NOTE = "\n[… cut here: only the first {kept} of {all} characters fit into the conversation]"

NO_ROOM = "There is no room left in the conversation to show it."


@dataclass(frozen=True, slots=True)
class FollowUp:
    before: Mapping[str, Any]
    """The request of the turn before."""
    turn: Turn
    """What the brain said to it: calls of ours."""
    results: tuple[ToolResult, ...]

    def shortened(self) -> FollowUp | None:
        """With results of at most `SHORT` characters and a note on each that it was cut, and without pictures; `None`
        where none is longer than that or has any, so that nothing would be won."""
        results = tuple(_shortened(result) for result in self.results)
        return None if results == self.results else replace(self, results=results)


def _shortened(result: ToolResult) -> ToolResult:
    if result.pictures:
        return replace(result, text=NO_ROOM, pictures=())
    note = CUT_NOTE.format(kept=SHORT, all=len(result.text))
    if len(result.text) <= SHORT + len(note):
        return result
    return replace(result, text=result.text[:SHORT] + note)
