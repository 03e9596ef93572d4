"""The images of a conversation that came by their addresses.

What a URL shows may be something else tomorrow, or nothing; what a conversation said about `[Image #3]` may not.  So a
URL is fetched once in a conversation: what came is kept like an image that was sent, and under
`url/<place>/<SHA-256 of the URL>` stands which image it was.  Of rivals that fetch the same URL for the first time, the
one that is first there decides for all.

That nothing came is kept too, or each request of a long conversation would wait for the same dead server.  It is tried
again while nobody has answered yet, and when the client sends the URL anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields

from anyio import CapacityLimiter, to_thread

from cache.blobs import HASHERS, Blobs
from cache.documents import Documents
from cache.image import BadImage, ImageLimits, inspect
from cache.remembered import Remembered
from cache.sources.fetch import NO_PLACE, Fetch
from cache.sources.not_fetched import NotFetched
from cache.store import Store, StoreError
from cache.tables import Tables

log = logging.getLogger("chiasm.sources")

_VERSION = 1

_REMEMBERED = 20_000

_TRUSTED_SECONDS = 600.0
"""For so long the bytes are taken to be still in the store.  Then they are read, which counts as a use, and fetched
again if they are gone."""


@dataclass(slots=True)
class FetchedImage:
    """What was found at a URL, or why nothing was."""

    digest: str = ""
    media_type: str = ""
    width: int = 0
    height: int = 0
    bytes: int = 0
    problem: str = ""

    @property
    def is_there(self) -> bool:
        return bool(self.digest) and not self.problem


class RemoteImages:
    """Shared by all requests."""

    def __init__(
        self,
        fetch: Fetch,
        *,
        store: Store,
        tables: Tables,
        blobs: Blobs,
        limits: ImageLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._documents = Documents(
            store, FetchedImage, kind="record of an image's URL", version=_VERSION, empty=FetchedImage
        )
        self._store = store
        self._tables = tables
        self._blobs = blobs
        self._limits = limits
        self._clock = clock
        self._inspectors = CapacityLimiter(HASHERS)
        self._trusted: Remembered[float] = Remembered(_REMEMBERED)

    async def of(
        self, tenant: str, where: str | None, urls: Iterable[str], *, newest: Collection[str], deleted: Collection[str]
    ) -> dict[str, FetchedImage]:
        """What these URLs show in the conversation at `where` (`None`: no store knows it, and nothing is kept).

        `newest`: URLs that nobody has answered yet.  `deleted`: digests of images that the conversation must not have
        any more.
        """
        wanted = list(dict.fromkeys(urls))
        known: list[FetchedImage | None] = [None] * len(wanted)
        if where is not None:
            known = await self._documents.get_many([_key(where, url) for url in wanted])

        async def one(url: str, was: FetchedImage | None) -> FetchedImage:
            if was is not None and was.is_there:
                if where is not None and was.digest not in deleted:
                    await self._hold(tenant, where, url, was.digest)
                return was
            if was is not None and url not in newest:
                return was
            return await self._first(tenant, where, url)

        found = await asyncio.gather(*(one(url, was) for url, was in zip(wanted, known, strict=True)))
        return dict(zip(wanted, found, strict=True))

    async def _first(self, tenant: str, where: str | None, url: str) -> FetchedImage:
        try:
            self._fetch.permitted(url)
        except NotFetched as error:
            return FetchedImage(problem=error.reason)  # not kept: it costs nothing, and the list of hosts may grow
        image, data = await self._fetched(tenant, url)
        if image.problem == NO_PLACE:
            return image  # not kept: it says nothing of the image
        if data is not None:
            try:
                await self._blobs.put(tenant, data)
            except StoreError as error:
                log.warning("an image could not be kept: %s", error)
                return image
        if where is None:
            return image
        kept, _ = await self._documents.change(_key(where, url), lambda was: _decide(was, image))
        await self._take_back(where, url)
        if kept.digest == image.digest:
            self._trusted.put(_trusted_key(where, url), self._clock())
        return kept

    async def _take_back(self, where: str, url: str) -> None:
        """What was kept while the conversation was deleted."""
        try:
            if await self._tables.at(where) is None:
                await self._store.delete(_key(where, url))
        except StoreError as error:
            log.warning("a record of an image's URL could not be dropped: %s", error)

    async def _fetched(self, tenant: str, url: str) -> tuple[FetchedImage, bytes | None]:
        try:
            data = await self._fetch.fetch(url, tenant)
            image = await to_thread.run_sync(lambda: _inspected(data, self._limits), limiter=self._inspectors)
        except (NotFetched, BadImage) as error:
            return FetchedImage(problem=error.reason), None
        return image, data

    async def _hold(self, tenant: str, where: str, url: str, digest: str) -> None:
        """See to it that the bytes are there as long as the conversation is."""
        key = _trusted_key(where, url)
        since = self._trusted.get(key)
        if since is not None and self._clock() - since < _TRUSTED_SECONDS:
            return
        try:
            if await self._blobs.get(tenant, digest) is None:
                image, data = await self._fetched(tenant, url)
                if data is not None and image.digest == digest:
                    await self._blobs.put(tenant, data)
        except StoreError as error:
            log.warning("an image could not be kept: %s", error)
            return
        self._trusted.put(key, self._clock())


def _inspected(data: bytes, limits: ImageLimits) -> FetchedImage:
    info = inspect(data, limits)
    return FetchedImage(hashlib.sha256(data).hexdigest(), info.media_type, info.width, info.height, len(data))


def _decide(was: FetchedImage, now: FetchedImage) -> None:
    """Once there is an image, it stays."""
    if not was.is_there:
        for field in fields(now):
            setattr(was, field.name, getattr(now, field.name))


def _key(where: str, url: str) -> str:
    return f"url/{where}/{url_digest(url)}"


def url_digest(url: str) -> str:
    return hashlib.sha256(url.encode("utf-8", "replace")).hexdigest()


def _trusted_key(where: str, url: str) -> str:
    return f"{where}/{url_digest(url)}"
