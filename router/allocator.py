"""How the C library holds on to memory that nobody needs any more.

glibc gives each thread a heap of its own, up to eight for each processor, and raises by itself the size from which
memory is given back when it is freed, up to 32 MiB.  A process with a dozen threads through which pictures of megabytes
go then keeps tens of them for ever (docs/reliability.md has figures).  Two heaps are enough for threads that wait for
Python's lock most of the time.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_HEAPS = 2
_GIVEN_BACK_FROM = 256 * 1024
"""Bytes.  Larger blocks come from the system and go back to it at once; twice glibc's own first choice, so that what a
chat needs again and again is not asked for each time."""


def keep_less(environment: Mapping[str, str] = os.environ) -> bool:
    """Of this process, from now on.  Says whether anything was set: not where the C library is another one, nor where
    variables of its own (`MALLOC_…`) say what it is to do."""
    if any(name.startswith("MALLOC_") for name in environment):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    wanted = {
        _M_ARENA_MAX: _HEAPS,
        _M_MMAP_THRESHOLD: _GIVEN_BACK_FROM,
        _M_TRIM_THRESHOLD: _GIVEN_BACK_FROM,
    }
    done = [mallopt(option, value) == 1 for option, value in wanted.items()]
    return all(done)
