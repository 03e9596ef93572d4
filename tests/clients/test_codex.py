"""Codex CLI, which speaks Responses: a picture on the command line, and one that its tool `view_image` reads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from typing import Any, Final

import orjson
import pytest

from tests.brain import Calls, Fails, Thinks, looks, refuses, says
from tests.clients.roster import BY_NAME, NODE_BINARY
from tests.clients.stage import KEY, Ran, Stage
from tests.eyes import sees
from tests.live import picture

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.client("codex")]

OnStage = Callable[..., AbstractAsyncContextManager[Stage]]

CODEX: Final = BY_NAME["codex"].modules / BY_NAME["codex"].package / "bin" / "codex.js"

NO_RETRIES: Final = "request_max_retries = 0\nstream_max_retries = 0\n"


async def codex(stage: Stage, *arguments: str, more: str = "") -> tuple[Ran, list[dict[str, Any]]]:
    """`more`: lines for the provider.  What it printed: an event on each line."""
    folder = stage.home / ".codex"
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(stage.printed("codex") + more)
    (stage.home / "cat.png").write_bytes(picture(1))
    (stage.home / "dog.png").write_bytes(picture(2))
    (stage.home / "a.txt").write_text("AAA")
    # Its sandbox is not what is tested, and wants more of the system than a container gives.
    options = ["--json", "--strict-config", "--skip-git-repo-check", "-s", "danger-full-access"]
    ran = await stage.run([NODE_BINARY, CODEX, "exec", *options, *arguments])
    return ran, [orjson.loads(line) for line in ran.out.splitlines()]


def texts(events: list[dict[str, Any]]) -> list[str]:
    done = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item["text"] for item in done if item["type"] == "agent_message"]


def usage(events: list[dict[str, Any]]) -> tuple[int, int]:
    """Of the whole run: it adds up its requests."""
    (told,) = (event["usage"] for event in events if event["type"] == "turn.completed")
    return told["input_tokens"], told["output_tokens"]


async def test_a_picture_that_is_looked_at_between_words(on_stage: OnStage) -> None:
    async with on_stage(server={"api_keys": [KEY]}) as stage:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me ", "look.", looks(1, "What?"), looks(1, "What colour?")),
            says(Thinks("A cat, then."), "It is a ", "cat.", usage=(150, 7)),
        )
        ran, events = await codex(stage, "-i", "cat.png", "--", "What is this?")
        assert ran.code == 0, ran
        assert texts(events) == ["Let me look.", "\n\nIt is a cat."]
        assert usage(events) == (150, 17)
        first, _ = stage.house.brain.asked
        assert b"<image name=[Image #1]" in first.body, "its number and ours agree"
        assert b"[Image #1] (attached PNG" in first.body
        kinds = {tool["type"] for tool in first.json["tools"]}
        assert kinds == {"function"}, "nothing that only OpenAI's servers know"


async def test_its_own_tools_beside_a_look_and_a_picture_that_one_of_them_reads(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(
            says(
                Thinks("Hm."),
                "I will read.",
                Calls("exec_command", '{"cmd":"cat a.txt","login":false}', "call_a"),
                looks(1, "What?", id="call_ours"),
                Calls("view_image", '{"path":"dog.png"}', "call_b"),
            ),
            says("Now the other.", looks(2, "What?")),
            says("A cat and a dog.", usage=(200, 2)),
        )
        stage.house.eyes.will(sees("A tabby cat."), sees("A small dog."))
        ran, events = await codex(stage, "-i", "cat.png", "--", "Compare.")
        assert ran.code == 0, ran
        assert texts(events) == ["I will read.", "Now the other.\n\nA cat and a dog."]
        assert usage(events) == (300, 22)
        _, second, third = stage.house.brain.asked
        items = second.json["input"]
        results = {item["call_id"]: str(item["output"]) for item in items if item["type"] == "function_call_output"}
        assert list(results) == ["call_a", "call_ours", "call_b"]
        assert "AAA" in results["call_a"]
        assert "A tabby cat." in results["call_ours"]
        assert "[Image #2]" in results["call_b"]
        assert "A small dog." in third.json["input"][-1]["output"]
        assert third.json["input"][: len(items)] == items


async def test_a_session_that_is_taken_up_again_goes_on_where_it_was(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me look.", looks(1, "What?")), says(Thinks("A cat, then."), "It is a cat.")
        )
        await codex(stage, "-i", "cat.png", "--", "What is this?")
        stage.house.brain.will(says(looks(2, "What?")), says("It is a dog."))
        ran, events = await codex(stage, "resume", "--last", "-i", "dog.png", "--", "And [Image #1]?")
        assert (ran.code, texts(events)) == (0, ["It is a dog."])
        asked = [one.json["input"] for one in stage.house.brain.asked]
        for before, after in pairwise(asked):
            assert after[: len(before)] == before
        said = [part["text"] for part in asked[2][-1]["content"]]
        assert "And [Image #2]?" in said, "it counts the pictures of each message from 1"
        assert any("the user's image 1" in text for text in said)


async def test_heartbeats_while_the_eyes_take_their_time(on_stage: OnStage) -> None:
    async with on_stage(server={"heartbeat_seconds": 0.05}) as stage:
        stage.house.brain.will(says("Wait.", looks(1, "What?")), says("A cat."))
        stage.house.eyes.will(sees("A cat.", after=0.4))
        ran, events = await codex(stage, "-i", "cat.png", "--", "What is this?")
        assert (ran.code, texts(events)) == (0, ["Wait.\n\nA cat."])
        assert stage.tap.heard.count(b": keep-alive") >= 3


async def test_an_error_in_the_middle_of_an_answer_is_seen(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(says("Hello", Fails("the graphics card has left")))
        ran, _ = await codex(stage, "Hi.", more=NO_RETRIES)
        assert ran.code == 1
        assert "the graphics card has left" in ran.out


async def test_the_words_of_a_refusal_arrive(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(refuses(400, "this prompt is too long"))
        ran, _ = await codex(stage, "Hi.", more=NO_RETRIES)
        assert ran.code == 1
        assert "this prompt is too long" in ran.out
