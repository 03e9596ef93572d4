"""Threads share heaps, and what is free goes back to the system when nobody is answered."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

import router.allocator
from router.allocator import HEAPS, Traffic, give_back_when_quiet, share_heaps
from tests.brain import Waits, says
from tests.live import becomes, live, soon, user

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


@pytest.mark.anyio
async def test_memory_is_given_back_once_after_each_burst_and_not_while_answers_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(router.allocator, "_QUIET_SECONDS", 0.001)
    looks = [(0, 0), (0, 0), (3, 2), (3, 1), (3, 0), (3, 0), (5, 0), (5, 0), (5, 0), (6, 1), (6, 1)]
    trims: list[int] = []
    seen = iter(looks)
    over = asyncio.Event()

    def traffic() -> Traffic:
        try:
            return Traffic(*next(seen))
        except StopIteration:
            over.set()
            return Traffic(6, 1)

    def trim(pad: int) -> int:
        trims.append(pad)
        return 1

    task = asyncio.ensure_future(give_back_when_quiet(traffic, trim))
    await soon(over.wait())
    task.cancel()
    assert trims == [0, 0]


@pytest.mark.anyio
@pytest.mark.live
async def test_the_service_gives_back_when_its_last_answer_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.allocator, "_QUIET_SECONDS", 0.01)
    trims: list[int] = []

    def trim(pad: int) -> int:
        trims.append(pad)
        return 1

    monkeypatch.setattr(router.allocator, "_of_the_c_library", lambda name: trim)
    async with live() as house:
        gate = asyncio.Event()
        house.brain.will(says("Hel", Waits(gate), "lo."))
        async with house.line(user("Hi."), stream=True) as line:
            await line.until(b"Hel")
            before = len(trims)
            gate.set()
            await line.rest()
        assert before == 0
        await becomes(lambda: len(trims) == 1)
