"""Images let in: their bytes into the store, or words on why not.

Everything that touches picture data (hashing, base64, Pillow, disk) runs in threads, where tenants take turns.  An
image that was seen before is read from its base64 and hashed, which takes less than to hash the base64, and nothing
else is done: clients send their whole history with every request.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pybase64

from cache.blobs import Blobs
from cache.image import BadImage, ImageLimits, inspect
from cache.remembered import Remembered
from cache.sources.remote_images import url_digest
from cache.store import StoreError
from router.protocol.cuts import Cuts
from router.protocol.image_parts import Base64Image, FoundImage
from tools.places import Places

log = logging.getLogger("chiasm.ingest")

_ESCAPED_LETTER = re.compile(rb"(?:(?<!\\)\\+u00|%)(2[bBfF]|3[dD])")
_ESCAPED_FOLD = re.compile(rb"(?<!\\)\\+[rn]")

_REMEMBERED = 20_000
"""Images whose facts are kept in memory, about 900 bytes each: some hundred long conversations."""

_AT_ONCE = 4
"""Images of one request that are in work at once, with their bytes in memory: two in the threads and two on their way
to the store."""

_T = TypeVar("_T")

_TRUSTED_SECONDS = 600.0
"""For so long an image is taken to be still in the store.  Afterwards it is put there again, which costs a decode of
its base64 and counts as a use: the store forgets what is longest unused, and the client still sends it."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """What is known of one image after it was let in, or why it was not."""

    digest: str
    media_type: str = ""
    width: int = 0
    height: int = 0
    size: int = 0
    problem: str = ""
    plain: bool = True
    """Its base64 is as the standard has it, so that every server can read it as it was sent."""


@dataclass(frozen=True, slots=True)
class Seen:
    facts: Admitted
    kept_at: float
    """When its bytes were last put into the store, on the monotonic clock."""


class Admission:
    """Shared by all requests; holds the threads and the memory of what was seen."""

    def __init__(self, *, blobs: Blobs, limits: ImageLimits, threads: int = 2) -> None:
        self.clock = time.monotonic
        self._blobs = blobs
        self._limits = limits
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="chiasm-image")
        self._places = Places(threads)
        self._seen: Remembered[Seen] = Remembered(_REMEMBERED)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def admit(
        self, tenant: str, images: Sequence[FoundImage], cuts: Cuts | None, since: float = -math.inf
    ) -> list[Seen]:
        """What is known of each, in order.  `since`: what was put into the store before then is put there again."""
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one(image: FoundImage) -> Seen:
            async with at_once:
                return await self._one(tenant, image, cuts, since)

        return await asyncio.gather(*map(one, images))

    async def _in_thread(self, work: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def _one(self, tenant: str, image: FoundImage, cuts: Cuts | None, since: float = -math.inf) -> Seen:
        if not isinstance(image.source, Base64Image):
            problem = "images by URL are not fetched here, send the image itself"
            return Seen(Admitted(url_digest(image.source.url), problem=problem), self.clock())
        payload = (cuts.payload(image.source.payload) if cuts else None) or memoryview(
            image.source.payload.encode("utf-8", "replace")
        )
        # Tenants take turns, so that who brings a thousand images keeps nobody else waiting for all of them.  For the
        # threads alone: a store that is slow to take one tenant's images is no reason for another to wait.
        async with self._places.of(tenant):
            digest, data = await self._in_thread(_read, payload, self._limits)
            key = f"{tenant}/{digest}" if data is not None else f"{tenant}/text/{digest}"
            known = self._seen.get(key)
            since = max(since, self.clock() - _TRUSTED_SECONDS)
            if known is not None and (known.facts.problem or (known.kept_at > since and not self._gone(tenant, known))):
                return known
            facts, data = await self._in_thread(_open, payload, data, digest, self._limits)
        if data is not None:
            try:
                await self._blobs.put(tenant, data, facts.digest)
            except StoreError as error:
                log.warning("an image could not be kept: %s", error)
                return Seen(facts, self.clock())  # not remembered: the next request that brings it tries again
        seen = Seen(facts, self.clock())
        self._seen.put(key, seen)
        return seen

    def _gone(self, tenant: str, known: Seen) -> bool:
        """Whoever wanted its bytes since then did not get them; here they are again."""
        return self._blobs.missed(tenant, known.facts.digest)


def _read(payload: memoryview, limits: ImageLimits) -> tuple[str, bytes | None]:
    """The SHA-256 of an image's bytes, and those; where it is too large or not written as the standard has it, the
    SHA-256 of its base64."""
    data = None if _too_large(payload, limits) else _as_the_standard_has_it(payload)
    return hashlib.sha256(payload if data is None else data).hexdigest(), data


def _open(payload: memoryview, data: bytes | None, digest: str, limits: ImageLimits) -> tuple[Admitted, bytes | None]:
    """What was read, to facts; `None` for the bytes of an image that nobody can look at."""
    if _too_large(payload, limits):
        size, most = len(payload) * 3 // 4 // 2**20, limits.max_bytes // 2**20
        return Admitted(digest, problem=f"too large: {size} MiB, limit {most}"), None
    plain = data is not None
    try:
        data = _decode(payload) if data is None else data
        info = inspect(data, limits)
    except BadImage as error:
        return Admitted(digest, problem=str(error)), None
    if not plain:
        digest = hashlib.sha256(data).hexdigest()
    return Admitted(digest, info.media_type, info.width, info.height, len(data), plain=plain), data


def _too_large(payload: memoryview, limits: ImageLimits) -> bool:
    return len(payload) * 3 // 4 > limits.max_bytes + 4


def _as_the_standard_has_it(payload: memoryview) -> bytes | None:
    try:
        return pybase64.b64decode(payload, validate=True)
    except ValueError:
        return None


def _decode(payload: memoryview) -> bytes:
    """Base64 however it was escaped and folded on its way.  Strict, because the lenient decoders silently drop what
    they do not know and hand on damaged pictures."""
    text = _ESCAPED_LETTER.sub(lambda match: bytes([int(match[1], 16)]), bytes(payload))
    text = _ESCAPED_FOLD.sub(b"", text).translate(None, b" \t\r\n\\")  # also slashes escaped by a second JSON encoder
    text = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return pybase64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise BadImage("not valid base64") from None
