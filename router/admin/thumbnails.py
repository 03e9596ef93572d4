"""A small picture of an image, decoded where a hostile one can do no harm."""

from __future__ import annotations

from io import BytesIO

from anyio import CapacityLimiter, to_thread

from cache.image import ImageLimits
from cache.pixels.pool import Pixels
from tools.vision.sandboxed import Search, searchable

SIDE = 256
"""Pixels at most."""

LARGE = 1024
"""For a page that shows one image alone."""

AT_ONCE = 2
"""So that a page of them leaves workers to those who look."""


class Thumbnails:
    def __init__(self, pixels: Pixels, limits: ImageLimits) -> None:
        self._pixels = pixels
        self._limits = limits
        self._places = CapacityLimiter(AT_ONCE)

    async def of(self, tenant: str, data: bytes, side: int = SIDE) -> bytes:
        """A PNG of at most `side` pixels a side, upright, of the first frame.  Raises `VisionError`."""
        return await to_thread.run_sync(self._made, tenant, data, side, limiter=self._places)

    def _made(self, tenant: str, data: bytes, side: int) -> bytes:
        size = Search(side=side, pixels=side * side, ratio=side, shortest=1)
        found = searchable(self._pixels, data, None, size, limits=self._limits, tenant=tenant)
        out = BytesIO()
        found.pixels.save(out, "PNG")
        return out.getvalue()
