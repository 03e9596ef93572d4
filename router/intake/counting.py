"""A request prepared as it would be, for counting its tokens: nothing is kept, nobody is asked.

Clients count before they ask, and they count parts: a file, a list of tools, a history without its end.  What such a
request would be numbered, forgotten or shown must not come true because somebody has counted it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cache.forgetting import LoadLimits
from cache.holders import Holders
from cache.image import ImageLimits
from cache.looks import Looks
from cache.overlay import Overlay
from cache.pixels.pool import Pixels
from cache.rows import Rows
from cache.store import Store
from cache.tables import Tables
from router.intake.afterwards import Afterwards
from router.intake.caption import Captions
from router.intake.hidden_turns import HiddenTurns
from router.intake.ingest import Ingest
from router.intake.preparation import Preparation
from router.intake.readable import ReadableBlobs
from router.intake.since import Since
from tools.call import VisionUsage
from tools.places import Places
from tools.vision.backend import VisionAnswer, VisionBackend, VisionQuery

_AT_ONCE = 4
"""Each opens all of a request's images again, in threads of its own."""

_NOT_LOOKED_AT = "(It will be described when the request is sent.)"


@dataclass(frozen=True, slots=True)
class Counting:
    """What it takes; made once by the application."""

    store: Store
    limits: ImageLimits
    load_limits: LoadLimits
    pixels: Pixels
    always_offer: bool
    _places: Places = field(default_factory=lambda: Places(_AT_ONCE))

    @asynccontextmanager
    async def preparation(self, tenant: str) -> AsyncIterator[Preparation]:
        """For one request of this tenant, which waits for its turn."""
        async with self._places.of(tenant), self._rooms() as preparation:
            yield preparation

    @asynccontextmanager
    async def _rooms(self) -> AsyncIterator[Preparation]:
        store = Overlay(self.store)
        blobs, tables, rows = ReadableBlobs(store, self.pixels, self.limits), Tables(store), Rows(store)
        looks, hidden_turns = Looks(store), HiddenTurns(store, tables=tables)
        afterwards = Afterwards(near=sys.maxsize, pixels=self.pixels)
        ingest = Ingest(
            blobs=blobs,
            tables=tables,
            rows=rows,
            limits=self.limits,
            load_limits=self.load_limits,
            holders=Holders(store),
        )
        try:
            yield Preparation(
                ingest=ingest,
                tables=tables,
                rows=rows,
                blobs=blobs,
                looks=looks,
                captions=Captions(rows=rows, looks=looks),
                hidden_turns=hidden_turns,
                afterwards=afterwards,
                since=Since(store),
                always_offer=self.always_offer,
            )
        finally:
            await hidden_turns.close()
            await afterwards.close()
            ingest.close()
            await store.close()


class ClosedEyes:
    """Says of everything that nobody has looked yet."""

    def __init__(self, eyes: VisionBackend) -> None:
        self.name = eyes.name
        self._eyes = eyes

    async def look(self, query: VisionQuery) -> VisionAnswer:
        return VisionAnswer(_NOT_LOOKED_AT, VisionUsage(), whole=False)

    async def identity(self) -> str:
        return await self._eyes.identity()

    async def ready(self) -> str | None:
        return None

    async def close(self) -> None:
        """They are another's."""
