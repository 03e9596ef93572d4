"""What a wire format must be able to do.

One dialect serves an exchange on both sides, towards the client and towards the server: nothing is translated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

from router.errors import ChiasmError, UpstreamError
from router.protocol.parts import Part
from router.protocol.turn import Turn
from tools.call import ToolResult


class Reader(Protocol):
    """Reads one upstream completion; new for each turn."""

    clean: bool
    """Whether the completion said itself that it is over."""

    first: Mapping[str, Any]
    """The first object that the server sent, with all that it says of itself there; empty until then."""

    def feed(self, data: bytes) -> Sequence[Part]:
        """Bytes of the answer's body, cut anywhere; answers what they said."""

    def close(self) -> Sequence[Part]:
        """The body is over; answers what was still held."""


class Writer(Protocol):
    """Writes the one answer that the client gets."""

    def write(self, part: Part) -> bytes:
        """What the client's stream gains by this part; may be nothing."""

    def heartbeat(self) -> bytes:
        """Something that keeps the stream alive and says nothing."""

    def empty_chunk(self) -> bytes:
        """A heartbeat for clients whose clocks only count events; may be the same."""

    def complete(self, reason: str, usage: Mapping[str, Any] | None) -> bytes:
        """The end of a good answer; for a client that does not stream, all of it."""

    def fail(self, error: ChiasmError) -> bytes:
        """The end of a bad one, once it has begun."""


class Dialect(Protocol):
    def follow_up(
        self, request: Mapping[str, Any], turn: Turn, results: Sequence[ToolResult]
    ) -> Mapping[str, Any] | None:
        """The request for the next turn: `request` unchanged, then what the brain said in `turn`, then the results.

        The tokens it used are taken off the client's limit; `None` where nothing worth saying fits into what is left.
        """

    def yielding(self, error: UpstreamError) -> Self | None:
        """The dialect for a server that refused a follow-up with these words, if it is what we put into the messages of
        the brain that it does not take; `None` otherwise."""

    def whole(self, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """`request`, answered in one piece instead of as a stream; `None` if it is so already."""

    def spent(self, request: Mapping[str, Any], turn: Turn) -> bool:
        """Whether `turn` used up all the tokens that `request` allowed."""

    def added(self, first: Mapping[str, Any], last: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The messages that follow-ups have added to `first` to make `last`."""

    def assistant_message(self, turn: Turn) -> Mapping[str, Any]:
        """What the brain said in `turn`, as it stands in a history."""

    def usage(self, turns: Sequence[Turn], vision: Mapping[str, int]) -> Mapping[str, Any] | None:
        """The one usage object of the answer; `None` where no server told."""
