"""What changes, told to those who listen.

Told is that something changed and where, never what was said: who wants to know asks again.  The changes are those of
this process.  What other processes do to the same store can be seen only by reading it: cheap for one conversation
(a listener that names it has its table read every `POLL_SECONDS`), but not for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import orjson

from router.errors import Overloaded

MOST_LISTENERS = 64
"""Each costs a connection, and a look at each change."""

MOST_WAITING = 256
"""Events that a listener may be behind; one that is further behind is let go, and begins anew."""

POLL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    """`conversation`: the id; `data` goes out as JSON."""

    number: int
    kind: str
    conversation: str
    data: Mapping[str, Any]

    def encoded(self) -> bytes:
        """As an event of an event stream."""
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (self.number, self.kind.encode(), orjson.dumps(self.data))


class Listener:
    """Of one conversation, or of all."""

    def __init__(self, conversation: str | None) -> None:
        self._conversation = conversation
        self._waiting: asyncio.Queue[Event] = asyncio.Queue(MOST_WAITING)
        self.dropped = False
        """It was too slow; nothing more comes."""

    def tell(self, event: Event) -> None:
        if self.dropped or self._conversation not in (None, event.conversation):
            return
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self.dropped = True

    async def next(self, within: float) -> Event | None:
        """`None` where none came within so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                return await self._waiting.get()
        return None


class Bus:
    """Of one process."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._numbers = count(1)

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def publish(self, kind: str, conversation: str, **data: Any) -> None:
        """Never waits, and costs nothing while nobody listens."""
        if not self._listeners:
            return
        event = self.event(kind, conversation, **data)
        for listener in self._listeners:
            listener.tell(event)

    def event(self, kind: str, conversation: str, **data: Any) -> Event:
        return Event(next(self._numbers), kind, conversation, {"conversation": conversation, **data})

    @contextmanager
    def listen(self, conversation: str | None = None) -> Iterator[Listener]:
        """Raises `Overloaded`."""
        if len(self._listeners) >= MOST_LISTENERS:
            raise Overloaded("too many event streams are open; close some", retry_after=5)
        listener = Listener(conversation)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
