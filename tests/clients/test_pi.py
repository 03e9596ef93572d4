"""pi, a coding agent: it reads files with a tool of its own, and hands pictures among them on in a user message."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

import orjson
import pytest

from tests.brain import Calls, Fails, Thinks, looks, says
from tests.clients.roster import BY_NAME, NODE_BINARY
from tests.clients.stage import KEY, Stage
from tests.eyes import sees
from tests.live import picture

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.client("pi")]

OnStage = Callable[..., AbstractAsyncContextManager[Stage]]

PI: Final = BY_NAME["pi"].modules / BY_NAME["pi"].package / "dist" / "cli.js"


@dataclass(frozen=True, slots=True)
class Heard:
    """One message of the assistant, as pi understood it."""

    text: str
    thinking: str
    calls: list[tuple[str, str, Any]]
    stop: str
    usage: tuple[int, int]
    error: str | None
    id: str


async def pi(stage: Stage, *words: str) -> list[Heard]:
    folder = stage.home / ".pi" / "agent"
    folder.mkdir(parents=True)
    (folder / "models.json").write_text(stage.printed("pi"))
    (stage.home / "cat.png").write_bytes(picture(1))
    (stage.home / "dog.png").write_bytes(picture(2))
    (stage.home / "a.txt").write_text("AAA")
    ran = await stage.run(
        [NODE_BINARY, PI, "-p", "--mode", "json", "--no-session", "--provider", "chiasm", "--model", "brain", *words],
        PI_OFFLINE="1",
        PI_TELEMETRY="0",
    )
    assert ran.code == 0, ran
    events = map(orjson.loads, ran.out.splitlines())
    messages = [event["message"] for event in events if event["type"] == "message_end"]
    return [_heard(message) for message in messages if message["role"] == "assistant"]


def _heard(message: dict[str, Any]) -> Heard:
    content, usage = message["content"], message["usage"]
    return Heard(
        text="|".join(block["text"] for block in content if block["type"] == "text"),
        thinking="|".join(block["thinking"] for block in content if block["type"] == "thinking"),
        calls=[(block["id"], block["name"], block["arguments"]) for block in content if block["type"] == "toolCall"],
        stop=message["stopReason"],
        usage=(usage["input"], usage["output"]),
        error=message.get("errorMessage"),
        id=message["responseId"],
    )


async def test_plain_words(on_stage: OnStage) -> None:
    async with on_stage(server={"api_keys": [KEY]}) as stage:
        stage.house.brain.will(says(Thinks("Hm."), "Hello", " there."))
        (heard,) = await pi(stage, "Hi.")
        assert (heard.text, heard.thinking, heard.calls, heard.stop) == ("Hello there.", "Hm.", [], "stop")
        assert heard.usage == (100, 10)


async def test_a_picture_that_is_looked_at_between_words(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me ", "look.", "\n\n", looks(1, "What?"), looks(1, "What colour?")),
            says(Thinks("A cat, then."), "\n\nIt is a ", "cat.", usage=(150, 7)),
        )
        (heard,) = await pi(stage, "@cat.png", "What is this?")
        assert heard.text == "Let me look.\n\nIt is a cat."
        assert heard.thinking == "A picture.\n\nA cat, then."
        assert (heard.calls, heard.stop, heard.usage) == ([], "stop", (150, 17))
        assert len(stage.house.eyes.looks) == 2


async def test_its_own_tools_beside_a_look_and_a_picture_that_one_of_them_reads(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(
            says(
                "I will read.",
                Calls("read", '{"path":"a.txt"}', "call_a"),
                looks(1, "What?", id="call_ours"),
                Calls("read", '{"path":"dog.png"}', "call_b"),
            ),
            says("Now the other.", looks(2, "What?")),
            says("A cat and a dog.", usage=(200, 2)),
        )
        stage.house.eyes.will(sees("A tabby cat."), sees("A small dog."))
        before, after = await pi(stage, "@cat.png", "Compare.")
        assert before.calls == [("call_a", "read", {"path": "a.txt"}), ("call_b", "read", {"path": "dog.png"})]
        assert (before.text, before.stop) == ("I will read.", "toolUse")
        assert (after.text, after.calls, after.stop) == ("Now the other.\n\nA cat and a dog.", [], "stop")
        assert after.usage == (200, 12)
        _, second, third = stage.house.brain.asked
        results = {one["tool_call_id"]: one["content"] for one in second.messages if one["role"] == "tool"}
        assert results.keys() == {"call_a", "call_ours", "call_b"}
        assert results["call_a"] == "AAA"
        assert "A tabby cat." in results["call_ours"]
        assert "[Image #2]" in orjson.dumps(second.messages[-1]).decode()
        assert "A small dog." in third.messages[-1]["content"]


async def test_heartbeats_while_the_eyes_take_their_time(on_stage: OnStage) -> None:
    async with on_stage(server={"heartbeat_seconds": 0.05}) as stage:
        stage.house.brain.will(says("Wait.", looks(1, "What?")), says("A cat."))
        stage.house.eyes.will(sees("A cat.", after=0.4))
        (heard,) = await pi(stage, "@cat.png", "What is this?")
        assert (heard.text, heard.stop) == ("Wait.\n\nA cat.", "stop")
        assert stage.tap.heard.count(b": keep-alive") >= 3


async def test_an_error_in_the_middle_of_an_answer_is_seen(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(says("Hello", Fails("the graphics card has left")))
        (heard,) = await pi(stage, "Hi.")
        assert (heard.text, heard.stop, heard.error) == ("Hello", "error", "the graphics card has left")
