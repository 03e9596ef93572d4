"""What an image costs a model that sees it: an estimate, by how Qwen3.5 makes tokens of pixels.

One token stands for 32 by 32 pixels.  Both sides are rounded to whole such squares; a picture that is too small is
enlarged and one that is too large is scaled down, its shape kept.  Other models count in their own way, and servers can
be told other limits; for deciding when to forget, their order of size is enough.
"""

from __future__ import annotations

import math

_SIDE = 32
"""Pixels: patches of 16, merged two by two."""

_LEAST_PIXELS = 65_536
_MOST_PIXELS = 16_777_216
"""`size.shortest_edge` and `size.longest_edge` of its `preprocessor_config.json`, which are counts of pixels."""

_AROUND = 2
"""`<|vision_start|>` and `<|vision_end|>`."""


def pixel_tokens(width: int, height: int) -> int:
    """Sides in pixels, at least 1 each; at most some 16,400 tokens."""
    across, down = max(1, round(width / _SIDE)), max(1, round(height / _SIDE))
    pixels = across * down * _SIDE * _SIDE
    if pixels > _MOST_PIXELS:
        scale = math.sqrt(_MOST_PIXELS / (width * height))
        across, down = (max(1, math.floor(side * scale / _SIDE)) for side in (width, height))
    elif pixels < _LEAST_PIXELS:
        scale = math.sqrt(_LEAST_PIXELS / (width * height))
        across, down = (math.ceil(side * scale / _SIDE) for side in (width, height))
    return across * down + _AROUND
