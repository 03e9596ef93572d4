"""The part of a picture that the brain asks for: text as it writes it, into fractions of the picture."""

from __future__ import annotations

import re

from tools.vision.backend import Region

_ORDER = ("x", "y", "w", "h")
_NAMES = {"x": "x", "left": "x", "y": "y", "top": "y", "w": "w", "width": "w", "h": "h", "height": "h"}

# At most nine digits: no picture has more pixels on a side, and longer ones would become infinity.
_NUMBER = re.compile(
    r"(?:\b(?P<name>[a-z]+)\b[\"']?\s*[:=]?\s*[\"']?)?(?P<value>[-+]?(?:\d{1,9}(?:\.\d{0,9})?|\.\d{1,9}))\s*(?P<unit>%|px)?",
    re.IGNORECASE,
)
_LONGEST = 500
"""Characters; four numbers with names take fifty.  Blanks in the middle would cost the square of their number."""

_BETWEEN = re.compile(r"[\s,;()\[\]{}\"'/]*")


def parse_region(text: str, width: int, height: int) -> Region:
    """Read "x,y,w,h" for a picture of `width` x `height` pixels, upright.

    Each number is in pixels, or in percent where it carries the sign; numbers with a point that are all at most 1 are
    fractions.  Spaces, brackets, "px" and names ("x=10, y=20, w=30, h=40", in any order) are understood.  What hangs
    over the edge is cut off.  Raises `ValueError` with words that tell the brain how to write it.
    """
    numbers = _numbers(text, width, height)
    fractions = _as_fractions(numbers, width, height)
    if fractions["w"] <= 0 or fractions["h"] <= 0:
        raise ValueError(f"region {text[:60]!r} is empty: width and height must be above 0. {_how(width, height)}")
    left, right = _clamped(fractions["x"], fractions["w"])
    top, bottom = _clamped(fractions["y"], fractions["h"])
    if left >= right or top >= bottom:
        raise ValueError(f"region {text[:60]!r} lies outside the picture. {_how(width, height)}")
    return Region(left, top, right, bottom)


def _numbers(text: str, width: int, height: int) -> dict[str, tuple[str, str]]:
    """Value and unit under each of x, y, w, h."""
    if len(text) > _LONGEST:
        raise ValueError(f"region {text[:60]!r} is too long. {_how(width, height)}")
    found: list[tuple[str | None, str, str]] = []
    position = _skip(text, 0)
    while position < len(text) and len(found) <= len(_ORDER):
        match = _NUMBER.match(text, position)
        if match is None:
            raise ValueError(f"region {text[:60]!r} is not understood. {_how(width, height)}")
        found.append((match["name"], match["value"], (match["unit"] or "").lower()))
        position = _skip(text, match.end())
    if len(found) != len(_ORDER):
        raise ValueError(f"region {text[:60]!r} does not have four numbers. {_how(width, height)}")
    names = [_NAMES.get(name.lower()) if name else None for name, _, _ in found]
    if all(name is None for name, _, _ in found):
        names = list(_ORDER)
    if set(names) != set(_ORDER):
        raise ValueError(f"region {text[:60]!r} does not name x, y, w and h. {_how(width, height)}")
    return {name: (value, unit) for name, (_, value, unit) in zip(names, found, strict=True) if name}


def _skip(text: str, position: int) -> int:
    match = _BETWEEN.match(text, position)
    return match.end() if match else position


def _as_fractions(numbers: dict[str, tuple[str, str]], width: int, height: int) -> dict[str, float]:
    sides = {"x": width, "y": height, "w": width, "h": height}
    bare = not any(unit for _, unit in numbers.values())
    # A cut-out of less than one pixel cannot be meant.
    already = bare and any("." in value for value, _ in numbers.values())
    already = already and all(abs(float(value)) <= 1 for value, _ in numbers.values())
    fractions: dict[str, float] = {}
    for name, (value, unit) in numbers.items():
        whole = 1.0 if already else 100.0 if unit == "%" else float(sides[name])
        fractions[name] = float(value) / whole
    return fractions


def _clamped(start: float, extent: float) -> tuple[float, float]:
    return min(max(start, 0.0), 1.0), min(max(start + extent, 0.0), 1.0)


def _how(width: int, height: int) -> str:
    return (
        f'Write "x,y,w,h" (left, top, width, height) in pixels of the {width}x{height} picture, such as '
        f'"0,0,{max(1, width // 2)},{max(1, height // 2)}", or in percent, such as "25%,25%,50%,50%".'
    )
