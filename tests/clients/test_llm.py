"""`llm`, Simon Willison's command line: a picture attached, tools of its own, and its log of what it understood."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import orjson
import pytest

from tests.brain import Calls, Fails, Thinks, looks, says
from tests.clients.roster import BY_NAME
from tests.clients.stage import KEY, Ran, Stage
from tests.eyes import sees
from tests.live import picture

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.client("llm")]

OnStage = Callable[..., AbstractAsyncContextManager[Stage]]

LLM: Final = BY_NAME["llm"].folder / "bin" / "llm"

TOOLS = """
def Read(path: str) -> str:
    "To read."
    return "AAA"

def List(path: str) -> str:
    "To list."
    return "BBB"
"""


async def llm(stage: Stage, *arguments: str) -> Ran:
    folder = stage.home / ".config" / "io.datasette.llm"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "extra-openai-models.yaml").write_text(stage.printed("llm"))
    (stage.home / "cat.png").write_bytes(picture())
    (stage.home / "tools.py").write_text(TOOLS)
    return await stage.run([LLM, "-m", "brain", "--key", KEY, "--usage", *arguments])


async def logged(stage: Stage) -> list[dict[str, Any]]:
    """Its answers so far, oldest first."""
    ran = await stage.run([LLM, "logs", "--json", "-n", "0"])
    assert ran.code == 0, ran
    rows: list[dict[str, Any]] = orjson.loads(ran.out)
    return rows


@pytest.fixture(params=["streamed", "whole"])
def how(request: pytest.FixtureRequest) -> list[str]:
    return [] if request.param == "streamed" else ["--no-stream"]


async def test_plain_words(on_stage: OnStage, how: list[str]) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(says(Thinks("Hm."), "Hello", " there."))
        ran = await llm(stage, "Hi.", *how)
        assert (ran.code, ran.out) == (0, "Hello there.\n")
        assert "Token usage: 100 input, 10 output" in ran.err


async def test_a_picture_that_is_looked_at_between_words(on_stage: OnStage, how: list[str]) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me ", "look.", "\n\n", looks(1, "What?"), looks(1, "What colour?")),
            says(Thinks("A cat, then."), "\n\nIt is a ", "cat.", usage=(150, 7)),
        )
        ran = await llm(stage, "What is this?", "-a", "cat.png", *how)
        assert (ran.code, ran.out) == (0, "Let me look.\n\nIt is a cat.\n"), ran
        assert "Token usage: 150 input, 17 output" in ran.err
        (row,) = await logged(stage)
        assert row["response"] == "Let me look.\n\nIt is a cat."
        assert (row["input_tokens"], row["output_tokens"], row["tool_calls"]) == (150, 17, [])
        assert len(stage.house.eyes.looks) == 2


async def test_its_own_tools_beside_a_look(on_stage: OnStage, how: list[str]) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(
            says(
                "I will read. ",
                Calls("Read", '{"path":"a.txt"}', "call_a"),
                looks(1, "What?", id="call_ours"),
                Calls("List", '{"path":"src"}', "call_b"),
            ),
            says("Done."),
        )
        stage.house.eyes.will(sees("A tabby cat."))
        ran = await llm(stage, "Read.", "-a", "cat.png", "--functions", "tools.py", "--tools-debug", *how)
        assert (ran.code, ran.out) == (0, "I will read. Done.\n"), ran
        second = stage.house.brain.asked[1]
        results = {one["tool_call_id"]: one["content"] for one in second.messages if one["role"] == "tool"}
        assert (results["call_a"], results["call_b"]) == ("AAA", "BBB")
        assert "A tabby cat." in results["call_ours"]
        first, _ = await logged(stage)
        assert [(call["name"], call["arguments"]) for call in first["tool_calls"]] == [
            ("Read", {"path": "a.txt"}),
            ("List", {"path": "src"}),
        ]


async def test_heartbeats_while_the_eyes_take_their_time(on_stage: OnStage) -> None:
    async with on_stage(server={"heartbeat_seconds": 0.05}) as stage:
        stage.house.brain.will(says("Wait.", looks(1, "What?")), says("A cat."))
        stage.house.eyes.will(sees("A cat.", after=0.4))
        ran = await llm(stage, "What is this?", "-a", "cat.png")
        assert (ran.code, ran.out) == (0, "Wait.\n\nA cat.\n"), ran
        assert stage.tap.heard.count(b": keep-alive") >= 3


async def test_an_error_in_the_middle_of_an_answer_is_seen(on_stage: OnStage, how: list[str]) -> None:
    async with on_stage() as stage:
        # An answer in one piece is a status then, and its library asks again.
        stage.house.brain.answers = lambda _: says("Hello", Fails("the graphics card has left"))
        ran = await llm(stage, "Hi.", *how)
        assert ran.code != 0
        assert "the graphics card has left" in ran.err
