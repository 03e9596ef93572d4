"""The processes that libraries run in: one that is gone, or has said something else, is never taken for a good one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.clients.library import Library

pytestmark = pytest.mark.anyio

ECHO = """
import json, sys
for line in sys.stdin:
    print("Give feedback!")
    print(json.dumps({"answers": json.loads(line), "error": None}), flush=True)
"""


def library(program: str, home: Path) -> Library:
    return Library([sys.executable, "-c", program], cwd=home, env=os.environ, log=home / "it.log")


async def test_what_else_a_library_prints_is_no_answer(tmp_path: Path) -> None:
    it = library(ECHO, tmp_path)
    assert [(await it.ask(job))["answers"] for job in ("a", "b")] == ["a", "b"]
    it.finish()
    assert it.ended


async def test_a_library_that_ends_in_the_middle_of_a_job_tells_what_it_said(tmp_path: Path) -> None:
    it = library("input(); print('to one'); raise SystemExit('to the other')", tmp_path)
    with pytest.raises(AssertionError, match=r"it ended:\nto one\nto the other"):
        await it.ask("a")
    assert it.ended
    it.finish()


async def test_a_library_that_has_ended_between_two_jobs_is_not_started_anew_in_silence(tmp_path: Path) -> None:
    it = library(ECHO.replace("flush=True)", "flush=True); break"), tmp_path)
    await it.ask("a")
    with pytest.raises(AssertionError, match="it ended"):
        await it.ask("b" * 2**20)
    assert it.ended


async def test_a_library_that_does_not_end_well_is_told(tmp_path: Path) -> None:
    it = library(ECHO + "raise SystemExit('a late fault')", tmp_path)
    await it.ask("a")
    with pytest.raises(AssertionError, match=r"it ended with exit code 1:\na late fault"):
        it.finish()
