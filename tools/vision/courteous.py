"""Eyes that look behind the scenes only while nobody waits for them."""

from __future__ import annotations

import asyncio

from tools.vision.backend import VisionAnswer, VisionBackend, VisionQuery


class Courteous:
    """`eyes`, with a second way to ask them: `look_behind` waits until no look is under way, and gives way when one
    comes."""

    def __init__(self, eyes: VisionBackend) -> None:
        self.name = eyes.name
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
        try:
            await asyncio.wait({self._behind})
            return None if self._behind.cancelled() else self._behind.result()
        finally:
            self._behind.cancel()
            self._behind = None
