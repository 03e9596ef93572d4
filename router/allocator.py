"""How the C library holds on to memory that nobody needs any more.

glibc gives threads heaps of their own, up to eight for each processor, and what is free in one is of no use to another.
A process with a dozen threads through which pictures of megabytes go then keeps tens of them for ever
(docs/reliability.md has figures).  Two heaps are enough for threads that wait for Python's lock most of the time.

The sizes from which memory is given back stay as glibc finds them best: fixed at a quarter of a megabyte, they made
bodies with pictures take twice as long, because every page of every buffer came anew from the system
(docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

_M_ARENA_MAX = -8
"""<malloc.h>"""

HEAPS = 2


def share_heaps(environment: Mapping[str, str] = os.environ) -> bool:
    """Of all threads that this process starts from now on.  Says whether anything was set: not where the C library is
    another one, nor where variables of its own (`MALLOC_…`) say what it is to do."""
    if any(name.startswith("MALLOC_") for name in environment):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_M_ARENA_MAX, HEAPS) == 1)
