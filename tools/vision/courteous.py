"""Eyes that look behind the scenes only while nobody waits for them."""

from __future__ import annotations

import asyncio

from tools.call import VisionUsage
from tools.vision.backend import VisionAnswer, VisionBackend, VisionBusy, VisionError, VisionQuery
from tools.watch import FREE, NOBODY, Ending, LookWatch, Price


class Courteous:
    """`eyes`, with a second way to ask them: `look_behind` waits until no look is under way, and gives way when one
    comes."""

    def __init__(self, eyes: VisionBackend, *, watch: LookWatch = NOBODY, price: Price = FREE) -> None:
        """`watch`: is told of looks, by `tools.look` of those that somebody waits for."""
        self.name = eyes.name
        self.watch = watch
        self.price = price
        self._eyes = eyes
        self._looking = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._behind: asyncio.Task[VisionAnswer] | None = None

    def __repr__(self) -> str:
        return f"<Courteous {self._eyes!r}, {self._looking} looks>"

    @property
    def looking(self) -> int:
        """Looks that somebody waits for."""
        return self._looking

    async def identity(self) -> str:
        return await self._eyes.identity()

    async def ready(self) -> str | None:
        return await self._eyes.ready()

    async def close(self) -> None:
        await self._eyes.close()

    async def look(self, query: VisionQuery) -> VisionAnswer:
        self._looking += 1
        self._idle.clear()
        if self._behind is not None:
            self._behind.cancel()
        try:
            return await self._eyes.look(query)
        finally:
            self._looking -= 1
            if not self._looking:
                self._idle.set()

    async def look_behind(self, query: VisionQuery) -> VisionAnswer | None:
        """`None` where somebody else came; to be asked one at a time.  Raises `VisionError`."""
        await self._idle.wait()
        self._behind = asyncio.ensure_future(self._eyes.look(query))
        seen = self.watch.look(self.name, len(query.images))
        usage: VisionUsage | None = None
        failed: VisionError | None = None
        try:
            await asyncio.wait({self._behind})
            if self._behind.cancelled():
                return None
            answer = self._behind.result()
            usage = answer.usage
            return answer
        except VisionError as error:
            failed = error
            raise
        finally:
            self._behind.cancel()
            self._behind = None
            outcome: Ending = "behind" if usage else "cancelled" if failed is None else failure(failed)
            seen.ended(outcome, usage or VisionUsage())


def failure(error: VisionError) -> Ending:
    if isinstance(error, VisionBusy):
        return "busy"
    return "failed_retryable" if error.retryable else "failed"
