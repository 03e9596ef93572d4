"""Images out of a request and into the cache; placeholders and tools in.

    request ─▶ images found ─▶ each admitted: digest, facts or a problem ─▶ numbers from the conversation's table
            ─▶ placeholders in their places ─▶ our tools behind the client's ─▶ a request of text only

Everything that touches picture data (hashing, base64, Pillow, disk) runs in threads.  An image that was seen before
costs a hash of its base64 text and nothing else: clients send their whole history with every request.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import pybase64

from cache.blobs import Blobs
from cache.image import BadImage, ImageLimits, inspect
from cache.store import StoreError
from cache.table import ImageRecord, ImageTable
from cache.tables import Tables
from router.conversation import Conversation, identify, opening, opening_of
from router.errors import BadRequest
from router.protocol.cuts import Cuts
from router.protocol.image_parts import Base64Image, FoundImage, images_outside, replace_images
from router.protocol.placeholders import inline_placeholder, markers, renumber

log = logging.getLogger("chiasm.ingest")

_REMEMBERED = 20_000
"""Images whose facts are kept in memory, about 300 bytes each: some hundred long conversations."""


_ESCAPED_LETTER = re.compile(rb"(?:(?<!\\)\\+u00|%)(2[bBfF]|3[dD])")
_ESCAPED_FOLD = re.compile(rb"(?<!\\)\\+[rn]")

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


@dataclass(frozen=True, slots=True)
class _Seen:
    facts: Admitted
    kept_at: float
    """When its bytes were last put into the store, on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """A request of text only, and the conversation it belongs to."""

    conversation: Conversation
    table: ImageTable
    images: tuple[ImageRecord, ...]
    """The rows of the images that this request brought, in order of appearance; one image may stand in several
    places."""
    _messages: list[Any]
    _found: tuple[FoundImage, ...]
    _token: str

    def messages(self, words: Callable[[ImageRecord], str]) -> list[Any]:
        """The history with `words` in each image's place; in the middle of a text, the short form."""
        if not self._found:
            return self._messages
        standing = zip(self._found, self.images, strict=True)
        said = iter([inline_placeholder(record) if image.inline else words(record) for image, record in standing])
        return replace_images(self._messages, lambda _: next(said), self._token)


class Ingest:
    """Shared by all requests; holds the threads and the memory of what was seen."""

    def __init__(self, *, blobs: Blobs, tables: Tables, limits: ImageLimits, threads: int = 2) -> None:
        self._clock = time.monotonic
        self._blobs = blobs
        self._tables = tables
        self._limits = limits
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="chiasm-image")
        self._seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def take(
        self,
        request: Mapping[str, Any],
        *,
        tenant: str,
        headers: Mapping[str, str],
        cuts: Cuts | None,
    ) -> Ingested:
        """Find, admit and number the images of `request["messages"]`.  Raises `BadRequest` for picture data where none
        belongs.

        `headers`: names in lower case.
        """
        token = cuts.word if cuts is not None and cuts.spans else ""
        if (field := images_outside(request, token)) is not None:
            raise BadRequest(f"picture data in {field!r}; images belong into messages", param=field)
        messages: list[Any] = request["messages"]
        found = _find(messages, token)
        if not found:
            conversation = identify(tenant, headers, request, opening_of(messages))
            table = await self._tables.get(tenant, conversation.key)
            return Ingested(conversation, table, (), messages, (), token)
        admitted = await asyncio.gather(*(self._admit(tenant, image, cuts) for image in found))
        digests = iter(admitted)
        said_first = opening_of(replace_images(opening(messages), lambda _: next(digests).digest, token))
        conversation = identify(tenant, headers, request, said_first)
        wanted = _wanted_numbers(messages, found)

        def number(table: ImageTable) -> list[ImageRecord]:
            rows = zip(found, admitted, wanted, strict=True)
            return [table.number(_record(image, facts), want) for image, facts, want in rows]

        table, records = await self._tables.update(tenant, conversation.key, number)
        renumbered = _with_our_numbers(messages, found, wanted, records)
        return Ingested(conversation, table, tuple(records), renumbered, tuple(found), token)

    async def _admit(self, tenant: str, image: FoundImage, cuts: Cuts | None) -> Admitted:
        if not isinstance(image.source, Base64Image):
            digest = hashlib.sha256(image.source.url.encode("utf-8", "replace")).hexdigest()
            return Admitted(digest, problem="images by URL are not fetched here, send the image itself")
        payload = (cuts.payload(image.source.payload) if cuts else None) or memoryview(
            image.source.payload.encode("utf-8", "replace")
        )
        loop = asyncio.get_running_loop()
        wire_digest = await loop.run_in_executor(self._threads, _sha256, payload)
        key = (tenant, wire_digest)
        known = self._seen.get(key)
        if known is not None and (known.facts.problem or self._clock() - known.kept_at < _TRUSTED_SECONDS):
            self._seen.move_to_end(key)
            return known.facts
        facts, data = await loop.run_in_executor(self._threads, _open, payload, self._limits)
        if data is not None:
            try:
                await self._blobs.put(tenant, data)
            except StoreError as error:
                log.warning("an image could not be kept: %s", error)
                return facts  # not remembered: the next request that brings it tries again
        else:
            facts = replace(facts, digest=wire_digest)
        self._seen[key] = _Seen(facts, self._clock())
        self._seen.move_to_end(key)
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return facts


