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
class DeferTools:
    """A mixed turn: run these owned calls in the background and keep `said` with their results.

    The client answers its own calls (`client_ids`) in its next request; by them the turn is found again and put back
    whole.
    """

    calls: tuple[ToolCall, ...]
    client_ids: tuple[str, ...]
    said: tuple[Mapping[str, Any], ...]
    """The messages of this exchange, hidden turns and their results first, the mixed turn last: the client knows all
    of it as one message of its own."""


@dataclass(frozen=True, slots=True)
class Complete:
    """The answer is whole: finish reason, then usage (`None`: no server told), then the end."""

    reason: str
    usage: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Fail:
    """The answer cannot be finished, and the client must be able to see that."""

    error: ChiasmError


Action: TypeAlias = OpenUpstream | SendPart | CallTools | DeferTools | Complete | Fail
