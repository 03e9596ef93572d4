"""OpenCode, a coding agent: it asks for a title beside the answer, reads files itself, and tries again after errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from tests.brain import Asked, Calls, Fails, Script, Thinks, looks, says
from tests.clients.roster import OPENCODE_BINARY
from tests.clients.stage import KEY, Stage
from tests.eyes import sees
from tests.live import picture

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.client("opencode")]

OnStage = Callable[..., AbstractAsyncContextManager[Stage]]


@dataclass(frozen=True, slots=True)
class Step:
    """One completion, as OpenCode understood it."""

    text: str
    calls: list[tuple[str, str, Any]]
    reason: str
    tokens: tuple[int, int]


async def opencode(stage: Stage, scripts: Sequence[Script], *arguments: str) -> tuple[list[Step], list[Asked]]:
    """What it understood, and what the brain was asked apart from titles."""
    waiting = list(scripts)
    asked_for_answers: list[Asked] = []

    def script(asked: Asked) -> Script:
        if "title" in str(asked.messages[0]["content"])[:200]:
            return says("A title")
        asked_for_answers.append(asked)
        return waiting.pop(0)

    stage.house.brain.answers = script
    config = orjson.loads(stage.printed("opencode"))
    config |= {"autoupdate": False, "share": "disabled", "enabled_providers": ["chiasm"]}
    (stage.home / "opencode.json").write_bytes(orjson.dumps(config))
    (stage.home / "cat.png").write_bytes(picture(1))
    (stage.home / "dog.png").write_bytes(picture(2))
    (stage.home / "a.txt").write_text("AAA")
    ran = await stage.run(
        [OPENCODE_BINARY, "run", "--format", "json", *arguments],
        OPENCODE_DISABLE_MODELS_FETCH="1",
        OPENCODE_DISABLE_AUTOUPDATE="1",
    )
    assert ran.code == 0, ran
    assert waiting == []
    return _steps([orjson.loads(line) for line in ran.out.splitlines()]), asked_for_answers


def _steps(events: list[dict[str, Any]]) -> list[Step]:
    steps: list[Step] = []
    text, calls = "", list[tuple[str, str, Any]]()
    for event in events:
        part = event["part"]
        match event["type"]:
            case "step_start":
                text, calls = "", []
            case "text":
                text += part["text"]
            case "tool_use":
                calls.append((part["callID"], part["tool"], part["state"]["input"]))
            case "step_finish":
                tokens = part["tokens"]["input"], part["tokens"]["output"]
                steps.append(Step(text, sorted(calls), part["reason"], tokens))
            case kind:
                raise AssertionError((kind, event))
    return steps


async def test_plain_words(on_stage: OnStage) -> None:
    async with on_stage(server={"api_keys": [KEY]}) as stage:
        (step,), _ = await opencode(stage, [says(Thinks("Hm."), "Hello", " there.")], "--", "Hi.")
        assert step == Step("Hello there.", [], "stop", (100, 10))


async def test_a_picture_that_is_looked_at_between_words(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        scripts = [
            says(Thinks("A picture."), "Let me ", "look.", "\n\n", looks(1, "What?"), looks(1, "What colour?")),
            says(Thinks("A cat, then."), "\n\nIt is a ", "cat.", usage=(150, 7)),
        ]
        (step,), _ = await opencode(stage, scripts, "-f", "cat.png", "--", "What is this?")
        assert step == Step("Let me look.\n\nIt is a cat.", [], "stop", (150, 17))
        assert len(stage.house.eyes.looks) == 2


async def test_its_own_tools_beside_a_look_and_a_picture_that_one_of_them_reads(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        a, dog = ({"filePath": str(stage.home / name)} for name in ("a.txt", "dog.png"))
        scripts = [
            says(
                "I will read.",
                Calls("read", orjson.dumps(a).decode(), "call_a"),
                looks(1, "What?", id="call_ours"),
                Calls("read", orjson.dumps(dog).decode(), "call_b"),
            ),
            says("Now the other.", looks(2, "What?")),
            says("A cat and a dog.", usage=(200, 2)),
        ]
        stage.house.eyes.will(sees("A tabby cat."), sees("A small dog."))
        steps, asked = await opencode(stage, scripts, "-f", "cat.png", "--", "Compare.")
        assert steps == [
            Step("I will read.", [("call_a", "read", a), ("call_b", "read", dog)], "tool-calls", (100, 10)),
            Step("Now the other.\n\nA cat and a dog.", [], "stop", (200, 12)),
        ]
        _, second, third = asked
        results = {one["tool_call_id"]: one["content"] for one in second.messages if one["role"] == "tool"}
        assert results.keys() == {"call_a", "call_ours", "call_b"}
        assert "AAA" in results["call_a"]
        assert "A tabby cat." in results["call_ours"]
        assert "[Image #2]" in orjson.dumps(second.messages[-1]).decode()
        assert "A small dog." in third.messages[-1]["content"]


async def test_heartbeats_while_the_eyes_take_their_time(on_stage: OnStage) -> None:
    async with on_stage(server={"heartbeat_seconds": 0.05}) as stage:
        stage.house.eyes.will(sees("A cat.", after=0.4))
        scripts = [says("Wait.", looks(1, "What?")), says("A cat.")]
        (step,), _ = await opencode(stage, scripts, "-f", "cat.png", "--", "What is this?")
        assert step == Step("Wait.\n\nA cat.", [], "stop", (100, 20))
        assert stage.tap.heard.count(b": keep-alive") >= 3


async def test_an_error_in_the_middle_of_an_answer_makes_it_try_again(on_stage: OnStage) -> None:
    """It shows nothing of the error; what it saw of it is that it asks once more, and forgets the half answer."""
    async with on_stage() as stage:
        scripts = [says("Hello", Fails("the graphics card has left")), says("Hello there.")]
        (step,), asked = await opencode(stage, scripts, "--", "Hi.")
        assert step == Step("Hello there.", [], "stop", (100, 10))
        assert asked[0].messages == asked[1].messages