def _find(messages: list[Any], token: str) -> list[FoundImage]:
    found: list[FoundImage] = []

    def note(image: FoundImage) -> str:
        found.append(image)
        return ""

    replace_images(messages, note, token)
    return found


def _sha256(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _open(payload: memoryview, limits: ImageLimits) -> tuple[Admitted, bytes | None]:
    """Base64 to bytes, and the bytes to facts; `None` for the bytes of an image that nobody can look at."""
    if len(payload) * 3 // 4 > limits.max_bytes + 4:
        return Admitted(
            "", problem=f"too large: {len(payload) * 3 // 4 // 2**20} MiB, limit {limits.max_bytes // 2**20}"
        ), None
    try:
        data = _decode(payload)
        info = inspect(data, limits)
    except BadImage as error:
        return Admitted("", problem=str(error)), None
    digest = hashlib.sha256(data).hexdigest()
    return Admitted(digest, info.media_type, info.width, info.height, len(data)), data


def _decode(payload: memoryview) -> bytes:
    """Strict, because the lenient decoders silently drop what they do not know and hand on damaged pictures."""
    try:
        return pybase64.b64decode(payload, validate=True)
    except ValueError:
        pass
    text = _ESCAPED_LETTER.sub(lambda match: bytes([int(match[1], 16)]), bytes(payload))
    text = _ESCAPED_FOLD.sub(b"", text).translate(None, b" \t\r\n\\")  # also slashes escaped by a second JSON encoder
    text = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return pybase64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise BadImage("not valid base64") from None


def _record(image: FoundImage, facts: Admitted) -> ImageRecord:
    return ImageRecord(
        number=0,
        digest=facts.digest,
        media_type=facts.media_type,
        width=facts.width,
        height=facts.height,
        bytes=facts.size,
        origin=image.origin,
        problem=facts.problem,
    )


# The client's own numbers


def _wanted_numbers(messages: Sequence[Any], found: Sequence[FoundImage]) -> list[int | None]:
    """The number that the client itself gave each image by a marker in the same message: Claude Code and Codex write
    `[Image #1]` beside a pasted image.  Only where there are as many markers as images is it clear whose is whose."""
    wanted: list[int | None] = []
    for index, group in groupby(found, key=lambda image: image.message):
        images = list(group)
        marked = markers(_words(messages[index]))
        wanted += marked if len(marked) == len(images) else [None] * len(images)
    return wanted


def _with_our_numbers(
    messages: list[Any], found: Sequence[FoundImage], wanted: Sequence[int | None], records: Sequence[ImageRecord]
) -> list[Any]:
    """The client's markers rewritten where they could not have the number they say."""
    changes: dict[int, dict[int, int]] = {}
    for image, want, record in zip(found, wanted, records, strict=True):
        if want is not None and want != record.number:
            changes.setdefault(image.message, {})[want] = record.number
    return [
        _renumbered(message, changes[index]) if index in changes else message for index, message in enumerate(messages)
    ]


def _words(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _renumbered(message: dict[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": renumber(content, numbers)}
    parts = [
        {**part, "text": renumber(part["text"], numbers)}
        if isinstance(part, dict) and isinstance(part.get("text"), str)
        else part
        for part in content or ()
    ]
    return {**message, "content": parts}
