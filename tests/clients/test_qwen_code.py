"""Qwen Code, a coding agent: a picture named in the question, and one that its tool `read_file` reads; both as JPEG."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pytest

from tests.brain import Calls, Fails, Thinks, looks, refuses, says
from tests.clients.roster import BY_NAME, NODE_BINARY
from tests.clients.stage import KEY, Ran, Stage
from tests.eyes import sees
from tests.live import picture

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.client("qwen-code")]

OnStage = Callable[..., AbstractAsyncContextManager[Stage]]

QWEN: Final = BY_NAME["qwen-code"].modules / BY_NAME["qwen-code"].package / "cli.js"

QUIET: Final = {
    # Otherwise it asks once more after each answer, with the same picture, for what to remember.
    "memory": {"enableManagedAutoMemory": False},
    "general": {"enableAutoUpdate": False},
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
}


@dataclass(slots=True)
class Heard:
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    usages: list[tuple[int, int]] = field(default_factory=list)
    """Of each request."""


async def qwen(stage: Stage, *words: str) -> tuple[Ran, Heard]:
    folder = stage.home / ".qwen"
    folder.mkdir()
    (folder / "settings.json").write_bytes(orjson.dumps(orjson.loads(stage.printed("qwen-code")) | QUIET))
    (stage.home / "cat.png").write_bytes(picture(1))
    (stage.home / "dog.png").write_bytes(picture(2))
    (stage.home / "a.txt").write_text("AAA")
    ran = await stage.run([NODE_BINARY, QWEN, "--yolo", "--output-format", "stream-json", *words])
    heard = Heard()
    for event in map(orjson.loads, ran.out.splitlines()):
        if event["type"] == "assistant":
            _hear(heard, event["message"])
    return ran, heard


def _hear(heard: Heard, message: dict[str, Any]) -> None:
    for block in message["content"]:
        match block["type"]:
            case "text":
                heard.texts.append(block["text"])
            case "thinking":
                heard.thoughts.append(block["thinking"])
            case "tool_use":
                heard.calls.append((block["id"], block["name"], block["input"]))
    usage = message["usage"]
    if usage["input_tokens"]:
        heard.usages.append((usage["input_tokens"], usage["output_tokens"]))


async def test_a_picture_that_is_looked_at_between_words(on_stage: OnStage) -> None:
    async with on_stage(server={"api_keys": [KEY]}) as stage:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me ", "look.", looks(1, "What?"), looks(1, "What colour?")),
            says(Thinks("A cat, then."), "It is a ", "cat.", usage=(150, 7)),
        )
        ran, heard = await qwen(stage, "What is this? @cat.png")
        assert ran.code == 0, ran
        assert "".join(heard.texts) == "Let me look.\n\nIt is a cat."
        assert "".join(heard.thoughts) == "A picture.\n\nA cat, then."
        assert (heard.calls, heard.usages) == ([], [(150, 17)])
        assert len(stage.house.eyes.looks) == 2


async def test_its_own_tools_beside_a_look_and_a_picture_that_one_of_them_reads(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        a, dog = ({"file_path": str(stage.home / name)} for name in ("a.txt", "dog.png"))
        stage.house.brain.will(
            says(
                Thinks("Hm."),
                "I will read.",
                Calls("read_file", orjson.dumps(a).decode(), "call_a"),
                looks(1, "What?", id="call_ours"),
                Calls("read_file", orjson.dumps(dog).decode(), "call_b"),
            ),
            says(looks(2, "What?")),
            says("A cat and a dog.", usage=(200, 2)),
        )
        stage.house.eyes.will(sees("A tabby cat."), sees("A small dog."))
        ran, heard = await qwen(stage, "Compare. @cat.png")
        assert ran.code == 0, ran
        assert heard.calls == [("call_a", "read_file", a), ("call_b", "read_file", dog)]
        assert heard.texts == ["I will read.", "A cat and a dog."]
        assert heard.usages == [(100, 10), (200, 12)]
        _, second, third = stage.house.brain.asked
        results = {one["tool_call_id"]: str(one["content"]) for one in second.messages if one["role"] == "tool"}
        assert list(results) == ["call_a", "call_ours", "call_b"]
        assert "AAA" in results["call_a"]
        assert "A tabby cat." in results["call_ours"]
        assert "[Image #2]" in str(second.messages[-1]), "it shows pictures of tools in a message of the user"
        assert "A small dog." in third.messages[-1]["content"]


async def test_an_error_in_the_middle_of_an_answer_makes_it_ask_again(on_stage: OnStage) -> None:
    """It keeps the words that it has shown."""
    async with on_stage() as stage:
        stage.house.brain.will(says("Hello", Fails("the graphics card has left")), says("Hello there."))
        ran, heard = await qwen(stage, "Hi.")
        assert ran.code == 0, ran
        assert "".join(heard.texts) == "HelloHello there."


async def test_the_words_of_a_refusal_arrive(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(refuses(400, "this is not for you"))
        ran, _ = await qwen(stage, "Hi.")
        assert ran.code != 0
        assert "this is not for you" in ran.out + ran.err
