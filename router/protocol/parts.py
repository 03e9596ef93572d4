"""What a completion is made of, whichever server said it and in whatever chunks.

A dialect turns the bytes of one upstream completion into these, in the order in which they were said, and
writes the client's stream from them.  They are events of the exchange as well as what its `SendPart` carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Head:
    """The first sign of life of a completion and what its envelope said; once a turn."""

    id: str = ""
    created: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Constant envelope fields worth keeping, such as `system_fingerprint`."""


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str
    logprobs: Any = None


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    logprobs: Any = None


@dataclass(frozen=True, slots=True)
class ToolStart:
    """A call begins: its name is known and whole.  `slot` counts the calls of one turn from 0."""

    slot: int
    id: str
    name: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the call that we do not understand and the server wants back with it (Gemini's `extra_content` holds
    a signature without which it refuses the next turn)."""


@dataclass(frozen=True, slots=True)
class ToolArgs:
    """More of the arguments' text of the call in `slot`."""

    slot: int
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """A finish reason was seen.  Some servers send one after every chunk and some none: it ends nothing."""

    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """A usage object as the server wrote it; a later one replaces it."""

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ErrorFrame:
    """The server said inside its stream that it failed."""

    message: str
    code: int | str | None = None
    """A number is a status; a word is one that clients of the format decide by."""
    status: int | None = None
    """What a word means as a status, where it means one."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something said that we do not understand and pass on: fields of a delta, or the chunk of another choice."""

    delta: Mapping[str, Any] = field(default_factory=dict)
    choice: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A finished piece of what was said, in the form in which the server wants it back (a thought with its signature).
    In their order they are all that was said, calls as `CALL`; other parts have told the same before."""

    value: Mapping[str, Any]


CALL: Mapping[str, Any] = {"type": "call"}
"""Stands for a call where it was said: the first of these for the first call, and so on."""

Part: TypeAlias = Head | Reasoning | Text | ToolStart | ToolArgs | Finish | Usage | ErrorFrame | Opaque | Block
