"""How the C library holds on to memory that nobody needs any more.

glibc gives threads heaps of their own, up to eight for each processor, and what is free in one is of no use to another.
A process with a dozen threads through which pictures of megabytes go then keeps tens of them for ever
(docs/reliability.md has figures).  Two heaps are enough for threads that wait for Python's lock most of the time; and
when nobody is answered, what is free in them goes back to the system.

The sizes from which memory is given back while answers run stay as glibc finds them best: fixed at a quarter of a
megabyte, they made bodies with pictures take twice as long, because every page of every buffer came anew from the
system.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_M_ARENA_MAX = -8
"""<malloc.h>"""

HEAPS = 2

_QUIET_SECONDS = 1.0
"""Without an answer, before anything is given back: some milliseconds of work, and the next body takes it again."""

Trim = Callable[[int], int]


def share_heaps(environment: Mapping[str, str] = os.environ) -> bool:
    """Of all threads that this process starts from now on.  Says whether anything was set: not where the C library is
    another one, nor where variables of its own (`MALLOC_…`) say what it is to do."""
    mallopt = None if any(name.startswith("MALLOC_") for name in environment) else _of_the_c_library("mallopt")
    return mallopt is not None and mallopt(_M_ARENA_MAX, HEAPS) == 1


@dataclass(frozen=True, slots=True)
class Traffic:
    begun: int
    """Answers so far."""
    running: int


async def give_back_when_quiet(traffic: Callable[[], Traffic], trim: Trim | None = None) -> None:
    """Runs until it is cancelled: whenever answers have come and gone, what is free goes back to the system once.

    `trim`: else glibc's, where there is one.
    """
    trim = trim or _of_the_c_library("malloc_trim")
    if trim is None:
        return
    seen = done = traffic().begun
    while True:
        await asyncio.sleep(_QUIET_SECONDS)
        now = traffic()
        if now.running == 0 and now.begun == seen != done:
            await asyncio.to_thread(trim, 0)
            done = seen
        seen = now.begun


def _of_the_c_library(name: str) -> Callable[..., int] | None:
    """A function that glibc has; `None` where the C library is another one (musl, macOS, Windows)."""
    try:
        found = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    found.restype = ctypes.c_int
    return lambda *numbers: int(found(*map(ctypes.c_int if name == "mallopt" else ctypes.c_size_t, numbers)))
