"""A text that grows by words: each costs the same however long it is, and little memory."""

from __future__ import annotations

from collections.abc import Iterable

_MOST = 1024
"""Pieces that stand by themselves.  A string has some fifty bytes beside its characters, ten times what a word has."""


class Pieces:
    __slots__ = ("_joined", "_loose")

    def __init__(self, pieces: Iterable[str] = ()) -> None:
        self._joined: list[str] = []
        self._loose = list(pieces)

    def append(self, piece: str) -> None:
        self._loose.append(piece)
        if len(self._loose) >= _MOST:
            self._joined.append("".join(self._loose))
            self._loose.clear()

    def __bool__(self) -> bool:
        """Whether there is any piece."""
        return bool(self._loose or self._joined)

    def __str__(self) -> str:
        return "".join([*self._joined, *self._loose])

    def __repr__(self) -> str:
        return f"Pieces({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        """The same text, however it was cut."""
        return isinstance(other, Pieces) and str(self) == str(other)

    __hash__ = None  # type: ignore[assignment]
