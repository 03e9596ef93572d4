"""Draws `sample.png`, the window that `chiasm demo` asks about: `python -m router.demo.draw_sample [FILE]`.

Everything comes from Pillow, its own font included, so that the same pixels come out everywhere.  It is drawn at twice
its size and halved at the end, which smooths the round corners that Pillow draws in steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SAMPLE = Path(__file__).with_name("sample.png")

WIDTH, HEIGHT = 960, 600
WORDS = (
    "Nightly backup",
    "Job",
    "Size",
    "State",
    "Photos",
    "41.8 GB",
    "Done",
    "Documents",
    "6.2 GB",
    "Done",
    "Mail archive",
    "18.4 GB",
    "Failed",
    "Error 507: not enough space on drive E:",
    "Needed 18.4 GB, free 3.1 GB.",
    "Delete old backups or choose another drive.",
    "Last run: Monday 02:15",
    "Choose drive",
    "Try again",
)
"""Everything that is written in it, from top to bottom and from left to right."""

_TWICE = 2
_COLOURS = 64
"""In the file's palette.  A window has few colours, and a third of the bytes is enough for them."""

_DESK, _WINDOW, _BAR, _LINE = "#c9d3df", "#ffffff", "#eef1f5", "#d9dfe7"
_INK, _FAINT, _GOOD, _BAD = "#1f2733", "#5b6675", "#1d7a3d", "#b3261e"
_BANNER, _BUTTON = "#fdecea", "#2257c5"


def draw() -> Image.Image:
    """The window, 960x600, mode P."""
    image = Image.new("RGB", (WIDTH * _TWICE, HEIGHT * _TWICE), _DESK)
    pen = _Pen(image)
    words = iter(WORDS)
    pen.box(40, 30, 920, 570, fill=_WINDOW, radius=12)
    pen.box(40, 30, 920, 86, fill=_BAR, radius=12)
    pen.box(40, 70, 920, 86, fill=_BAR)
    for left, colour in ((62, "#ec6a5e"), (86, "#f4bf4f"), (110, "#61c554")):
        pen.box(left, 51, left + 14, 65, fill=colour, radius=7)
    pen.words(480, 58, next(words), size=22, anchor="mm")

    columns = (72, 470, 690)
    for left in columns:
        pen.words(left, 118, next(words), size=18, fill=_FAINT)
    for middle in (158, 206, 254):
        pen.box(72, middle - 24, 888, middle - 23, fill=_LINE)
        pen.words(columns[0], middle, next(words), size=22)
        pen.words(columns[1], middle, next(words), size=22)
        state = next(words)
        pen.words(columns[2], middle, state, size=22, fill=_GOOD if state == "Done" else _BAD)

    pen.box(72, 296, 888, 470, fill=_BANNER, radius=8)
    pen.box(72, 296, 80, 470, fill=_BAD)
    pen.words(108, 332, next(words), size=28, fill=_BAD)
    pen.words(108, 382, next(words), size=22)
    pen.words(108, 428, next(words), size=22)

    pen.words(72, 521, next(words), size=18, fill=_FAINT)
    pen.box(516, 498, 696, 544, fill=_BAR, radius=8)
    pen.words(606, 521, next(words), size=20, anchor="mm")
    pen.box(712, 498, 888, 544, fill=_BUTTON, radius=8)
    pen.words(800, 521, next(words), size=20, anchor="mm", fill="#ffffff")
    assert next(words, None) is None
    return image.reduce(_TWICE).quantize(_COLOURS, dither=Image.Dither.NONE)


class _Pen:
    """Draws in pixels of the finished picture."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)

    def box(self, left: int, top: int, right: int, bottom: int, *, fill: str, radius: int = 0) -> None:
        corners = (left * _TWICE, top * _TWICE, right * _TWICE - 1, bottom * _TWICE - 1)
        self._draw.rounded_rectangle(corners, radius * _TWICE, fill=fill)

    def words(self, x: int, middle: int, words: str, *, size: int, anchor: str = "lm", fill: str = _INK) -> None:
        font = ImageFont.load_default(size=size * _TWICE)
        self._draw.text((x * _TWICE, middle * _TWICE), words, font=font, fill=fill, anchor=anchor)


if __name__ == "__main__":
    draw().save(sys.argv[1] if len(sys.argv) > 1 else SAMPLE, optimize=True)
