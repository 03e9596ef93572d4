"""A bounded number of places, given in turn to those who wait.

A plain semaphore serves in order of arrival, so that whoever brings a hundred things at once makes everybody else wait
for all of them.  Here each asker has a line of his own, and a place that becomes free goes to the next asker, not to
the next thing.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LineTooLong(Exception):
    """Too much of the same asker waits already."""


class Places:
    """`places` in all; `each`: how many of them one asker may hold at once (all of them unless said otherwise);
    `line`: how much of one asker may wait (without limit unless said otherwise)."""

    def __init__(self, places: int, *, each: int | None = None, line: int | None = None) -> None:
        self._free = places
        self._each = places if each is None else each
        self._longest = line
        self._held: Counter[str] = Counter()
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """Those who wait; the first of them is next."""

    def __repr__(self) -> str:
        return f"<Places {self._free} free, {sum(map(len, self._lines.values()))} waiting>"

    @asynccontextmanager
    async def of(self, asker: str) -> AsyncIterator[None]:
        """A place for `asker`.  Raises `LineTooLong` at once, rather than after a wait."""
        await self._take(asker)
        try:
            yield
        finally:
            self._give_back(asker)

    async def _take(self, asker: str) -> None:
        if self._free and self._held[asker] < self._each and asker not in self._lines:
            self._give(asker)
            return
        if self._longest is not None and len(self._lines.get(asker, ())) >= self._longest:
            raise LineTooLong
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(asker, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was given in the moment in which its asker left
                self._give_back(asker)
            elif turn in (line := self._lines.get(asker, deque())):
                line.remove(turn)
                if not line:
                    del self._lines[asker]
            raise

    def _give(self, asker: str) -> None:
        self._free -= 1
        self._held[asker] += 1

    def _give_back(self, asker: str) -> None:
        self._free += 1
        self._held[asker] -= 1
        if not self._held[asker]:
            del self._held[asker]
        while self._free and (following := self._next()) is not None:
            line = self._lines[following]
            turn = line.popleft()
            if line:
                self._lines.move_to_end(following)
            else:
                del self._lines[following]
            if not turn.cancelled():  # else its asker has left, and has not run since
                self._give(following)
                turn.set_result(None)

    def _next(self) -> str | None:
        return next((asker for asker in self._lines if self._held[asker] < self._each), None)
