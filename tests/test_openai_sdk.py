"""The official SDK as referee: what it makes of a spliced answer, streamed and whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from tests.brain import Breaks, Calls, Fails, Thinks, Waits, looks, refuses, says
from tests.eyes import sees
from tests.live import House, assistant, function, live, picture, shown, tool_call, tool_result, user

pytestmark = [pytest.mark.anyio, pytest.mark.live]

CAT = picture(1)
QUESTION: list[Any] = [user("What is this?", shown(CAT))]
TOOLS: list[Any] = [function("Read")]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with live(server={"heartbeat_seconds": 0.02}) as house:
        yield house


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncOpenAI]:
    async with asking(house) as client:
        yield client


def asking(house: House) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{house.port}/v1", api_key="none", max_retries=0)


def two_looks(house: House) -> None:
    """Words, thoughts and two looks, with heartbeats in between."""
    house.brain.will(
        says(Thinks("A picture."), "Let me look.", Waits(0.1), looks(1, "What?"), usage=(100, 10)),
        says(Thinks("Closer."), looks(1, "Which breed?"), usage=(130, 20)),
        says("It is", " a tabby cat.", usage=(160, 30)),
    )
    house.eyes.will(sees("A cat.", after=0.1, usage=(50, 5)), sees("Tabby.", usage=(60, 6)))


def check_usage(usage: Any) -> None:
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (160, 60, 220)
    assert usage.model_extra["chiasm"] == {
        "turns": 3,
        "vision_calls": 2,
        "vision_prompt_tokens": 110,
        "vision_completion_tokens": 11,
        "billed_prompt_tokens": 390,
    }


async def test_the_streaming_helper_puts_a_spliced_answer_together(house: House, client: AsyncOpenAI) -> None:
    two_looks(house)
    async with client.chat.completions.stream(
        model="brain", messages=QUESTION, stream_options={"include_usage": True}
    ) as stream:
        kinds = [event.type async for event in stream]
        completion = await stream.get_final_completion()

    (choice,) = completion.choices
    assert choice.message.content == "Let me look.\n\nIt is a tabby cat."
    assert choice.message.role == "assistant"
    assert choice.message.model_extra is not None
    assert choice.message.model_extra["reasoning_content"] == "A picture.\n\nCloser."
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"
    assert completion.model == "brain"
    check_usage(completion.usage)
    assert kinds.count("content.done") == 1
    assert kinds.index("content.done") > max(index for index, kind in enumerate(kinds) if kind == "content.delta")


async def test_chunks_are_of_one_completion(house: House, client: AsyncOpenAI) -> None:
    two_looks(house)
    stream = await client.chat.completions.create(
        model="brain", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == len({chunk.model for chunk in chunks}) == 1
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices and chunk.choices[0].delta.role] == [
        "assistant"
    ]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason] == [
        "stop"
    ]
    assert [chunk.choices for chunk in chunks if chunk.usage] == [[]]
    assert chunks[-1].usage is not None
    check_usage(chunks[-1].usage)


async def test_without_asking_usage_rides_on_the_finish(house: House, client: AsyncOpenAI) -> None:
    two_looks(house)
    stream = await client.chat.completions.create(model="brain", messages=QUESTION, stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.choices for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    check_usage(chunks[-1].usage)


async def test_a_whole_answer_reads_the_same(house: House, client: AsyncOpenAI) -> None:
    two_looks(house)
    completion = await client.chat.completions.create(model="brain", messages=QUESTION)
    message = completion.choices[0].message
    assert message.content == "Let me look.\n\nIt is a tabby cat."
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"] == "A picture.\n\nCloser."
    assert message.tool_calls is None
    check_usage(completion.usage)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_mixed_turn_and_the_way_back(house: House, client: AsyncOpenAI, streamed: bool) -> None:
    house.brain.will(
        says(
            "Both.",
            Calls("Read", '{"path": "a.txt"}', "call_a"),
            looks(1, "What?", id="call_ours"),
            Calls("Read", '{"path": "b.txt"}', "call_b"),
        ),
        says("All three."),
    )
    if streamed:
        async with client.chat.completions.stream(model="brain", messages=QUESTION, tools=TOOLS) as stream:
            completion: Any = await stream.get_final_completion()
    else:
        completion = await client.chat.completions.create(model="brain", messages=QUESTION, tools=TOOLS)
    (choice,) = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Both."
    calls = [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    assert calls == [("call_a", "Read", '{"path": "a.txt"}'), ("call_b", "Read", '{"path": "b.txt"}')]

    history: list[Any] = [
        *QUESTION,
        assistant("Both.", *(tool_call(*call) for call in calls)),
        tool_result("call_a", "text a"),
        tool_result("call_b", "text b"),
    ]
    last = await client.chat.completions.create(model="brain", messages=history, tools=TOOLS)
    assert last.choices[0].message.content == "All three."
    said, *results = house.brain.asked[1].messages[1:]
    assert [call["id"] for call in said["tool_calls"]] == ["call_a", "call_ours", "call_b"]
    assert sorted(result["tool_call_id"] for result in results) == ["call_a", "call_b", "call_ours"]


async def test_a_broken_stream_is_an_error_with_words_and_what_was_said_is_there(
    house: House, client: AsyncOpenAI
) -> None:
    house.brain.will(says("Hello", Fails("CUDA error")), says("Hello", Breaks()))
    for words in ("CUDA error", "broke"):
        stream = await client.chat.completions.create(model="brain", messages=QUESTION, stream=True)
        said: list[str] = []
        with pytest.raises(openai.APIError, match=words):
            await read(stream, said)
        assert "".join(said) == "Hello"


async def read(stream: AsyncIterator[ChatCompletionChunk], said: list[str]) -> None:
    async for chunk in stream:
        said.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 (what came before an error must stay)


async def test_refusals_are_the_sdks_own_errors(client: AsyncOpenAI) -> None:
    async with live() as patient, asking(patient) as one:  # no heartbeat may begin the answer before the refusal
        patient.brain.will(refuses(429, "slow down", headers={"retry-after": "3"}))
        with pytest.raises(openai.RateLimitError, match="slow down"):
            await one.chat.completions.create(model="brain", messages=QUESTION, stream=True)
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        await client.chat.completions.create(model="other", messages=QUESTION)
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="brain", messages=[])


async def test_models_are_the_sdks_own_models(house: House, client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["brain"]
    assert (await client.models.retrieve("brain")).id == "brain"
