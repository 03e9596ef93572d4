"""What one upstream completion has said so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from router.protocol import reasoning_details
from router.protocol.parts import Usage
from router.protocol.pieces import Pieces
from tools.call import ToolCall

MOST_CHARACTERS = 64 * 2**20
"""Of one turn.  Ten million tokens; all of it is kept until the turn ends, to be said to the brain again."""

MOST_TOKENS = 2**40
"""No server has ever said so many words in one answer."""


@dataclass(slots=True)
class CallInTurn:
    """A tool call while it is being said."""

    slot: int
    id: str
    name: str
    owned: bool
    pieces: Pieces = field(default_factory=Pieces)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """As in `ToolStart`."""

    @property
    def arguments(self) -> str:
        return str(self.pieces)

    def whole(self) -> ToolCall:
        return ToolCall(self.id, self.name, self.arguments)

    def is_whole(self) -> bool:
        return is_object(self.arguments)


@dataclass(slots=True)
class Turn:
    """Grows with the parts; text is kept in pieces, so that a part costs the same however long the turn is."""

    number: int
    content_pieces: Pieces = field(default_factory=Pieces)
    reasoning_pieces: Pieces = field(default_factory=Pieces)
    detail_pieces: list[Mapping[str, Any]] = field(default_factory=list)
    blocks: list[Mapping[str, Any]] = field(default_factory=list)
    """As in `Block`; empty where the server's form has no pieces."""
    calls: dict[int, CallInTurn] = field(default_factory=dict)
    finish: str | None = None
    usage: Usage | None = None
    heard: bool = False
    length: int = 0
    """Characters of text, thoughts and arguments so far."""

    @property
    def content(self) -> str:
        return str(self.content_pieces)

    @property
    def reasoning(self) -> str:
        return str(self.reasoning_pieces)

    @property
    def details(self) -> list[dict[str, Any]]:
        """The thoughts once more, in the form that the server wants back."""
        return reasoning_details.joined(self.detail_pieces)

    @property
    def owned(self) -> tuple[CallInTurn, ...]:
        return tuple(call for call in self.calls.values() if call.owned)

    @property
    def of_client(self) -> tuple[CallInTurn, ...]:
        return tuple(call for call in self.calls.values() if not call.owned)

    def completion_tokens(self) -> int:
        """As the server counted; 0 where it did not say."""
        return count_of(self.usage.values if self.usage else {}, "completion_tokens")

    def prompt_tokens(self) -> int:
        return count_of(self.usage.values if self.usage else {}, "prompt_tokens")


def count_of(values: Mapping[str, Any], key: str) -> int:
    """A number of tokens that can be one; 0 for anything else.  Counts are added up, and JSON has room for 64 bits."""
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS else 0


def is_object(arguments: str) -> bool:
    """Whether this is one complete JSON object.  No beginning of an object is one, so arguments that are can only
    gain white space; nothing at all is not one, because more may be on its way."""
    try:
        return isinstance(orjson.loads(arguments), dict)
    except orjson.JSONDecodeError:
        return False
