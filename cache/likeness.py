"""How alike two pictures look, for telling that a screenshot shows what the next one shows.

*dHash*: the picture in 9 x 8 grey squares, and for each square whether its right neighbour is brighter: 64 bits of
what goes up and what goes down, which scaling, compression and a little change somewhere leave as they are.  The
number of bits in which two differ says how far apart they are; `cache.forgetting.NEAR` says how far is near.

Two things are done for screens.  Plain areas are many there, and the next square is as bright as this one but for the
last digit, so a neighbour counts as brighter only from `_STEP` on.  And lines of text end anywhere to the right, which
on paper brightens to the right and sets bits, and on a dark screen would set none: what is dark is read inverted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from cache.image import DEFAULT_LIMITS, BadImage, ImageLimits, inspect, open_image
from cache.pixels.pool import Pixels, Refused

_HEX = re.compile(r"[0-9a-f]{16}")

_COLUMNS, _ROWS = 9, 8

_STEP = 2
"""Of 255."""


def likeness(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> str:
    """The dHash of an image file, as it is stored (not turned upright): 16 hex digits, or "" for what is none.

    Decodes the whole picture (a JPEG at an eighth of its size), seconds and half a gigabyte for the largest: for a
    worker of `cache.pixels`.
    """
    try:
        image: Image.Image = open_image(data, inspect(data, limits).media_type)
        if isinstance(image, JpegImageFile):
            image.draft("L", (_COLUMNS * 8, _ROWS * 8))
        squares = _grey(image).resize((_COLUMNS, _ROWS), Image.Resampling.BOX, reducing_gap=3.0).tobytes()
    except MemoryError:
        raise
    except Exception:
        # No image that is let in, or damaged pixels behind a sound header; a decoder says that in many ways.
        return ""
    sign = -1 if sum(squares) < 128 * len(squares) else 1
    bits = 0
    for row in range(_ROWS):
        for place in range(row * _COLUMNS, (row + 1) * _COLUMNS - 1):
            bits = bits << 1 | (sign * (squares[place + 1] - squares[place]) >= _STEP)
    return f"{bits:016x}"


def likeness_inside(data: bytes, how: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """As a worker does it."""
    return {"likeness": likeness(data, ImageLimits(**how))}, b""


def likeness_of(pixels: Pixels, data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, tenant: str = "") -> str:
    """`likeness`, found out in a worker; "" also where it was lost.  Raises `NoWorker`."""
    try:
        facts, _ = pixels.run("likeness", data, asdict(limits), tenant=tenant)
    except (Refused, BadImage):
        return ""
    found = facts.get("likeness")
    return found if isinstance(found, str) and _HEX.fullmatch(found) else ""


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey, which Pillow would cut off above 255 rather than scale: 65535 / 257 = 255.
        return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        plain = Image.new("RGB", image.size, "white")
        plain.paste(layer, mask=layer)
        return plain.convert("L")
    return image.convert("L")
