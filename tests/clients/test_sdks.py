"""Libraries: each is asked in the same words, tells what it understood, and must have understood the same.

What the service says is canonical, so that an answer made of several turns looks to each of them like one.  The
assertions name what has broken before: a role told twice, ids strung together, usage added up, two finish reasons,
calls that are not counted from 0 (see `_openai` and those after it).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

import orjson
import pytest

from tests.brain import Calls, Fails, Thinks, Waits, looks, says
from tests.clients.library import LIBRARIES
from tests.clients.stage import Stage
from tests.eyes import sees
from tests.live import data_url, picture, user
from tests.pure_splice import read_stream

pytestmark = [pytest.mark.anyio, pytest.mark.live]

OnStage = Callable[..., AbstractAsyncContextManager[Stage]]
Json = dict[str, Any]

CAT, DOG = picture(1), picture(2)


@dataclass(frozen=True, slots=True)
class Way:
    """One client, asked in one of its ways."""

    client: str
    stream: bool = True
    include_usage: bool = True
    handed_on: bool = False
    """openai-node: the stream goes through `toReadableStream()` and `fromReadableStream()`."""

    def __str__(self) -> str:
        how = "streamed" if self.stream else "whole"
        return "-".join([self.client, how, *["usage"] * self.include_usage, *["handed-on"] * self.handed_on])

    async def ask(self, stage: Stage, *messages: Json, tools: list[Json] | None = None, **results: str) -> Json:
        """`results`: of the client's own tools, by name."""
        job = {
            "base_url": stage.url,
            "stream": self.stream,
            "include_usage": self.include_usage,
            "handed_on": self.handed_on,
            "messages": messages,
            "tools": tools or [],
            "results": results,
        }
        answer: Json = await stage.libraries.of(self.client).ask(job)
        return answer


WAYS: Final = [
    *(Way(client, stream=stream) for client in LIBRARIES for stream in (True, False)),
    Way("openai-node", handed_on=True),
]
WAYS_WITHOUT_USAGE: Final = [
    Way(client, include_usage=False)
    for client in LIBRARIES
    if client != "litellm"  # it counts for itself then
]


def _each(ways: list[Way]) -> Any:
    """One client's tests run one after the other, in one process of pytest, so that it is imported once."""
    return [
        pytest.param(way, marks=[pytest.mark.client(way.client), pytest.mark.xdist_group(way.client)], id=str(way))
        for way in ways
    ]


