"""Descriptions in place of images, for a brain that cannot call tools or a request in which it must not.

Each image is described once, with the user's words in view, and the description is kept: the next request must hold
the same bytes in its place.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence

from cache.store import Store, StoreError
from cache.table import ImageRecord
from router.conversation import Conversation
from router.images import ConversationImages
from router.protocol.placeholders import captioned, unseen
from tools.analyze_image import quoted
from tools.call import VisionUsage
from tools.vision.backend import VisionBackend, VisionError, VisionImage, VisionQuery

log = logging.getLogger("chiasm.caption")

_TASK = (
    "Describe the image so that someone who cannot see it can answer the user. Give all text in it word for word, "
    "then what is shown and how it is laid out."
)
_VERSION = "1"
"""Part of the key under which a description is kept; to be raised when the task above changes."""


class Captions:
    def __init__(self, store: Store, *, ttl: float) -> None:
        self._store = store
        self._ttl = ttl

    async def describe(
        self,
        records: Sequence[ImageRecord],
        *,
        conversation: Conversation,
        images: ConversationImages,
        eyes: VisionBackend,
        question: str,
    ) -> tuple[dict[int, str], VisionUsage]:
        """What stands in each image's place, by number; looked at side by side where not known yet."""
        distinct = {record.number: record for record in records}
        words = await asyncio.gather(
            *(self._one(record, conversation, images, eyes, question) for record in distinct.values())
        )
        usage = VisionUsage()
        for _, cost in words:
            usage += cost
        return {number: text for number, (text, _) in zip(distinct, words, strict=True)}, usage

    async def _one(
        self,
        record: ImageRecord,
        conversation: Conversation,
        images: ConversationImages,
        eyes: VisionBackend,
        question: str,
    ) -> tuple[str, VisionUsage]:
        if record.problem:
            return captioned(record, ""), VisionUsage()
        key = _key(conversation, record, eyes.name)
        if (kept := await self._kept(key)) is not None:
            return captioned(record, kept), VisionUsage()
        data = await images.data(record.number)
        if data is None:
            return unseen(record, "no longer available"), VisionUsage()
        context = f"The user's words: {question}" if question else ""
        try:
            answer = await eyes.look(VisionQuery((VisionImage(record.number, data),), _TASK, context))
        except VisionError as error:
            log.warning("the eyes %r could not describe an image: %s", eyes.name, str(error).partition(":")[0])
            return unseen(record, str(error)), VisionUsage(calls=1)
        text = quoted([record.number], answer.text)
        try:
            if not await self._store.add(key, text.encode(), ttl=self._ttl):
                text = await self._kept(key) or text  # another request was first, and its words are in a history now
        except StoreError as error:
            log.warning("a description could not be kept: %s", error)
        await images.looked([record.number], _TASK, answer.text)
        return captioned(record, text), answer.usage

    async def _kept(self, key: str) -> str | None:
        try:
            value = await self._store.get(key)
        except StoreError as error:
            log.warning("a description could not be read: %s", error)
            return None
        return None if value is None else value.decode("utf-8", "replace")


def _key(conversation: Conversation, record: ImageRecord, eyes: str) -> str:
    """Kept for the conversation, not for the image alone: the user's words were in view."""
    digest = hashlib.sha256(f"{_VERSION}\0{record.digest}\0{eyes}".encode()).hexdigest()[:40]
    return f"caption/{conversation.tenant}/{conversation.key}/{digest}"
