"""A small picture of an image, decoded where a hostile one can do no harm."""

from __future__ import annotations

from io import BytesIO

from anyio import CapacityLimiter, to_thread

from cache.image import ImageLimits
from cache.pixels.pool import Pixels
from tools.vision.sandboxed import Search, searchable

SIDE = 256
"""Pixels at most."""

AT_ONCE = 2
"""So that a page of them leaves workers to those who look."""

_SMALL = Search(side=SIDE, pixels=SIDE * SIDE, ratio=SIDE, shortest=1)


class Thumbnails:
    def __init__(self, pixels: Pixels, limits: ImageLimits) -> None:
        self._pixels = pixels
        self._limits = limits
        self._places = CapacityLimiter(AT_ONCE)

    async def of(self, tenant: str, data: bytes) -> bytes:
        """A PNG, upright, of the first frame.  Raises `VisionError`."""
        return await to_thread.run_sync(self._made, tenant, data, limiter=self._places)

    def _made(self, tenant: str, data: bytes) -> bytes:
        found = searchable(self._pixels, data, None, _SMALL, limits=self._limits, tenant=tenant)
        out = BytesIO()
        found.pixels.save(out, "PNG")
        return out.getvalue()
