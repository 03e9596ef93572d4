"""Descriptions in place of images, for a brain that cannot call tools or a request in which it must not.

Each image is described once, with the user's words in view, and the description is pinned to its row: every later
request must hold the same bytes in its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import assert_never

from cache.looks import Looks
from cache.record import ImageRecord
from cache.rows import Rows
from router.errors import Overloaded
from router.intake.images import ConversationImages
from router.protocol.placeholders import captioned, unseen
from tools.call import VisionUsage
from tools.look import ImageGone, LookFailed, Picture, look
from tools.quotation import estimated, quoted
from tools.toolbox import LOOKS_AT_ONCE
from tools.vision.backend import VisionAnswer, VisionBackend, VisionBusy

log = logging.getLogger("chiasm.caption")

_TASK = (
    "Describe the image so that someone who cannot see it can answer the user. Give all text in it word for word, "
    "then what is shown and how it is laid out."
)


BUSY_SECONDS = 5.0
"""`Retry-After` when too many looks are waiting: some of them are over by then."""


class Captions:
    def __init__(self, *, rows: Rows, looks: Looks) -> None:
        self._rows = rows
        self._looks = looks

    async def describe(
        self, records: Sequence[ImageRecord], *, images: ConversationImages, eyes: VisionBackend, question: str
    ) -> tuple[dict[int, str], VisionUsage]:
        """What stands in each image's place, by number; looked at side by side where not known yet."""
        distinct = {record.number: record for record in records}
        kept = await images.records(list(distinct))
        at_once = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def one(record: ImageRecord) -> tuple[str, VisionUsage]:
            async with at_once:
                return await self._one(record, images, eyes, question)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(kept.get(number, record))) for number, record in distinct.items()]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        words = [task.result() for task in tasks]
        usage = VisionUsage()
        for _, cost in words:
            usage += cost
        return {number: text for number, (text, _) in zip(distinct, words, strict=True)}, usage

    async def _one(
        self, record: ImageRecord, images: ConversationImages, eyes: VisionBackend, question: str
    ) -> tuple[str, VisionUsage]:
        if record.problem:
            return captioned(record, ""), VisionUsage()
        if record.caption:
            return captioned(record, record.caption), VisionUsage()
        context = f"The user's words: {question}" if question else ""
        found = await look(
            eyes,
            [Picture(record)],
            _TASK,
            context,
            data=images.data,
            deleted=images.deleted,
            looks=self._looks,
            tenant=images.tenant,
        )
        match found:
            case ImageGone():
                return unseen(record, "no longer available"), VisionUsage()
            case LookFailed(VisionBusy()):
                # The brain cannot ask again, as it could with tools; the client can.
                raise Overloaded("too many images wait to be looked at; try again soon", retry_after=BUSY_SECONDS)
            case LookFailed(error, usage):
                log.warning("the eyes %r could not describe an image: %s", eyes.name, str(error).partition(":")[0])
                await images.failed([record.number], error)
                return unseen(record, str(error)), usage
            case VisionAnswer():
                return captioned(record, await self._pinned(record, images, found)), found.usage
            case _:
                assert_never(found)

    async def _pinned(self, record: ImageRecord, images: ConversationImages, answer: VisionAnswer) -> str:
        """The words that stand in the image's place from now on."""
        text = quoted([record.number], answer.text)

        def pin(row: ImageRecord) -> str:
            row.caption = row.caption or text  # another request may have been first, and its words are in a history now
            return row.caption

        text = await self._rows.change(images.where, record.number, pin) or text
        await images.looked(
            [record.number],
            _TASK,
            answer.text,
            tokens=estimated(text),
            seconds=answer.seconds,
            spent=answer.usage,
            cost=answer.cost,
        )
        return text
