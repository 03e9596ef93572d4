"""What the service knows, as it is told."""

from __future__ import annotations

from cache.record import ImageRecord
from cache.table import ImageTable
from router.admin.models import BrainState, Conversation, Cost, EyesState, Image, ImageDetails
from router.brain import Brain
from tools.vision.backend import VisionBackend
from tools.vision.courteous import Courteous


def count_of(table: ImageTable) -> int:
    return len(table) - len(table.deleted)


def conversation(id_: str, tenant: str, table: ImageTable) -> Conversation:
    images, loaded = count_of(table), len(table.loaded)
    return Conversation(
        id=id_,
        tenant=tenant,
        client=table.client,
        images=images,
        loaded=loaded,
        forgotten=images - loaded,
        looks=table.looks,
        created=table.created,
        last_used=max(table.used, table.created),
        cost=_cost(table),
    )


def image(table: ImageTable, number: int, row: ImageRecord | None) -> ImageDetails:
    loaded = table.loaded.get(number)
    known = row or ImageRecord(number, "", problem="nothing is known of it any more")
    return ImageDetails(
        number=number,
        file=known.file,
        media_type=known.media_type,
        width=known.width,
        height=known.height,
        bytes=known.bytes,
        digest=known.digest,
        origin=known.origin,
        status="forgotten" if loaded is None else "loaded",
        reason=known.problem,
        pinned=loaded is not None and loaded.pinned,
        first_turn=known.first_turn or None,
        last_turn=known.last_turn or None,
        looks=known.looks,
        last_task=known.last_task,
        last_answer=known.last_answer,
        description=known.description,
        last_used=known.last_used,
        first_seen=known.first_seen,
        seconds=known.seconds,
        errors=known.errors,
        last_error=known.last_error,
        cost=_cost(known),
    )


def _cost(of: ImageRecord | ImageTable) -> Cost | None:
    if not of.cost:
        return None
    return Cost(prompt_tokens=of.vision_prompt_tokens, completion_tokens=of.vision_completion_tokens, amount=of.cost)


def plain(details: ImageDetails) -> Image:
    """Without what only `ImageDetails` has."""
    return Image.model_validate(details.model_dump(include=set(Image.model_fields)))


def brain_state(brain: Brain) -> BrainState:
    return BrainState(
        name=brain.settings.name or "",
        images=brain.settings.images,
        breaker=brain.upstream.breaker.state,
        eyes=None if brain.eyes is None else brain.eyes.name,
    )


def eyes_state(eyes: VisionBackend, kind: str, most: int) -> EyesState:
    looking = eyes.looking if isinstance(eyes, Courteous) else 0
    return EyesState(name=eyes.name, kind=kind, looks=looking, waiting=max(0, looking - most), max_concurrency=most)
