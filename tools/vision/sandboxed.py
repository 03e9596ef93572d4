"""Pictures made ready for the eyes where a hostile one can do no harm: both sides of the way to a worker.

`prepared` and `searchable` are for everybody, `…_inside` for the worker.  What needs no decoding does not go there.
What comes back is checked like anything from outside: a worker that was taken over may lie about the picture, but
cannot put anything else into a request.

All of it blocks, and is for threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from cache.image import DEFAULT_LIMITS, BadImage, ImageLimits
from cache.pixels.pool import NoWorker, Pixels, Refused, Work
from tools.vision.backend import Region, VisionError
from tools.vision.imaging import Prepared, pass_on, prepare, upright

_MEDIA_TYPES = ("image/png", "image/jpeg")
_BYTES = {"L": 1, "RGB": 3}
_MAX_NOTE = 500
_MAX_SIDE = 2**31
"""No format that comes in can say more."""


def prepared(
    pixels: Pixels,
    data: bytes,
    region: Region | None,
    *,
    max_pixels: int,
    min_side: int,
    side_multiple: int = 1,
    limits: ImageLimits = DEFAULT_LIMITS,
    tenant: str = "",
) -> Prepared:
    """`imaging.prepare` in a worker.  Raises `VisionError` only."""
    wanted = {"max_pixels": max_pixels, "min_side": min_side, "side_multiple": side_multiple}
    passed = pass_on(data, region, limits=limits, **wanted)
    if passed is not None:
        return passed
    how = {"region": _told(region), "limits": asdict(limits), **wanted}
    match _run(pixels, "prepare", data, how, tenant):
        case (
            {"media_type": str(media_type), "width": int(width), "height": int(height), "note": str(note)},
            picture,
        ) if media_type in _MEDIA_TYPES and width > 0 and height > 0 and _is_note(note):
            return Prepared(picture, media_type, width, height, note)
    raise _not_answered()


def prepare_inside(data: bytes, how: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """As a worker does it."""
    try:
        found = prepare(
            data,
            _region(how),
            max_pixels=how["max_pixels"],
            min_side=how["min_side"],
            side_multiple=how["side_multiple"],
            limits=ImageLimits(**how["limits"]),
        )
    except VisionError as error:
        raise Refused(str(error)) from error
    facts = {"media_type": found.media_type, "width": found.width, "height": found.height, "note": found.note}
    return facts, found.data


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched for text.  `side` and `pixels` at most: more is scaled down.  `ratio` at most, long side over
    short one, and `shortest` at least: thinner pictures are filled up with white."""

    side: int
    pixels: int
    ratio: int
    shortest: int


@dataclass(frozen=True, slots=True)
class Searchable:
    """Pixels in mode L or RGB, scaled by `scale` after the part at `left`, `top` was cut out of the upright picture,
    which has `width` x `height`."""

    pixels: Image.Image
    scale: float
    left: int
    top: int
    width: int
    height: int
    notes: tuple[str, ...]


def searchable(
    pixels: Pixels,
    data: bytes,
    region: Region | None,
    wanted: Search,
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    tenant: str = "",
) -> Searchable:
    """A picture as text recognition takes it.  Raises `VisionError` only."""
    how = {"region": _told(region), "limits": asdict(limits), "search": asdict(wanted)}
    facts, raw = _run(pixels, "search", data, how, tenant)
    longest = max(wanted.side, wanted.shortest)
    match facts:
        case {
            "mode": str(mode),
            "size": [int(wide), int(high)],
            "scale": float(scale),
            "place": [int(left), int(top), int(width), int(height)],
            "notes": list(notes),
        } if (
            mode in _BYTES
            and 0 < wide <= longest
            and 0 < high <= longest
            and all(0 <= one <= _MAX_SIDE for one in (left, top, width, height))
            and len(raw) == wide * high * _BYTES[mode]
            and 0 < scale <= 1
            and all(isinstance(note, str) and _is_note(note) for note in notes)
        ):
            image = Image.frombytes(mode, (wide, high), raw)
            return Searchable(image, scale, left, top, width, height, tuple(notes[:4]))
    raise _not_answered()


def search_inside(data: bytes, how: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """As a worker does it."""
    try:
        picture = upright(data, _region(how), limits=ImageLimits(**how["limits"]))
    except VisionError as error:
        raise Refused(str(error)) from error
    shown, scale = _shrunk(picture.pixels, Search(**how["search"]))
    facts = {
        "mode": shown.mode,
        "size": shown.size,
        "scale": float(scale),
        "place": [picture.left, picture.top, picture.width, picture.height],
        "notes": picture.notes,
    }
    return facts, shown.tobytes()


def _shrunk(pixels: Image.Image, wanted: Search) -> tuple[Image.Image, float]:
    """In a size and shape that detection can afford, and how much it was scaled."""
    width, height = pixels.size
    scale = min(1.0, wanted.side / max(width, height), math.sqrt(wanted.pixels / (width * height)))
    if scale < 1:
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = pixels.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    short = max(wanted.shortest, math.ceil(max(width, height) / wanted.ratio))
    if min(width, height) < short:
        canvas = Image.new(pixels.mode, (max(width, short), max(height, short)), "white")
        canvas.paste(pixels)
        pixels = canvas
    return pixels, scale


def _run(pixels: Pixels, work: Work, data: bytes, how: Mapping[str, Any], tenant: str) -> tuple[dict[str, Any], bytes]:
    try:
        return pixels.run(work, data, how, tenant=tenant)
    except Refused as refused:
        raise VisionError(refused.words, retryable=False) from refused
    except BadImage as bad:
        raise VisionError(f"The picture cannot be used: {bad.reason}.", retryable=False) from bad
    except NoWorker as error:
        raise VisionError("The picture could not be decoded just now.", retryable=True) from error


def _told(region: Region | None) -> list[float] | None:
    return None if region is None else [region.left, region.top, region.right, region.bottom]


def _region(how: Mapping[str, Any]) -> Region | None:
    return None if how["region"] is None else Region(*how["region"])


def _is_note(text: str) -> bool:
    return len(text) <= _MAX_NOTE and (text.isprintable() or not text)


def _not_answered() -> VisionError:
    return VisionError("The picture could not be prepared for the vision model.", retryable=False)
