"""A request to a brain that has eyes itself: pixels in the places of the images that are loaded.

An image part that every server can read stays as the client sent it, behind the words that give its number.  One in
another dialect's form, in base64 that only lenient readers take, or in a format that few servers read (HEIC, which goes
out as JPEG or PNG), becomes a reference, which is filled in from the store when the request goes out: as it was sent,
some server would refuse it now and with every later request.

Pixels cannot stand in the middle of a text, nor in a tool's message (see `router.protocol.pictures`), nor can those of
an image that nobody can read; there, as where an image is forgotten, are words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pybase64

from cache.record import ImageRecord
from router.intake.admission import Admitted
from router.intake.images import ConversationImages
from router.intake.ingest import Ingested, Placed
from router.intake.readable import CONVERTED
from router.intake.since import Since
from router.protocol.cuts import Cuts
from router.protocol.image_parts import FoundImage
from router.protocol.ledger import Place
from router.protocol.pictures import filled, label, reference, referenced, with_pictures
from router.protocol.placeholders import inline_not_shown, not_shown
from tools.vision.pixel_tokens import pixel_tokens


def tokens(image: FoundImage, facts: Admitted) -> int:
    """What its pixels add to the prompt; nothing where they cannot stand."""
    return 0 if image.at is None else pixel_tokens(facts.width, facts.height)


class NativeSight:
    """For one request.  `in_view` are the images whose pixels stand in it."""

    def __init__(self, taken: Ingested, images: ConversationImages, since: Since, cuts: Cuts | None) -> None:
        self._taken = taken
        self._images = images
        self._since = since
        self._cuts = cuts
        self._urls: dict[int, str | None] = {}
        self.in_view: set[int] = set()

    async def history(self, places: Sequence[Place], recall: str | None) -> list[Any]:
        """Asked once.  `recall`: the name under which the brain can have an image shown again; `None` where it cannot
        call."""
        standing = await self._standing(places)
        cuts, self._cuts = self._cuts, None  # the body that it holds is not needed any more
        words: list[str] = []
        parts: dict[tuple[int, int], Any] = {}
        for one, stands in zip(self._taken.placed, standing, strict=True):
            record, at = one.record, one.image.at
            if stands and at is not None:
                words.append(label(record.number, one.called))
                parts[one.image.message, at] = _as_sent(self._taken.with_pictures, one, cuts)
                self.in_view.add(record.number)
            elif one.image.inline:
                words.append(inline_not_shown(record, recall))
            else:
                words.append(not_shown(record, recall, one.called))
        return with_pictures(self._taken.replaced(words), parts)

    async def _standing(self, places: Sequence[Place]) -> list[bool]:
        """Whether each image's pixels stand where it does."""
        table = self._images.table
        with_parts = {one.image.message for one in self._taken.placed if one.image.at is not None}
        stamps = dict.fromkeys(with_parts, table.stamp)
        if table.kept:
            where = {index: places[index] for index in with_parts}
            stamps = await self._since.stamps(self._images.where, where, table.stamp)
        return [
            one.image.at is not None and table.stands([one.record.number], stamps[one.image.message])
            for one in self._taken.placed
        ]

    async def fill(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """`request` with data in place of references; the same data in every turn of the answer."""
        numbers = referenced(request["messages"])
        if not numbers:
            return request
        missing = [number for number in numbers if number not in self._urls]
        rows = await self._images.records(missing)
        for number in missing:
            self._urls[number] = await self._url(rows[number]) if number in rows else None
        return {**request, "messages": filled(request["messages"], self._urls)}

    async def _url(self, record: ImageRecord) -> str | None:
        found = await self._images.readable(record)
        return None if found is None else await asyncio.to_thread(_data_url, *found)


def _as_sent(messages: Sequence[Any], one: Placed, cuts: Cuts | None) -> Any:
    part = messages[one.image.message]["content"][one.image.at]
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else None
    plainly = part.get("type") == "image_url" and isinstance(url, str) and one.plain
    plainly = plainly and one.record.media_type not in CONVERTED
    # Another media type than the image's own is refused by some (Anthropic's models behind OpenRouter).
    if not plainly or not str(url).startswith(f"data:{one.record.media_type};base64,"):
        return reference(one.record.number)
    plain = {"type": "image_url", "image_url": {name: image[name] for name in ("url", "detail") if name in image}}
    return cuts.restored(plain) if cuts is not None else plain


def _data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{pybase64.b64encode(data).decode()}"
