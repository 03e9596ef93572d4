"""The eyes, seen from outside: a picture or several, a task, words back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from tools.call import VisionUsage


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a picture, in fractions of its upright sides: 0 <= left < right <= 1, likewise top and bottom."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class VisionImage:
    """One picture as the client sent it: any of the accepted formats, not yet turned upright, cut or scaled."""

    number: int
    data: bytes
    region: Region | None = None


@dataclass(frozen=True, slots=True)
class VisionQuery:
    """What the eyes are asked: all pictures in one question, so that they can be compared."""

    images: tuple[VisionImage, ...]
    task: str
    context: str = ""
    asker: str = ""
    """Whose question it is.  It changes no answer: askers are served in turn."""


@dataclass(frozen=True, slots=True)
class VisionAnswer:
    """What they said (never empty) and what it cost."""

    text: str
    usage: VisionUsage
    whole: bool = True
    """It ended by itself.  One that was cut, at a limit or because it began to loop, is told but never remembered."""
    seconds: float = field(default=0.0, compare=False)
    """How long they took, the wait for a place counted; 0 where nobody looked."""
    cost: float = field(default=0.0, compare=False)
    """Of `usage`, in the configured currency; 0 without prices."""


class VisionError(Exception):
    """The eyes could not answer.

    `str(error)` is a sentence fit for the brain: what happened, without addresses, keys or picture data.
    """

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class VisionBusy(VisionError):
    """Too many looks of the same asker wait already; nobody was asked."""

    def __init__(self) -> None:
        super().__init__("The vision model is busy: too many looks are waiting.", retryable=True)


class VisionBackend(Protocol):
    """One pair of eyes.  May be asked many things at once; bounds its own concurrency."""

    name: str

    async def look(self, query: VisionQuery) -> VisionAnswer:
        """Answer `query`.  Raises `VisionError` only; cancelling it stops the work at once and frees its place."""

    async def identity(self) -> str:
        """Everything about these eyes that changes an answer, as opaque text: name, model, settings.

        The same after a restart with the same settings, and never equal for eyes that may see differently.  May ask
        the server for its model, once; raises `VisionError` where that fails.
        """

    async def ready(self) -> str | None:
        """`None` when usable, else one line that says why not (for /readyz).  Cheap; never sends a picture."""

    async def close(self) -> None:
        """Let go of connections and workers."""
