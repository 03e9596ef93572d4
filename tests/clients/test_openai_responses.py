"""openai-python's `responses.stream()` and `.create()`: the library keeps a picture of the whole response as the events
come, and raises where one does not fit into it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import pytest

from tests.brain import Calls, Fails, Thinks, Waits, looks, refuses, says
from tests.clients.stage import Stage
from tests.eyes import sees
from tests.live import data_url, picture

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.live,
    pytest.mark.client("openai-python"),
    pytest.mark.xdist_group("openai-python/responses"),
    pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"]),
]

OnStage = Callable[..., AbstractAsyncContextManager[Stage]]
Json = dict[str, Any]

CAT, DOG = picture(1), picture(2)


async def ask(stage: Stage, stream: bool, *items: Json, **results: Any) -> Json:
    """`results`: of the client's tools, by name; it has those."""
    job = {
        "base_url": stage.url,
        "stream": stream,
        "input": items,
        "tools": [tool(name) for name in results],
        "results": results,
    }
    answer: Json = await stage.libraries.of("openai-python/responses").ask(job)
    return answer


def shown(data: bytes) -> Json:
    return {"type": "input_image", "image_url": data_url(data), "detail": "auto"}


def user(*parts: str | Json) -> Json:
    content = [{"type": "input_text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"type": "message", "role": "user", "content": content}


def tool(name: str) -> Json:
    schema = {
        "type": "object",
        "properties": {"path": {"type": "string"}},
        "required": ["path"],
        "additionalProperties": False,
    }
    return {"type": "function", "name": name, "description": f"To {name}.", "parameters": schema, "strict": True}


def understood(
    stream: bool,
    answer: Json,
    text: str,
    reasoning: str = "",
    calls: tuple[tuple[str, str, str], ...] = (),
    usage: tuple[int, int] = (100, 10),
) -> None:
    """Raises AssertionError where the client understood anything else."""
    assert (answer["model"], answer["finish"], answer["error"]) == ("brain", "completed", None)
    assert (answer["text"], answer["reasoning"]) == (text, reasoning)
    assert [tuple(call) for call in answer["calls"]] == list(calls)
    assert answer["usage"] == [*usage, sum(usage)]
    if stream:
        seen = answer["seen"]
        assert (seen["text"], seen["text_done"], seen["reasoning"]) == (text, text, reasoning)
        assert seen["arguments_done"] == [arguments for _, _, arguments in calls]
        assert seen["numbers"] == list(range(len(seen["numbers"]))), "events are counted from 0 without gaps"


async def test_plain_words(stream: bool, on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(says(Thinks("A greet"), Thinks("ing."), "Hello", " there."))
        answers = await ask(stage, stream, user("Hi."))
    assert answers["error"] is None
    (answer,) = answers["answers"]
    understood(stream, answer, "Hello there.", "A greeting.")


async def test_a_picture_that_is_looked_at_between_words(stream: bool, on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me ", "look.", looks(1, "What animal?"), usage=(100, 10)),
            says(Thinks("A cat, then."), "It is a ", "cat.", usage=(150, 7)),
        )
        stage.house.eyes.will(sees("A tabby cat.", usage=(60, 6)))
        answers = await ask(stage, stream, user("What is this?", shown(CAT)))
        assert b"analyzeImage" not in stage.tap.heard
    assert answers["error"] is None
    (answer,) = answers["answers"]
    # Two items, with thoughts between them; the library strings the words of all items together.
    understood(stream, answer, "Let me look.\n\nIt is a cat.", "A picture.A cat, then.", usage=(150, 17))
    assert (answer["chiasm"]["turns"], answer["chiasm"]["vision_calls"]) == (2, 1)


async def test_heartbeats_while_the_eyes_take_their_time(stream: bool, on_stage: OnStage) -> None:
    async with on_stage(server={"heartbeat_seconds": 0.05}) as stage:
        stage.house.brain.will(says(Waits(0.2), Thinks("Hm."), "Wait.", looks(1, "What?")), says("A cat."))
        stage.house.eyes.will(sees("A cat.", after=0.4))
        answers = await ask(stage, stream, user(shown(CAT)))
        beats = stage.tap.heard.count(b": keep-alive")
        assert beats >= 3 if stream else beats == 0
    assert answers["error"] is None
    (answer,) = answers["answers"]
    understood(stream, answer, "Wait.\n\nA cat.", "Hm.", usage=(100, 20))


CALLS: Final = (("call_a", "Read", '{"path":"a.txt"}'), ("call_b", "Shoot", '{"path":"dog.png"}'))
THEIRS: Final = [Calls(name, arguments, id_) for id_, name, arguments in CALLS]
MIXED: Final = {
    "theirs alone": THEIRS,
    "ours first": [looks(1, "What?", id="call_ours"), *THEIRS],
    "ours between": [THEIRS[0], looks(1, "What?", id="call_ours"), THEIRS[1]],
    "ours last": [*THEIRS, looks(1, "What?", id="call_ours")],
}


@pytest.mark.parametrize("order", MIXED)
async def test_calls_of_the_clients_tools_one_of_which_answers_with_a_picture(
    stream: bool, on_stage: OnStage, order: str
) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(
            says(Thinks("Hm."), "I will read.", *MIXED[order]),
            says(looks(2, "What?")),
            says("A cat and a dog.", usage=(200, 2)),
        )
        stage.house.eyes.will(*[sees("A tabby cat.")] * (order != "theirs alone"), sees("A small dog."))
        answers = await ask(stage, stream, user("Read.", shown(CAT)), Read="AAA", Shoot=[shown(DOG)])
        first, second, third = stage.house.brain.asked
        assert first.tools == ["Read", "Shoot", "analyzeImage", "recallImage"]
        rest = second.messages[len(first.messages) :]
        called = [call["id"] for message in rest for call in message.get("tool_calls") or ()]
        assert called == [call.id for call in MIXED[order]]
        told = {one["tool_call_id"]: str(one["content"]) for one in rest if one["role"] == "tool"}
        assert told.keys() == set(called)
        assert "AAA" in told["call_a"]
        assert "[Image #2]" in told["call_b"]
        assert "A tabby cat." in told.get("call_ours", "A tabby cat.")
        assert "A small dog." in str(third.messages[-1]["content"])
    assert answers["error"] is None
    before, after = answers["answers"]
    understood(stream, before, "I will read.", "Hm.", CALLS)
    understood(stream, after, "A cat and a dog.", usage=(200, 12))


async def test_an_error_in_the_middle_of_an_answer_is_seen(stream: bool, on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(says("Hello", Fails("the graphics card has left")))
        answers = await ask(stage, stream, user("Hi."))
    said = answers["error"]["message"] if answers["error"] else answers["answers"][0]["error"]
    assert "the graphics card has left" in said
    assert not [answer for answer in answers["answers"] if answer["finish"] == "completed"]


async def test_a_refusal_is_the_librarys_own_error(stream: bool, on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(refuses(400, "not today"))
        answers = await ask(stage, stream, user("Hi."))
    assert answers["error"]["type"] == "BadRequestError"
    assert "not today" in answers["error"]["message"]
