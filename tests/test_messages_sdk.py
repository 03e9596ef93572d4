"""Anthropic's official SDK as referee: what it makes of a spliced answer, streamed and whole."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.brain import Breaks, Calls, Waits, looks, refuses, whole
from tests.brain import says as chat_says
from tests.eyes import sees
from tests.live import House, live, picture
from tests.messages_brain import Raw, Thought, says_message

pytestmark = [pytest.mark.anyio, pytest.mark.live]

SOURCE: dict[str, Any] = {
    "type": "base64",
    "media_type": "image/png",
    "data": base64.b64encode(picture(1)).decode(),
}
QUESTION: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image", "source": SOURCE}]}
]
TOOLS: list[Any] = [{"name": "Read", "description": "To read.", "input_schema": {"type": "object", "properties": {}}}]
LIMIT = 4096


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with live(server={"heartbeat_seconds": 0.02}) as house:
        yield house


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=f"http://127.0.0.1:{house.port}", api_key="none", max_retries=0) as client:
        yield client


def two_looks(house: House) -> None:
    """Words, thoughts and two looks, with heartbeats in between."""
    house.brain.will(
        says_message(Thought("A picture.", "one"), Waits(0.1), looks(1, "What?"), read=100, written=10),
        says_message(Thought("Closer.", "two"), looks(1, "Which breed?"), read=130, written=20),
        says_message("It is a tabby cat.", read=160, written=30, usage={"cache_read_input_tokens": 7}),
    )
    house.eyes.will(sees("A cat.", after=0.1, usage=(50, 5)), sees("Tabby.", usage=(60, 6)))


def check(message: Any) -> None:
    *thoughts, words = message.content
    assert [(one.type, one.thinking, one.signature) for one in thoughts] == [
        ("thinking", "A picture.", "one"),
        ("thinking", "Closer.", "two"),
    ]
    assert (words.type, words.text) == ("text", "It is a tabby cat.")
    assert (message.role, message.model, message.stop_reason) == ("assistant", "brain", "end_turn")
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens) == (160, 60, 7)


async def test_the_streaming_helper_puts_a_spliced_answer_together(house: House, client: AsyncAnthropic) -> None:
    two_looks(house)
    async with client.messages.stream(model="brain", max_tokens=LIMIT, messages=QUESTION) as stream:
        kinds = [event.type async for event in stream]
        message = await stream.get_final_message()
    check(message)
    assert kinds.count("message_start") == 1
    assert kinds.count("content_block_stop") == 3
    assert kinds[-1] == "message_stop"


async def test_text_comes_as_it_is_said(house: House, client: AsyncAnthropic) -> None:
    house.brain.will(says_message("Let me look.", looks(1, "What?")), says_message("A cat."))
    house.eyes.will(sees("A cat."))
    async with client.messages.stream(model="brain", max_tokens=LIMIT, messages=QUESTION) as stream:
        pieces = [piece async for piece in stream.text_stream]
    assert pieces == ["Let me look.", "\n\nA cat."]


async def test_a_whole_answer_is_the_same(house: House, client: AsyncAnthropic) -> None:
    two_looks(house)
    message = await client.messages.create(model="brain", max_tokens=LIMIT, messages=QUESTION)
    check(message)
    assert message.usage.model_extra is not None
    assert message.usage.model_extra["chiasm"] == {
        "turns": 3,
        "vision_calls": 2,
        "vision_prompt_tokens": 110,
        "vision_completion_tokens": 11,
        "billed_prompt_tokens": 397,
    }


@pytest.mark.parametrize("stream", [True, False])
async def test_a_tool_loop_with_a_mixed_turn(house: House, client: AsyncAnthropic, stream: bool) -> None:
    house.brain.will(
        says_message("Both.", looks(1, "What?"), Calls("Read", '{"path": "a"}', "toolu_theirs")),
        says_message("A cat, and a file."),
    )
    house.eyes.will(sees("A cat."))

    async def ask(messages: list[Any]) -> Any:
        if not stream:
            return await client.messages.create(model="brain", max_tokens=LIMIT, messages=messages, tools=TOOLS)
        async with client.messages.stream(model="brain", max_tokens=LIMIT, messages=messages, tools=TOOLS) as streamed:
            return await streamed.get_final_message()

    message = await ask(QUESTION)
    words, call = message.content
    assert (words.text, call.name, call.input, message.stop_reason) == ("Both.", "Read", {"path": "a"}, "tool_use")
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "Words."}
    said: Any = {"role": "assistant", "content": message.content}
    final = await ask([*QUESTION, said, {"role": "user", "content": [result]}])
    assert final.content[0].text == "A cat, and a file."
    assert len(house.brain.asked[1].json["messages"][-1]["content"]) == 2


async def test_a_thought_that_nobody_may_read_is_one(house: House, client: AsyncAnthropic) -> None:
    house.brain.will(says_message(Raw({"type": "redacted_thinking", "data": "xyz"}), "Hello."))
    async with client.messages.stream(model="brain", max_tokens=LIMIT, messages=QUESTION) as stream:
        message = await stream.get_final_message()
    assert [block.type for block in message.content] == ["redacted_thinking", "text"]


async def test_a_refusal_is_the_error_that_it_was(house: House, client: AsyncAnthropic) -> None:
    house.brain.will(refuses(429, "Slow down."))
    with pytest.raises(anthropic.RateLimitError) as refused:
        await client.messages.create(model="brain", max_tokens=LIMIT, messages=QUESTION)
    assert refused.value.body == {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down."}}


async def test_a_stream_that_breaks_is_an_error(house: House, client: AsyncAnthropic) -> None:
    async def breaks(asked: Any, wire: Any) -> None:
        await chat_says(Breaks())(asked, wire)

    house.brain.will(says_message("Let me look.", looks(1, "What?")), breaks, breaks)
    house.eyes.will(sees("A cat."))
    async with client.messages.stream(model="brain", max_tokens=LIMIT, messages=QUESTION) as stream:
        with pytest.raises(anthropic.APIStatusError) as broken:
            await stream.get_final_message()
    assert isinstance(broken.value.body, dict)
    assert broken.value.body["error"]["type"] == "api_error"


async def test_tokens_are_counted(house: House, client: AsyncAnthropic) -> None:
    house.brain.will(whole({"input_tokens": 42}))
    counted = await client.messages.count_tokens(model="brain", messages=QUESTION)
    assert counted.input_tokens == 42
