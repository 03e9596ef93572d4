"""Which images to forget, and when.

There are two triggers: too many images are loaded, or what they add to the prompt is too much.  Each forgets down to
a mark well below itself, in one go, because every forgetting rewrites the prompt's past and costs the server its
prefix cache.  What is easiest to miss goes first:

1.  screenshots that look like a later one that stays,
2.  other images made by tools: an agent makes one at every step,
3.  images that a person put there.

Within each, the least recently used.  Pinned images and those of the newest turn never go, even if that leaves more
than the limit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from cache.table import UNLIKE, ImageTable

NEAR = 3
"""Bits of 64 in which the dHashes of two screenshots may differ that show the same: a clock, a caret, a hover."""

TOKEN_TARGET = 2 / 3
"""Down to this part of the token limit."""


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """`[images]` of the configuration: counts of images, and estimated tokens."""

    max_loaded: int
    keep_loaded: int
    max_tokens: int


def to_forget(table: ImageTable, limits: LoadLimits, newest: Collection[int]) -> list[int]:
    """Numbers, in the order in which they go; empty while nothing is exceeded.  `newest`: the newest turn's images."""
    count, tokens = len(table.loaded), table.tokens
    most = limits.keep_loaded if count > limits.max_loaded else count
    most_tokens = int(limits.max_tokens * TOKEN_TARGET) if tokens > limits.max_tokens else tokens
    going: list[int] = []
    for number in _in_order(table, newest):
        if count <= most and tokens <= most_tokens:
            break
        adds = table.loaded[number].tokens
        if count <= most and adds <= 0:
            continue
        going.append(number)
        count -= 1
        tokens -= adds
    return going


def _in_order(table: ImageTable, newest: Collection[int]) -> Iterator[int]:
    free = [number for number, image in table.loaded.items() if not image.pinned and number not in newest]
    of_tools = [number for number in free if table.loaded[number].tool]
    twins = _twins(table, set(of_tools))
    yield from (number for number in of_tools if number in twins)
    yield from (number for number in of_tools if number not in twins)
    yield from (number for number in free if not table.loaded[number].tool)


def _twins(table: ImageTable, free: Collection[int]) -> set[int]:
    """Those of `free` that look like a later image which is no such twin itself: of many alike the last one stays."""
    twins: set[int] = set()
    stay: list[int] = []
    for number in sorted(table.loaded, reverse=True):
        if (likeness := table.loaded[number].likeness) in ("", UNLIKE):
            continue
        bits = int(likeness, 16)
        if number in free and any((bits ^ other).bit_count() <= NEAR for other in stay):
            twins.add(number)
        else:
            stay.append(bits)
    return twins
