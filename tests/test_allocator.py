"""Threads share heaps."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from router.allocator import HEAPS, share_heaps

HEAPS_OF_TWELVE_THREADS = """
import ctypes, sys, tempfile, threading
from router.allocator import share_heaps
if sys.argv[1] == "shared":
    assert share_heaps({})
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(12)
def work():
    together.wait()
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as told:
    stream = ctypes.c_void_p(libc.fopen(told.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(told.read().count(b"<heap "))
"""


def heaps(how: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", HEAPS_OF_TWELVE_THREADS, how]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_threads_share_two_heaps() -> None:
    assert heaps("as it is") > HEAPS
    assert heaps("shared") <= HEAPS


def test_whoever_sets_the_c_library_up_is_left_alone() -> None:
    assert not share_heaps({"MALLOC_ARENA_MAX": "4"})
