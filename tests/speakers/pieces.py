"""What a brain says, piece by piece; how that is written is the speakers' to know."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Thinks:
    text: str


@dataclass(frozen=True, slots=True)
class Calls:
    """A tool call.  `arguments` as text goes out to the letter, in two fragments."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Waits:
    """Says nothing until then."""

    until: asyncio.Event | float


@dataclass(frozen=True, slots=True)
class Sends:
    """Bytes of the event stream as they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Opens:
    """The first event of a stream, which says nothing yet."""


@dataclass(frozen=True, slots=True)
class Begins:
    """A call with the first of its arguments."""

    name: str
    arguments: str
    id: str


@dataclass(frozen=True, slots=True)
class Continues:
    """More arguments of the call that has begun."""

    arguments: str


@dataclass(frozen=True, slots=True)
class Closes:
    """All that belongs to a good end, here."""


@dataclass(frozen=True, slots=True)
class Finishes:
    reason: str


@dataclass(frozen=True, slots=True)
class Fails:
    """An error in the stream."""

    words: str
    code: int = 500


class Breaks:
    """The connection is reset here."""


class Ends:
    """The body ends here, cleanly as far as HTTP goes, with nothing said about it."""


class Hangs:
    """Nothing more comes."""


Spoken: TypeAlias = str | Thinks | Calls | Begins | Continues | Opens | Finishes | Fails
"""What each wire format writes in its own way."""

Piece: TypeAlias = Spoken | Closes | Waits | Sends | Breaks | Ends | Hangs


@dataclass(frozen=True, slots=True)
class Saying:
    """One completion as a script has it."""

    number: int
    """Of this process; ids are made of it."""
    pieces: tuple[Piece, ...]
    ids: Mapping[Calls, str]
    """Of its calls."""
    reason: str
    """Why it ends, if no piece says so."""
    usage: tuple[int, int] | None
    """Prompt and completion tokens."""
    done: bool
    """Whether what ends a stream comes."""

    @property
    def words(self) -> str:
        return "".join(piece for piece in self.pieces if isinstance(piece, str))

    @property
    def thoughts(self) -> str:
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Thinks))
