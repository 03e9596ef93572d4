"""Pictures as any server reads them, for a brain that has eyes itself.

The store keeps an image as the client sent it, because its digest is its name; what few servers read (HEIC) is
converted on its way out.  That takes a second, and each request of a conversation needs the same again, so some are
kept in memory, for as long as the image itself is.
"""

from __future__ import annotations

import asyncio
import logging

from cache import heif
from cache.blobs import Blobs
from cache.image import DEFAULT_LIMITS, ImageLimits
from cache.pixels.pool import Pixels
from cache.remembered import Remembered
from cache.store import Store
from tools.vision.backend import VisionError
from tools.vision.imaging import Prepared
from tools.vision.sandboxed import prepared

log = logging.getLogger("chiasm.images")

CONVERTED = frozenset({heif.MEDIA_TYPE})
"""Media types that never leave as they are."""

_KEPT_BYTES = 64 * 1024 * 1024
"""Some twenty photos."""


class ReadableBlobs(Blobs):
    """`Blobs` that can also be had converted."""

    def __init__(self, store: Store, pixels: Pixels, limits: ImageLimits = DEFAULT_LIMITS) -> None:
        super().__init__(store)
        self._pixels = pixels
        self._limits = limits
        self._converted: Remembered[Prepared] = Remembered(_KEPT_BYTES)

    async def converted(self, tenant: str, digest: str, data: bytes) -> tuple[bytes, str] | None:
        """The same picture as PNG or JPEG, upright, and its media type; `None` where nobody can decode it."""
        key = f"{tenant}/{digest}"
        picture = self._converted.get(key)
        if picture is None:
            try:
                picture = await asyncio.to_thread(self._convert, tenant, data)
            except VisionError as error:
                log.warning("an image could not be converted: %s", error)
                return None
            self._converted.put(key, picture, len(picture.data))
        return picture.data, picture.media_type

    async def delete(self, tenant: str, digest: str) -> bool:
        """As of old, and what was made of it is forgotten too."""
        self._converted.pop(f"{tenant}/{digest}")
        return await super().delete(tenant, digest)

    def _convert(self, tenant: str, data: bytes) -> Prepared:
        most = self._limits.max_pixels
        return prepared(self._pixels, data, None, max_pixels=most, min_side=1, limits=self._limits, tenant=tenant)
