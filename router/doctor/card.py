"""Test cards: pictures with known words, colours and places, drawn anew for each run.

Code words are letters that no font lets be taken for one another, three to five of them: an answer that holds one has
come from the pixels and no other way.  They differ from run to run, so that no cache can answer in the eyes' place.
"""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_LETTERS = "ACEFHKLMNPRTUVWXY"
_COLOURS = {"red": "#d62020", "green": "#1a9634", "blue": "#2046d6", "yellow": "#f2d81e"}
_PIXELS_OF_A_TOKEN = 32 * 32
_LINE = 40
"""Pixels."""


@dataclass(frozen=True, slots=True)
class Card:
    data: bytes
    """A PNG."""
    width: int
    height: int
    words: tuple[str, ...]
    """From top to bottom."""
    background: str

    @property
    def tokens(self) -> int:
        """About how many it takes, at one for 32 x 32 pixels and 64 at least, with a quarter more to be safe."""
        return max(80, self.width * self.height * 5 // (4 * _PIXELS_OF_A_TOKEN))

    @property
    def part(self) -> dict[str, Any]:
        """As a part of a message."""
        url = f"data:image/png;base64,{b64encode(self.data).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}


def small(chance: random.Random) -> Card:
    """One code word, 256x128."""
    return _drawn(chance, (256, 128), [((0.5, 0.5), 56)])


def layout(chance: random.Random) -> Card:
    """A code word at the top and one at the bottom, on a coloured ground, 320x256."""
    return _drawn(chance, (320, 256), [((0.5, 0.25), 52), ((0.5, 0.75), 52)], coloured=True)


def large(chance: random.Random) -> Card:
    """One code word of the size of a caption on a whole screen, 1920x1080.

    With other lines around it, as on a screen: OCR finds no single line on an empty page of this size.
    """
    around = [((0.5, 0.05), "Nightly backup"), ((0.3, 0.3), "Photos: done"), ((0.7, 0.9), "Last run: Monday 02:15")]
    return _drawn(chance, (1920, 1080), [((0.3, 0.6), 44)], label="Code word: ", around=around)


def tiny(chance: random.Random) -> Card:
    """One colour, 64x64; there may be several in a request."""
    return _drawn(chance, (64, 64), [], coloured=True)


def code_word(chance: random.Random) -> str:
    return "".join(chance.sample(_LETTERS, chance.randint(4, 5)))


def _drawn(
    chance: random.Random,
    size: tuple[int, int],
    places: list[tuple[tuple[float, float], int]],
    *,
    coloured: bool = False,
    label: str = "",
    around: Sequence[tuple[tuple[float, float], str]] = (),
) -> Card:
    """`places`: where the middle of each word stands, in fractions of the sides, and its height in pixels; `label`:
    what stands before it; `around`: other lines, with their places."""
    background = chance.choice(sorted(_COLOURS)) if coloured else "white"
    image = Image.new("RGB", size, _COLOURS.get(background, background))
    pen = ImageDraw.Draw(image)
    ink = "white" if background in ("red", "green", "blue") else "black"
    words = []
    for (x, y), height in places:
        word = code_word(chance)
        at = (x * size[0], y * size[1])
        pen.text(at, label + word, font=ImageFont.load_default(height), fill=ink, anchor="mm")
        words.append(word)
    for (x, y), line in around:
        pen.text((x * size[0], y * size[1]), line, font=ImageFont.load_default(_LINE), fill=ink, anchor="mm")
    out = BytesIO()
    image.save(out, "PNG")
    return Card(out.getvalue(), *size, tuple(words), background)


def reads(answer: str, word: str) -> bool:
    """Whether the word stands in the answer, however it is spaced or cased."""
    return word.lower() in "".join(letter for letter in answer.lower() if letter.isalnum())


def nearly(answer: str, word: str) -> bool:
    """Whether a run of letters in the answer is one slip away from the word."""
    said = "".join(letter for letter in answer.lower() if letter.isalnum())
    wanted = word.lower()
    for start in range(max(1, len(said) - len(wanted) + 1)):
        piece = said[start : start + len(wanted)]
        if len(piece) == len(wanted) and sum(a != b for a, b in zip(piece, wanted, strict=True)) <= 1:
            return True
    return False