@pytest.fixture(params=_each(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    assert isinstance(request.param, Way)
    return request.param


def shown(image: bytes) -> Json:
    return {"type": "image_url", "image_url": {"url": data_url(image)}}


def tool(name: str) -> Json:
    parameters = {
        "type": "object",
        "properties": {"path": {"type": "string"}},
        "required": ["path"],
        "additionalProperties": False,
    }
    function = {"name": name, "description": f"To {name}.", "parameters": parameters, "strict": True}
    return {"type": "function", "function": function}


READ, LIST = tool("Read"), tool("List")


@dataclass(frozen=True, slots=True)
class Said:
    """What a client must have understood of one answer."""

    text: str
    reasoning: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    """Id, name and arguments (without white space)."""
    usage: tuple[int, int] = (100, 10)
    """Prompt and completion tokens."""


def understood(way: Way, answer: Json, said: Said) -> None:
    """Raises AssertionError where the client understood anything else, or understood it more than once."""
    assert answer["text"] == said.text
    assert answer["role"] == "assistant"
    assert answer["model"] == "brain"
    assert answer["finish"] == ("tool_calls" if said.calls else "stop")
    assert [tuple(call) for call in _plain(answer["calls"])] == list(said.calls)
    assert answer["usage"] == [*said.usage, sum(said.usage)], "usage is told once"
    if way.client == "openai-node" and way.stream:
        # It knows no such field, and of fields it does not know it keeps the last fragment only.
        assert said.reasoning.endswith(answer["reasoning"])
    elif way.client != "langchain":  # which leaves reasoning out
        assert answer["reasoning"] == said.reasoning
    if way.stream:
        _SEEN[way.client](answer.get("seen") or {}, said)


def _plain(calls: list[list[Any]]) -> list[list[Any]]:
    """Arguments without white space: some clients parse them and write them again."""
    return [
        [id_, name, orjson.dumps(arguments if isinstance(arguments, dict) else orjson.loads(arguments)).decode()]
        for id_, name, arguments in calls
    ]


def _openai(seen: Json, said: Said) -> None:
    assert seen["roles"] == ["assistant"], "a second role is strung to the first: 'assistantassistant'"
    assert len(set(seen["ids"])) == 1, "a new id begins a new completion"
    assert len(seen["finishes"]) == 1, "an early finish reason ends the text too early"
    assert seen["text_done"] == ([said.text] if said.text else [])
    done = [(index, name, arguments) for index, (_, name, arguments) in enumerate(said.calls)]
    assert [tuple(call) for call in seen["arguments_done"]] == done, "each call's arguments are whole when it is done"
    assert seen.get("completions", 1) == 1


def _langchain(seen: Json, said: Said) -> None:
    assert [tuple(call) for call in _plain(seen["parsed"])] == list(said.calls), "names and ids are added up as well"


def _litellm(seen: Json, said: Said) -> None:
    assert len(set(seen["ids"])) == 1
    assert len(seen["finishes"]) == 1, "the first one wins"


def _ai_sdk(seen: Json, said: Said) -> None:
    """What it saw stands with the first answer, for all of them."""
    assert not seen.get("errors")
    assert "" not in [block.strip() for block in seen.get("text_blocks", ())], "white space makes a text block"


_SEEN: Final = {
    "openai-python": _openai,
    "openai-node": _openai,
    "langchain": _langchain,
    "litellm": _litellm,
    "ai-sdk": _ai_sdk,
}


def canonical(stage: Stage) -> None:
    """Every stream that passed was what the tests of the service itself demand."""
    assert stage.tap.chats
    for told in stage.tap.chats:
        assert told.answer is not None
        asked = told.request.json
        if asked.get("stream"):
            options = asked.get("stream_options") or {}
            read_stream(told.answer.body, include_usage=options.get("include_usage", False))
        assert b"analyzeImage" not in told.answer.body


# Words


async def test_plain_words(way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(says(Thinks("A greet"), Thinks("ing."), "Hello", " there."))
        answers = await way.ask(stage, user("Hi."))
        canonical(stage)
    assert answers["error"] is None
    (answer,) = answers["answers"]
    understood(way, answer, Said("Hello there.", "A greeting."))


# Pictures


@pytest.mark.parametrize("way", _each([*WAYS, *WAYS_WITHOUT_USAGE]))
async def test_a_picture_that_is_looked_at_between_words(way: Way, on_stage: OnStage) -> None:
    """Words before the look, white space before the call, thoughts and words after it: one answer.

    Its usage comes in a chunk of its own where the client asked for it, else with the finish reason; both are read.
    """
    async with on_stage() as stage:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me ", "look.", "\n\n", looks(1, "What animal?"), usage=(100, 10)),
            says(Thinks("A cat, then."), "\n\nIt is a ", "cat.", usage=(150, 7)),
        )
        stage.house.eyes.will(sees("A tabby cat.", usage=(60, 6)))
        answers = await way.ask(stage, user("What is this?", shown(CAT)))
        canonical(stage)
        (look,) = stage.house.eyes.looks
        assert len(look.pictures) == 1
        assert "A tabby cat." in stage.house.brain.asked[1].messages[-1]["content"]
    assert answers["error"] is None
    (answer,) = answers["answers"]
    understood(way, answer, Said("Let me look.\n\nIt is a cat.", "A picture.\n\nA cat, then.", usage=(150, 17)))
    if answer["chiasm"] is not None:
        assert answer["chiasm"] == {
            "turns": 2,
            "vision_calls": 1,
            "vision_prompt_tokens": 60,
            "vision_completion_tokens": 6,
            "billed_prompt_tokens": 250,
        }


async def test_a_look_before_the_first_word(way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(says("\n\n", looks(1, "What?")), says("A cat."))
        answers = await way.ask(stage, user(shown(CAT)))
        canonical(stage)
    assert answers["error"] is None
    (answer,) = answers["answers"]
    understood(way, answer, Said("A cat.", usage=(100, 20)))


async def test_two_looks_at_once_and_a_third_after_them(way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(
            says("Both.", looks(1, "What?"), looks(2, "What?")),
            says(looks("1, 2", "Which is larger?")),
            says("The cat."),
        )
        answers = await way.ask(stage, user("Compare.", shown(CAT), shown(DOG)))
        canonical(stage)
        assert [len(look.pictures) for look in stage.house.eyes.looks] == [1, 1, 2]
    assert answers["error"] is None
    (answer,) = answers["answers"]
    understood(way, answer, Said("Both.\n\nThe cat.", usage=(100, 30)))


@pytest.mark.parametrize("heartbeat", ["comment", "chunk"])
async def test_heartbeats_while_the_eyes_take_their_time(way: Way, on_stage: OnStage, heartbeat: str) -> None:
    async with on_stage(server={"heartbeat": heartbeat, "heartbeat_seconds": 0.05}) as stage:
        stage.house.brain.will(says(Waits(0.2), Thinks("Hm."), "Wait.", looks(1, "What?")), says("A cat."))
        stage.house.eyes.will(sees("A cat.", after=0.4))
        answers = await way.ask(stage, user(shown(CAT)))
        beats = stage.tap.heard.count(b": keep-alive" if heartbeat == "comment" else b'"delta":{},')
        assert beats >= 3 if way.stream else beats == 0
    assert answers["error"] is None
    (answer,) = answers["answers"]
    understood(way, answer, Said("Wait.\n\nA cat.", "Hm.", usage=(100, 20)))


# The client's own tools

CALLS = (("call_a", "Read", '{"path":"a.txt"}'), ("call_b", "List", '{"path":"src"}'))
THEIRS = [Calls(name, arguments, id_) for id_, name, arguments in CALLS]
MIXED: Final = {
    "theirs alone": THEIRS,
    "ours first": [looks(1, "What?", id="call_ours"), *THEIRS],
    "ours between": [THEIRS[0], looks(1, "What?", id="call_ours"), THEIRS[1]],
    "ours last": [*THEIRS, looks(1, "What?", id="call_ours")],
}


@pytest.mark.parametrize("order", MIXED)
async def test_calls_of_the_clients_tools_and_what_follows(way: Way, on_stage: OnStage, order: str) -> None:
    """Two at once, with and without a look beside them; then their results come back and meet what was seen."""
    async with on_stage() as stage:
        stage.house.brain.will(
            says("I will read.", *["\n\n"] * way.stream, *MIXED[order]), says("Done.", usage=(200, 2))
        )
        stage.house.eyes.will(*[sees("A tabby cat.")] * (order != "theirs alone"))
        answers = await way.ask(stage, user("Read.", shown(CAT)), tools=[READ, LIST], Read="AAA", List="BBB")
        canonical(stage)
        first, second = stage.house.brain.asked
        assert first.tools == ["Read", "List", "analyzeImage", "recallImage"]
        rest = second.messages[len(first.messages) :]
        said, results = rest[0], {message["tool_call_id"]: message["content"] for message in rest[1:]}
        called = [call["id"] for call in said["tool_calls"]]
        assert called == [call.id for call in MIXED[order] if isinstance(call, Calls)]
        assert [message["role"] for message in rest[1:]] == ["tool"] * len(called)
        assert set(results) == set(called)
        assert "A tabby cat." in results.get("call_ours", "A tabby cat.")
        assert [_words(results[id_]) for id_, _, _ in CALLS] == ["AAA", "BBB"]
    assert answers["error"] is None
    before, after = answers["answers"]
    understood(way, before, Said("I will read.", calls=CALLS))
    understood(way, after, Said("Done.", usage=(200, 2)))


def _words(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


# Faults


async def test_an_error_in_the_middle_of_an_answer_is_seen(way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(says("Hello", Fails("the graphics card has left")))
        answers = await way.ask(stage, user("Hi."))
        canonical(stage)
    assert answers["error"] is not None
    assert "the graphics card has left" in answers["error"]["message"]
    assert not [answer for answer in answers["answers"] if answer["finish"] == "stop"]


async def test_an_error_after_a_look_is_seen(way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(says("Let me look.", looks(1, "What?")), says("It is", Fails("out of memory")))
        answers = await way.ask(stage, user(shown(CAT)))
        canonical(stage)
    assert answers["error"] is not None
    assert "out of memory" in answers["error"]["message"]
    assert not [answer for answer in answers["answers"] if answer["finish"] == "stop"]
