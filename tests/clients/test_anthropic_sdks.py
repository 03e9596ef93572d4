"""Anthropic's libraries, which read the stream of Messages: both asked in the same words, both to understand the same.

What has broken them before: blocks that are not counted from 0, deltas of a block that is over, events before
`message_start`, thoughts without a signature.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

import orjson
import pytest

from tests.brain import Calls, Fails, Thinks, Waits, looks, refuses, says, whole
from tests.clients.stage import Stage
from tests.eyes import sees
from tests.live import picture

pytestmark = [pytest.mark.anyio, pytest.mark.live]

OnStage = Callable[..., AbstractAsyncContextManager[Stage]]
Json = dict[str, Any]

CAT, DOG = picture(1), picture(2)


@dataclass(frozen=True, slots=True)
class Way:
    client: str
    stream: bool

    def __str__(self) -> str:
        return f"{self.client}-{'streamed' if self.stream else 'whole'}"

    async def ask(self, stage: Stage, *messages: Json, count: bool = False, beta: bool = False, **results: Any) -> Json:
        """`beta`: by the library's `beta.messages`, as Claude Code does.  `results`: of its tools, by name; it has
        those."""
        job = {
            "base_url": stage.url.removesuffix("/v1"),
            "stream": self.stream,
            "messages": messages,
            "tools": [tool(name) for name in results],
            "results": results,
            "count": count,
            "beta": beta,
        }
        answer: Json = await stage.libraries.of(self.client).ask(job)
        return answer


def _each(ways: list[Way]) -> Any:
    marks = [[pytest.mark.client(way.client), pytest.mark.xdist_group(way.client)] for way in ways]
    return [pytest.param(way, marks=mark, id=str(way)) for way, mark in zip(ways, marks, strict=True)]


WAYS: Final = [Way(client, stream) for client in ("anthropic-python", "anthropic-node") for stream in (True, False)]


@pytest.fixture(params=_each(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    assert isinstance(request.param, Way)
    return request.param


def image(data: bytes) -> Json:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(data).decode()}
    return {"type": "image", "source": source}


def user(*blocks: str | Json) -> Json:
    content = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
    return {"role": "user", "content": content}


def tool(name: str) -> Json:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    return {"name": name, "description": f"To {name}.", "input_schema": schema}


@dataclass(frozen=True, slots=True)
class Said:
    """What a client must have understood of one answer."""

    text: str
    thinking: str = ""
    calls: tuple[tuple[str, str, Json], ...] = ()
    usage: tuple[int, int] = (100, 10)


def understood(way: Way, answer: Json, said: Said) -> None:
    """Raises AssertionError where the client understood anything else."""
    assert (answer["role"], answer["model"]) == ("assistant", "brain")
    assert answer["finish"] == ("tool_use" if said.calls else "end_turn")
    assert answer["usage"] == list(said.usage)
    blocks = answer["blocks"]
    assert "".join(block["text"] for block in blocks if block["type"] == "text") == said.text
    thoughts = [block for block in blocks if block["type"] == "thinking"]
    assert "".join(block["thinking"] for block in thoughts) == said.thinking
    assert all(block["signature"] for block in thoughts)
    calls = [(block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
    assert calls == list(said.calls)
    if way.stream:
        seen = answer["seen"]
        assert seen["starts"] == 1
        assert (seen["text"], seen["thinking"]) == (said.text, said.thinking)
        assert seen["blocks"] == [block["type"] for block in blocks]


# Words and pictures


async def test_plain_words(way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(says(Thinks("A greet"), Thinks("ing."), "Hello", " there."))
        answers = await way.ask(stage, user("Hi."))
    assert answers["error"] is None
    (answer,) = answers["answers"]
    understood(way, answer, Said("Hello there.", "A greeting."))


@pytest.mark.parametrize("beta", [False, True], ids=["plain", "beta"])
async def test_a_picture_that_is_looked_at_between_words(way: Way, on_stage: OnStage, beta: bool) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me ", "look.", looks(1, "What animal?"), usage=(100, 10)),
            says(Thinks("A cat, then."), "It is a ", "cat.", usage=(150, 7)),
        )
        stage.house.eyes.will(sees("A tabby cat.", usage=(60, 6)))
        answers = await way.ask(stage, user("[Image #1] What is this?", image(CAT)), beta=beta)
        assert b"analyzeImage" not in stage.tap.heard
    assert answers["error"] is None
    (answer,) = answers["answers"]
    understood(way, answer, Said("Let me look.\n\nIt is a cat.", "A picture.A cat, then.", usage=(150, 17)))
    if not way.stream:  # of a stream's usage they keep the fields that they know
        assert answer["chiasm"] == {
            "turns": 2,
            "vision_calls": 1,
            "vision_prompt_tokens": 60,
            "vision_completion_tokens": 6,
            "billed_prompt_tokens": 250,
        }


async def test_two_looks_at_once_and_a_third_after_them(way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(
            says("Both.", looks(1, "What?"), looks(2, "What?")),
            says(looks("1, 2", "Which is larger?")),
            says("The cat."),
        )
        answers = await way.ask(stage, user("Compare.", image(CAT), image(DOG)))
        assert [len(look.pictures) for look in stage.house.eyes.looks] == [1, 1, 2]
    assert answers["error"] is None
    (answer,) = answers["answers"]
    understood(way, answer, Said("Both.\n\nThe cat.", usage=(100, 30)))


async def test_heartbeats_while_the_eyes_take_their_time(way: Way, on_stage: OnStage) -> None:
    async with on_stage(server={"heartbeat_seconds": 0.05}) as stage:
        stage.house.brain.will(says(Waits(0.2), Thinks("Hm."), "Wait.", looks(1, "What?")), says("A cat."))
        stage.house.eyes.will(sees("A cat.", after=0.4))
        answers = await way.ask(stage, user(image(CAT)))
        beats = stage.tap.heard.count(b"event: ping")
        assert beats >= 3 if way.stream else beats == 0
    assert answers["error"] is None
    (answer,) = answers["answers"]
    understood(way, answer, Said("Wait.\n\nA cat.", "Hm.", usage=(100, 20)))


# The client's own tools

THEIRS = [Calls("Read", '{"path":"a.txt"}', "call_a"), Calls("Shoot", '{"path":"dog.png"}', "call_b")]
CALLS = tuple((call.id, call.name, orjson.loads(call.arguments)) for call in THEIRS)
MIXED: Final = {
    "theirs alone": THEIRS,
    "ours first": [looks(1, "What?", id="call_ours"), *THEIRS],
    "ours between": [THEIRS[0], looks(1, "What?", id="call_ours"), THEIRS[1]],
    "ours last": [*THEIRS, looks(1, "What?", id="call_ours")],
}


@pytest.mark.parametrize("order", MIXED)
async def test_calls_of_the_clients_tools_one_of_which_answers_with_a_picture(
    way: Way, on_stage: OnStage, order: str
) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(
            says(Thinks("Hm."), "I will read.", *MIXED[order]),
            says(looks(2, "What?")),
            says("A cat and a dog.", usage=(200, 2)),
        )
        stage.house.eyes.will(*[sees("A tabby cat.")] * (order != "theirs alone"), sees("A small dog."))
        answers = await way.ask(stage, user("Read.", image(CAT)), Read="AAA", Shoot=[image(DOG)])
        first, second, third = stage.house.brain.asked
        assert first.tools == ["Read", "Shoot", "analyzeImage", "recallImage"]
        said, *results = second.messages[len(first.messages) :]
        assert [call["id"] for call in said["tool_calls"]] == [call.id for call in MIXED[order]]
        told = {message["tool_call_id"]: str(message["content"]) for message in results}
        assert told.keys() == {call.id for call in MIXED[order]}
        assert "AAA" in told["call_a"]
        assert "[Image #2]" in told["call_b"]
        assert "A tabby cat." in told.get("call_ours", "A tabby cat.")
        assert "A small dog." in str(third.messages[-1]["content"])
    assert answers["error"] is None
    before, after = answers["answers"]
    understood(way, before, Said("I will read.", "Hm.", calls=CALLS))
    understood(way, after, Said("A cat and a dog.", usage=(200, 12)))


# Counting


async def test_tokens_are_counted_with_words_in_place_of_pictures(way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(whole({"input_tokens": 42}))
        answers = await way.ask(stage, user("What is this?", image(CAT)), count=True, Read="")
        (asked,) = stage.house.brain.asked
        assert b"[Image #1]" in asked.body
    assert answers == {"answers": [42], "error": None}


# Faults


@pytest.mark.parametrize("before", [[], [says("Let me look.", looks(1, "What?"))]], ids=["at first", "after a look"])
async def test_an_error_in_the_middle_of_an_answer_is_seen(way: Way, on_stage: OnStage, before: list[Any]) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(*before, says("Hello", Fails("the graphics card has left")))
        answers = await way.ask(stage, user("Hi.", image(CAT)))
    assert answers["answers"] == []
    assert "the graphics card has left" in answers["error"]["message"]


@pytest.mark.parametrize(
    ("status", "type_"),
    [(400, "BadRequestError"), (401, "AuthenticationError"), (429, "RateLimitError"), (500, "InternalServerError")],
)
async def test_a_refusal_is_the_librarys_own_error(way: Way, on_stage: OnStage, status: int, type_: str) -> None:
    async with on_stage() as stage:
        stage.house.brain.answers = lambda asked: refuses(status, "not today")
        answers = await way.ask(stage, user("Hi."))
    assert answers["error"]["type"] == type_
    assert "not today" in answers["error"]["message"]
