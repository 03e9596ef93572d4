"""What an exchange is told and what it wants done.

Events are facts, in the past tense; every `Part` is one ("this was said").  Actions are wishes, in the
imperative.  Of the actions that make the exchange wait (`OpenUpstream`, `CallTools`) or end (`Complete`, `Fail`)
an answer holds at most one, and it stands last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from router.errors import ChiasmError, UpstreamError
from router.protocol.parts import Part
from tools.call import ToolCall, ToolResult


@dataclass(frozen=True, slots=True)
class UpstreamEnded:
    """The stream of the current turn is over.

    `clean`: it said so itself (`[DONE]`, or it was a whole JSON answer), rather than just ceasing.
    """

    clean: bool


@dataclass(frozen=True, slots=True)
class UpstreamFailed:
    """The current turn cannot go on: refused, cut, silent, garbled."""

    error: UpstreamError


@dataclass(frozen=True, slots=True)
class ToolsCompleted:
    """The results of the last `CallTools`, one for each call, in its order."""

    results: tuple[ToolResult, ...]


Event: TypeAlias = Part | UpstreamEnded | UpstreamFailed | ToolsCompleted


@dataclass(frozen=True, slots=True)
class OpenUpstream:
    """Ask the brain for the next turn with this body."""

    request: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SendPart:
    """The client sees this now."""

    part: Part


@dataclass(frozen=True, slots=True)
class CallTools:
    """Run these owned calls side by side; nothing more comes from the brain until they are done."""

    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class Keep:
    """What this answer holds that the client will not know: hidden turns, calls of ours; with one message in `said` and
    no `calls`, nothing.

    The client sends back what it saw (`visible`); there the rest is found again and put back.
    """

    visible: Mapping[str, Any]
    """The answer as it will stand in the client's history."""
    said: tuple[Mapping[str, Any], ...]
    """What stood there in truth: hidden turns and their results first, last what the client saw of it."""
    looks: tuple[tuple[int, ...], ...]
    """The images that each result in `said` is about, in order."""
    stamp: int
    """Of the image table, when the last of them was looked at."""
    calls: tuple[ToolCall, ...] = ()
    """Calls of ours in a mixed turn: to be run while the client answers its own."""


@dataclass(frozen=True, slots=True)
class Complete:
    """The answer is whole: finish reason, then usage (`None`: no server told), then the end."""

    reason: str
    usage: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Fail:
    """The answer cannot be finished, and the client must be able to see that."""

    error: ChiasmError


Action: TypeAlias = OpenUpstream | SendPart | CallTools | Keep | Complete | Fail
