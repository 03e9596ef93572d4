"""What a wire format must be able to do for a test."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from router.protocol.profiles import Profile
from tests.speakers.answer import Answer
from tests.speakers.pieces import Saying, Spoken, Thinks


class Voice(Protocol):
    """A brain's side of one completion."""

    def says(self, piece: Spoken) -> Iterator[bytes]:
        """The events of this piece, each to leave by itself."""

    def closes(self) -> Iterator[bytes]:
        """Whatever is missing for a good end."""

    def whole(self) -> dict[str, Any]:
        """All of it as one body."""


class Speaker(Protocol):
    """One wire format, at both ends of a test: what goes in and comes out here is in the words of Chat Completions."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def beats(self) -> Mapping[str, Sequence[bytes]]:
        """How a heartbeat may look, by `server.heartbeat`."""

    # The client's side

    def request(self, chat: Mapping[str, Any]) -> dict[str, Any]:
        """The body.  Raises `AssertionError` for what this format cannot say."""

    def read_stream(self, stream: bytes, *, include_usage: bool = False) -> Answer:
        """A whole stream.  Raises `AssertionError` wherever it is not canonical."""

    def read_whole(self, body: bytes) -> Answer:
        """The same for an answer in one piece."""

    def error(self, body: Any, status: int) -> dict[str, Any]:
        """What an error before the stream says."""

    def mark(self, piece: str | Thinks) -> bytes:
        """How this looks on its way to the client, as the first of its kind."""

    # The brain's side

    def understood(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request that a brain got."""

    def thoughts(self, profile: Profile) -> Collection[str]:
        """The fields of an `understood` message that hold a turn's thoughts."""

    def voice(self, saying: Saying, request: Mapping[str, Any]) -> Voice:
        """`request`: the body that is answered."""

    def refusal(self, words: str, status: int, code: str | None) -> dict[str, Any]:
        """The body of an error."""


def sse(kind: str, data: bytes) -> bytes:
    """An event with a name."""
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def events_of(stream: bytes) -> list[tuple[str, bytes]]:
    """Names and data of a stream's events, comments left out.  Each event has one of both, in this order."""
    blocks = stream.split(b"\n\n")
    assert blocks.pop() == b"", "the stream ends in the middle of an event"
    events = []
    for block in blocks:
        if block.startswith(b":"):
            assert b"\n" not in block
            continue
        lines = block.split(b"\n")
        assert len(lines) == 2, block
        assert lines[0].startswith(b"event: "), block
        assert lines[1].startswith(b"data: "), block
        events.append((lines[0].removeprefix(b"event: ").decode(), lines[1].removeprefix(b"data: ")))
    return events


def joined(words: str, more: str) -> str:
    """What two blocks or items say: the client shows them one below the other, so they need nothing between them."""
    apart = not words or not more or words[-1].isspace() or more[0].isspace()
    return words + more if apart else f"{words}\n\n{more}"


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_chiasm(usage: Mapping[str, Any]) -> dict[str, Any]:
    """`usage.chiasm`: integers only."""
    found = usage.get("chiasm")
    if found is None:
        return {}
    assert isinstance(found, dict)
    assert all(is_count(value) for value in found.values()), found
    return {"chiasm": found}
