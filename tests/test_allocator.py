"""What is freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from router.allocator import keep_less

GROW = """
import sys
from router.allocator import keep_less
if sys.argv[1] == "less":
    assert keep_less({})
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4
for _ in range(3):
    blocks = [b"x" * 20_000_000, b"y" * 20_000_000]  # glibc now takes blocks of this size from its own heap
    del blocks
before = resident()
blocks = [bytes([n % 250]) * 1_000_000 for n in range(100)]
last = bytes(200_000)  # keeps the end of the heap in use
del blocks
print(resident() - before)
"""


def kept(how: str) -> int:
    """KiB that the process still holds of 100 MB that were freed."""
    run = subprocess.run([sys.executable, "-c", GROW, how], capture_output=True, text=True, check=True, timeout=60)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_large_blocks_go_back_to_the_system_when_they_are_freed() -> None:
    assert kept("as it is") > 50_000
    assert kept("less") < 10_000


def test_whoever_sets_the_c_library_up_is_left_alone() -> None:
    assert not keep_less({"MALLOC_ARENA_MAX": "4"})
