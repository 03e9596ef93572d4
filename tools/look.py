"""One look at images of a conversation: remembered where it can be, shared where others ask the same, made where not.

Everything that has the eyes look goes through here, so that the same question is answered with the same words whoever
asks: the brain by its tool, or a request that needs a description in an image's place.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from cache.looks import Look, Looks, Seen
from cache.record import ImageRecord
from cache.store import StoreError
from tools.call import VisionUsage
from tools.vision.backend import Region, VisionAnswer, VisionBackend, VisionError, VisionImage, VisionQuery
from tools.vision.courteous import Courteous, failure
from tools.vision.imaging import box
from tools.vision.question import PROMPT_VERSION
from tools.watch import FREE, NOBODY, Ending

log = logging.getLogger("chiasm.tools")


@dataclass(frozen=True, slots=True)
class Picture:
    """What is looked at."""

    record: ImageRecord
    region: Region | None = None


@dataclass(frozen=True, slots=True)
class LookFailed:
    """The eyes could not answer; `usage` is what it cost him who asked."""

    error: VisionError
    usage: VisionUsage


@dataclass(frozen=True, slots=True)
class ImageGone:
    """There is nothing left to look at."""

    number: int


Deleted = Callable[[Sequence[int]], Awaitable[Collection[int]]]
"""Which of these images were deleted by now."""

_Outcome = VisionAnswer | LookFailed | ImageGone


async def look(
    eyes: VisionBackend,
    pictures: Sequence[Picture],
    task: str,
    context: str = "",
    *,
    data: Callable[[int], Awaitable[bytes | None]],
    deleted: Deleted | None = None,
    looks: Looks | None = None,
    tenant: str = "",
) -> VisionAnswer | LookFailed | ImageGone:
    """Ask `eyes`, unless `looks` knows what they said; the usage of the answer is what this very asker has to pay.

    `data` gives the bytes of an image by its number, `None` where they are gone; it is asked only when the eyes have
    to look.  What `deleted` names is not remembered.  Without `looks` nothing is remembered or shared.
    """
    watch, price = (eyes.watch, eyes.price) if isinstance(eyes, Courteous) else (NOBODY, FREE)
    seen = watch.look(eyes.name, len(pictures))
    outcome: Ending = "cancelled"
    usage = VisionUsage()
    try:
        found, outcome = await _look(
            eyes, pictures, task, context, data=data, deleted=deleted, looks=looks, tenant=tenant
        )
        if isinstance(found, VisionAnswer):
            usage = found.usage
            return replace(found, cost=price.of(usage.prompt_tokens, usage.completion_tokens))
        return found
    finally:
        seen.ended(outcome, usage)


async def _look(
    eyes: VisionBackend,
    pictures: Sequence[Picture],
    task: str,
    context: str,
    *,
    data: Callable[[int], Awaitable[bytes | None]],
    deleted: Deleted | None,
    looks: Looks | None,
    tenant: str,
) -> tuple[_Outcome, Ending]:

    async def see() -> Seen[_Outcome]:
        outcome = await _see(eyes, pictures, task, context, data, tenant)
        if isinstance(outcome, VisionAnswer) and outcome.whole and outcome.text.strip():
            return Seen(outcome, outcome.text)
        return Seen(outcome, None)

    asked = None if looks is None else await _asked(eyes, pictures, task, context)
    if looks is None or asked is None:
        return _called((await see()).outcome, pays=True)
    told = await looks.ask(tenant, asked, see)
    if told.outcome is not None and deleted is not None:
        # Who deletes an image goes by what is there; what was seen in it meanwhile is forgotten here.
        by_now = await deleted(asked.numbers)
        for picture in pictures:
            if picture.record.number in by_now:
                await _forget(looks, tenant, picture.record.digest)
    match told.outcome:
        case None:
            return VisionAnswer(told.text or "", VisionUsage()), "remembered"
        case VisionAnswer() as answer:
            usage = answer.usage if told.pays else VisionUsage()
            text = answer.text if told.text is None else told.text
            return _called(replace(answer, text=text, usage=usage), pays=told.pays)
        case LookFailed(error, usage):
            return _called(LookFailed(error, usage if told.pays else VisionUsage()), pays=told.pays)
        case ImageGone() as gone:
            return _called(gone, pays=True)
        case _:
            assert_never(told.outcome)


def _called(found: _Outcome, *, pays: bool) -> tuple[_Outcome, Ending]:
    if isinstance(found, ImageGone):
        return found, "gone"
    if not pays:
        return found, "shared"
    return found, failure(found.error) if isinstance(found, LookFailed) else "answered"


async def _forget(looks: Looks, tenant: str, digest: str) -> None:
    try:
        await looks.forget(tenant, digest)
    except StoreError as error:
        log.warning("what was seen in an image that was deleted could not be forgotten: %s", error)


async def _see(
    eyes: VisionBackend,
    pictures: Sequence[Picture],
    task: str,
    context: str,
    data: Callable[[int], Awaitable[bytes | None]],
    asker: str,
) -> _Outcome:
    images = []
    for picture in pictures:
        number = picture.record.number
        if (found := await data(number)) is None:
            return ImageGone(number)
        images.append(VisionImage(number, found, picture.region))
    begun = time.monotonic()
    try:
        answer = await eyes.look(VisionQuery(tuple(images), task, context, asker))
    except VisionError as error:
        return LookFailed(error, VisionUsage(calls=1))
    usage = replace(answer.usage, calls=max(1, answer.usage.calls))
    return replace(answer, usage=usage, seconds=time.monotonic() - begun)


async def _asked(eyes: VisionBackend, pictures: Sequence[Picture], task: str, context: str) -> Look | None:
    """The question as it is remembered; `None` while it is not known who would answer it."""
    try:
        identity = await eyes.identity()
    except VisionError:
        return None  # they are asked nevertheless, and say in their own words what is wrong
    return Look(
        digests=tuple(picture.record.digest for picture in pictures),
        numbers=tuple(picture.record.number for picture in pictures),
        task=task,
        context=context,
        regions=tuple(_part(picture) for picture in pictures),
        eyes=identity,
        wording=PROMPT_VERSION,
    )


def _part(picture: Picture) -> tuple[int, int, int, int] | None:
    """In whole pixels, as it is cut out: "50%,0%,50%,50%" and "100,0,100,50" can be the same part."""
    if picture.region is None or picture.region == Region(0, 0, 1, 1):
        return None
    return box(picture.region, picture.record.width, picture.record.height)
