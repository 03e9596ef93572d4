"""What a worker may still do once it is ready: compute, read its one pipe and write its other.

Each part is tried by itself, and left out where the system has it not: limits are POSIX, the rest is Linux.  There is
no seccomp filter, for want of a well-kept binding; what it would forbid mostly fails already without a descriptor.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import sys
from typing import Any

resource: Any
try:
    import resource
except ImportError:  # a system without such limits
    resource = None

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38

_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
"""Numbers of system calls; younger than the day from which they are the same on all architectures."""

_LANDLOCK_FILES = (1 << 13) - 1
"""Every right on files that its first version knows.  Handled and granted nowhere: none can be opened or changed."""

_STANDARD_DESCRIPTORS = 3


def end_with_parent(parent: int) -> None:
    """Be killed when the parent dies, also in the middle of a picture.  An idle worker sees the end of its pipe."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before it was watched


def lock_down(memory_bytes: int) -> None:
    """From here on no file, socket or process is opened, and memory is bounded.  Everything must be imported by now."""
    if sys.platform == "linux":
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _no_files()
    if resource is None:
        return
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, _STANDARD_DESCRIPTORS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(limit, (most, most))


def allow_cpu(seconds: float) -> None:
    """So much processor time from now on; then the system ends this process (SIGXCPU)."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, hard))


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _no_files() -> None:
    """Landlock, from Linux 5.13 on: not even by a descriptor that was closed and freed a place."""
    with contextlib.suppress(OSError, AttributeError):
        syscall = ctypes.CDLL(None, use_errno=True).syscall
        ruleset = syscall(_LANDLOCK_CREATE_RULESET, struct.pack("=Q", _LANDLOCK_FILES), ctypes.c_size_t(8), 0)
        if ruleset >= 0:
            syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
            os.close(ruleset)
