"""Cline's command line: a picture named in the question, and one that its tool `read_files` reads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import orjson
import pytest

from tests.brain import Calls, Fails, Thinks, looks, refuses, says
from tests.clients.roster import BY_NAME
from tests.clients.stage import KEY, Ran, Stage
from tests.eyes import sees
from tests.live import picture

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.client("cline")]

OnStage = Callable[..., AbstractAsyncContextManager[Stage]]

CLINE: Final = BY_NAME["cline"].modules / BY_NAME["cline"].package / "bin"

ALONE: Final = "local"
"""Otherwise it leaves a process behind that serves further sessions."""


async def cline(stage: Stage, words: str) -> tuple[Ran, dict[str, Any]]:
    """And how the run ended, as it tells it."""
    path = f"{CLINE}:/usr/bin:/bin"
    # As a user does with what is printed: into a shell.
    told = await stage.run(["sh", "-c", stage.printed("cline")], PATH=path, CLINE_SESSION_BACKEND_MODE=ALONE)
    assert told.code == 0, told
    (stage.home / "cat.png").write_bytes(picture(1))
    (stage.home / "dog.png").write_bytes(picture(2))
    (stage.home / "a.txt").write_text("AAA")
    options = ["-P", "openai-compatible", "-m", "brain", "--json", "--retries", "1"]
    ran = await stage.run([CLINE / "cline", *options, words], CLINE_SESSION_BACKEND_MODE=ALONE)
    events = [orjson.loads(line) for line in ran.out.splitlines()]
    (ended,) = (event for event in events if event["type"] == "run_result")
    return ran, ended


async def test_a_picture_that_is_looked_at_between_words(on_stage: OnStage) -> None:
    async with on_stage(server={"api_keys": [KEY]}) as stage:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me ", "look.", looks(1, "What?"), looks(1, "What colour?")),
            says(Thinks("A cat, then."), "It is a ", "cat.", usage=(150, 7)),
        )
        ran, ended = await cline(stage, f"What is this? @{stage.home}/cat.png")
        assert ran.code == 0, ran
        assert (ended["text"], ended["finishReason"]) == ("Let me look.\n\nIt is a cat.", "completed")
        assert (ended["usage"]["inputTokens"], ended["usage"]["outputTokens"]) == (150, 17)
        assert len(stage.house.eyes.looks) == 2


async def test_its_own_tools_beside_a_look_and_a_picture_that_one_of_them_reads(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        a, dog = (orjson.dumps({"files": [{"path": str(stage.home / name)}]}).decode() for name in ("a.txt", "dog.png"))
        stage.house.brain.will(
            says(
                Thinks("Hm."),
                "I will read.",
                Calls("read_files", a, "call_a"),
                looks(1, "What?", id="call_ours"),
                Calls("read_files", dog, "call_b"),
            ),
            says(looks(2, "What?")),
            says("A cat and a dog.", usage=(200, 2)),
        )
        stage.house.eyes.will(sees("A tabby cat."), sees("A small dog."))
        ran, ended = await cline(stage, f"Compare. @{stage.home}/cat.png")
        assert ran.code == 0, ran
        assert (ended["text"], ended["finishReason"]) == ("A cat and a dog.", "completed")
        assert (ended["usage"]["inputTokens"], ended["usage"]["outputTokens"]) == (300, 22), "it adds up its requests"
        _, second, third = stage.house.brain.asked
        results = {one["tool_call_id"]: str(one["content"]) for one in second.messages if one["role"] == "tool"}
        assert list(results) == ["call_a", "call_ours", "call_b"]
        assert "AAA" in results["call_a"]
        assert "A tabby cat." in results["call_ours"]
        assert "[Image #2]" in str(second.messages[-1]), "it shows pictures of tools in a message of the user"
        assert "A small dog." in third.messages[-1]["content"]


@pytest.mark.parametrize(
    "script",
    [says("Hello", Fails("the graphics card has left")), refuses(400, "the graphics card has left")],
    ids=["in the middle", "at once"],
)
async def test_the_words_of_an_error_arrive(on_stage: OnStage, script: Any) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(script)
        ran, ended = await cline(stage, "Say hello.")
        assert ran.code == 1
        assert ended["finishReason"] == "error"
        assert "the graphics card has left" in ended["text"]
