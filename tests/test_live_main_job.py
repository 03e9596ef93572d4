"""The main job over sockets: pictures come in, the brain gets words, and the client sees one answer.

All of it is run in every wire format, but for what only some of them can say (marked `formats`), and for what stands
before all of them: keys, sessions, models, readiness.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from router.protocol.exchange import LAST_TURN_NOTE
from tests.brain import (
    PICTURE,
    Brain,
    Calls,
    Fails,
    Hangs,
    Script,
    Thinks,
    bytes_of,
    hangs,
    looks,
    nobody,
    refuses,
    resets,
    says,
    whole,
)
from tests.eyes import Eyes, sees
from tests.live import (
    DEADLINE,
    House,
    Options,
    assistant,
    data_url,
    function,
    live,
    picture,
    running,
    shown,
    soon,
    text,
    tool_call,
    tool_result,
    user,
)
from tests.speakers.speaker import Speaker

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.usefixtures("speaker")]

CAT, DOG = picture(1), picture(2)


@pytest.fixture
async def house(speaker: Speaker) -> AsyncIterator[House]:
    async with live() as house:
        yield house


@pytest.fixture(params=[True, False], ids=["streamed", "whole"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def words_of(message: Any) -> str:
    """The text of a message, parts joined."""
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


# One picture, wherever it stands


async def test_a_picture_in_a_user_message_is_looked_at_and_answered_as_one(house: House, stream: bool) -> None:
    house.brain.will(
        says(Thinks("A picture."), "Let me look.", looks(1, "What animal?"), usage=(100, 10)),
        says(Thinks("A cat, then."), "It is a cat.", usage=(150, 7)),
    )
    house.eyes.will(sees("A tabby cat.", usage=(60, 6)))

    answer = await house.chat(user("What is this?", shown(CAT)), stream=stream)

    assert answer.text == "Let me look.\n\nIt is a cat."
    assert answer.reasoning == "A picture.\n\nA cat, then."
    assert (answer.calls, answer.finish, answer.model) == ([], "stop", "brain")
    assert answer.usage == {
        "prompt_tokens": 150,
        "completion_tokens": 17,
        "total_tokens": 167,
        "chiasm": {
            "turns": 2,
            "vision_calls": 1,
            "vision_prompt_tokens": 60,
            "vision_completion_tokens": 6,
            "billed_prompt_tokens": 250,
        },
    }
    (look,) = house.eyes.looks
    assert len(look.pictures) == 1
    assert "What animal?" in look.words
    first, second = house.brain.asked
    assert words_of(first.messages[0]).startswith("What is this?\n[Image #1] (")
    assert second.messages[: len(first.messages)] == first.messages
    said, result = second.messages[len(first.messages) :]
    assert said["content"] == "Let me look."
    assert said["reasoning_content"] == "A picture."
    assert orjson.loads(said["tool_calls"][0]["function"]["arguments"]) == {"image": "1", "task": "What animal?"}
    assert result["tool_call_id"] == said["tool_calls"][0]["id"]
    assert "A tabby cat." in words_of(result)
    assert first.json["tools"] == second.json["tools"]
    assert first.json["stream"] is stream


CCR_RESULT = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": None}}]


def in_parts(image: bytes) -> Any:
    return [text("The screenshot:"), shown(image)]


def as_claude_code_router_sends_it(image: bytes) -> Any:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(image).decode()}
    return orjson.dumps([{"type": "image", "source": source}]).decode()


def as_an_mcp_server_says_it(image: bytes) -> Any:
    block = {"type": "image", "data": base64.b64encode(image).decode(), "mimeType": "image/png"}
    return orjson.dumps({"content": [{"type": "text", "text": "The screenshot:"}, block]}).decode()


@pytest.mark.parametrize("size", ["small", "large enough to be cut out before parsing"])
@pytest.mark.parametrize("wrapped", [in_parts, as_claude_code_router_sends_it, as_an_mcp_server_says_it])
async def test_a_picture_in_a_tool_message_is_looked_at(house: House, wrapped: Any, size: str) -> None:
    image = CAT if size == "small" else noise(96)
    assert (len(base64.b64encode(image)) > 4096) == (size != "small")
    house.brain.will(says(looks(1, "What does it say?")), says("It says hello."))

    answer = await house.chat(
        user("Read the file."),
        assistant(None, tool_call("toolu_1", "Read", '{"path":"a.png"}')),
        tool_result("toolu_1", wrapped(image)),
        tools=[function("Read")],
        stream=True,
    )

    assert answer.text == "It says hello."
    first = house.brain.asked[0]
    assert isinstance(first.messages[2]["content"], str) or house.speaker.name != "chat"
    assert "[Image #1]" in words_of(first.messages[2])
    assert first.tools == ["Read", "analyzeImage", "recallImage"]
    assert len(house.eyes.looks[0].pictures) == 1


def noise(side: int) -> bytes:
    """A PNG that does not compress: `side` squared times three bytes."""
    import io
    import random

    from PIL import Image

    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(side).randbytes(side * side * 3)).save(out, "PNG")
    return out.getvalue()


async def test_several_calls_in_one_turn_are_looked_at_side_by_side(house: House, stream: bool) -> None:
    both = asyncio.Event()

    def answered(asked: Any) -> Script:
        if len(house.eyes.asked) == 2:
            both.set()
        return sees(f"Look {len(house.eyes.asked)}.", after=both)  # neither is answered before both were asked

    house.eyes.answers = answered
    house.brain.will(says(looks(1, "What?"), looks(2, "What?")), says("A cat and a dog."))

    answer = await house.chat(user("Compare.", shown(CAT), shown(DOG)), stream=stream)

    assert answer.text == "A cat and a dog."
    assert answer.usage is not None
    assert answer.usage["chiasm"]["vision_calls"] == 2
    assert house.eyes.at_once == 2
    assert [message["role"] for message in house.brain.asked[1].messages] == ["user", "assistant", "tool", "tool"]


async def test_several_pictures_in_one_look(house: House) -> None:
    house.brain.will(says(looks("1, 2", "Which is larger?")), says("The second."))
    await house.chat(user("Compare.", shown(CAT), shown(DOG)), stream=True)
    (look,) = house.eyes.looks
    assert len(look.pictures) == 2
    assert "[Image #1]" in look.words
    assert "[Image #2]" in look.words


async def test_the_last_turn_is_announced_and_the_tools_stay_as_they_were(stream: bool) -> None:
    async with live(text={"max_turns": 3}) as house:
        house.brain.will(says(looks(1, "First?")), says(looks(1, "Second?")), says("Enough seen."))
        answer = await house.chat(user(shown(CAT)), stream=stream)
        assert answer.text == "Enough seen."
        first, second, third = house.brain.asked
        assert first.json["tools"] == second.json["tools"] == third.json["tools"]
        assert not words_of(second.messages[-1]).endswith(LAST_TURN_NOTE)
        assert words_of(third.messages[-1]).endswith(LAST_TURN_NOTE)
        assert third.messages[: len(second.messages)] == second.messages


async def test_a_brain_that_never_stops_asking_is_stopped(stream: bool) -> None:
    async with live(text={"max_turns": 2}) as house:
        house.brain.will(says(looks(1, "First?")), says(looks(1, "Second?")))
        answer = await house.chat(user(shown(CAT)), stream=stream)
        assert "limit of 2 turns" in answer.text
        assert (answer.calls, answer.finish) == ([], "stop")
        assert len(house.eyes.looks) == 1


# Numbers


async def test_the_same_picture_twice_has_one_number(house: House) -> None:
    house.brain.will(says("The same."))
    await house.chat(user(shown(CAT), "and", shown(DOG), "and", shown(CAT)))
    words = words_of(house.brain.asked[0].messages[0])
    assert [line.split(" (")[0] for line in words.split("\n") if line] == [
        "[Image #1]",
        "and",
        "[Image #2]",
        "and",
        "[Image #1]",
    ]


async def test_numbers_are_stable_in_later_requests_and_so_is_all_that_was_said(house: House) -> None:
    house.brain.will(says("Hello."), says("Two now."), says("One is gone."))
    first = [user("Look.", shown(CAT))]
    conversation = (await house.send({"messages": first})).headers["x-chiasm-conversation"]
    later = [*first, assistant("Hello."), user("And this?", shown(DOG))]
    await house.chat(*later)
    trimmed = [user("Look."), assistant("Hello."), user("And this?", shown(DOG))]
    await house.chat(*trimmed, headers={"x-chiasm-conversation": conversation})

    one, two, three = house.brain.asked
    assert two.messages[:1] == one.messages
    assert "[Image #2]" in words_of(two.messages[2])
    assert "[Image #2]" in words_of(three.messages[2]), "a number survives history trimmed by the client"
    assert one.tools == two.tools == three.tools == ["analyzeImage", "recallImage"]


async def test_a_number_resolves_after_the_client_stopped_sending_the_picture(house: House) -> None:
    house.brain.will(says("Hello."), says(looks(1, "Once more?")), says("Still a cat."))
    headers = {"x-chiasm-conversation": "a-long-talk"}
    await house.chat(user(shown(CAT)), headers=headers)
    answer = await house.chat(user("What was in [Image #1]?"), headers=headers)
    assert answer.text == "Still a cat."
    assert len(house.eyes.looks[0].pictures) == 1


async def test_the_clients_own_number_is_taken_where_it_is_free(house: House) -> None:
    house.brain.will(says(looks(2, "What?")), says("A cat."))
    await house.chat(user("[Image #2] What is it?", shown(CAT)))
    assert words_of(house.brain.asked[0].messages[0]).startswith("[Image #2] What is it?\n[Image #2] (")
    assert len(house.eyes.looks) == 1


async def test_the_clients_own_number_is_rewritten_where_it_is_taken(house: House) -> None:
    house.brain.will(says("A dog."))
    await house.chat(user("[Image #2] One.", shown(CAT)), user("[Image #2] Two.", shown(DOG)))
    first, second = house.brain.asked[0].messages
    assert words_of(first).startswith("[Image #2] One.\n[Image #2] (")
    assert words_of(second).startswith("[Image #3] Two.\n[Image #3] (")


async def test_an_unknown_number_gets_the_brain_a_list_of_the_known(house: House) -> None:
    house.brain.will(says(looks(7, "What?")), says("I see."))
    await house.chat(user(shown(CAT), shown(DOG)), stream=True)
    assert words_of(house.brain.asked[1].messages[-1]) == (
        "There is no image #7. The images of this conversation are: #1, #2."
    )
    assert house.eyes.looks == []


async def test_two_conversations_do_not_share_numbers(house: House) -> None:
    house.brain.will(says("Hello."), says(looks(1, "What?")), says("Not that one."))
    await house.chat(user(shown(CAT)), headers={"x-session-id": "one"})
    await house.chat(user(shown(DOG), "And this?"), headers={"x-session-id": "two"})
    assert "[Image #1]" in words_of(house.brain.asked[1].messages[0])
    assert house.eyes.looks[0].pictures != []


# What rides along, and what does not


@pytest.mark.formats("chat")
async def test_a_request_without_pictures_reaches_the_brain_as_it_came(house: House, stream: bool) -> None:
    house.brain.will(says("Hello."))
    messages = [{"role": "system", "content": "Be brief."}, {**user("Hi."), "name": "ann", "x_own": {"a": [1, None]}}]
    fields: dict[str, Any] = {
        "model": "brain",
        "temperature": 0.3,
        "x_unknown": {"deep": [{"er": True}]},
        "chat_template_kwargs": {"enable_thinking": False},
        "tools": [{**function("Read"), "x_own": 1}],
        "stop": ["END"],
        "seed": 7,
        "top_k": 20,
        "logit_bias": {"50256": -100},
    }
    await house.chat(*messages, stream=stream, **fields)
    got = house.brain.asked[0].json
    if stream:
        assert got.pop("stream_options") == {"include_usage": True}
    assert got == {"messages": messages, "stream": stream, **fields}


async def test_a_session_header_reaches_the_brain_and_the_clients_key_does_not() -> None:
    async with live(server={"api_keys": ["client-key"]}, text={"api_key": "brain-key"}) as house:
        house.brain.will(says("Hello."))
        await house.chat(
            user("Hi."),
            headers={
                "authorization": "Bearer client-key",
                "x-session-id": "s1",
                "x-session-affinity": "s" * 1001,
                "cookie": "c=1",
                "x-request-id": "r-1",
            },
        )
        headers = house.brain.asked[0].headers
        assert headers["authorization"] == "Bearer brain-key"
        assert (headers["x-session-id"], headers["x-request-id"]) == ("s1", "r-1")
        assert "x-session-affinity" not in headers
        assert "cookie" not in headers
        assert "client-key" not in str(headers)


@pytest.mark.formats("chat")
async def test_marks_of_other_servers_are_dropped(house: House) -> None:
    """As claude-code-router sends a request of Claude Code."""
    house.brain.will(says("Hello."))
    mark = {"cache_control": {"type": "ephemeral"}}
    await house.chat(
        {
            "role": "system",
            "content": [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=a1b2c;", **mark},
                {"type": "text", "text": "You are Claude Code.", **mark},
            ],
        },
        user(text("What?") | mark, {**shown(CAT), "media_type": "image/png"}),
        tools=[{**function("Read"), **mark}],
        tool_choice="any",
    )
    got = house.brain.asked[0]
    assert b"cache_control" not in got.body
    assert b"billing" not in got.body
    assert b"media_type" not in got.body
    assert got.json["tool_choice"] == "required"
    assert words_of(got.messages[0]) == "You are Claude Code."


@pytest.mark.formats("chat")
async def test_system_messages_are_one_and_first(house: House) -> None:
    house.brain.will(says("Hello."))
    await house.chat(
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        user("Hi."),
        {"role": "system", "content": "It is late."},
        assistant("Hello."),
        user("And?"),
    )
    messages = house.brain.asked[0].messages
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"] == "Be brief.\n\nBe kind."
    assert words_of(messages[1]).startswith("Hi.")
    assert "It is late." in words_of(messages[1])


@pytest.mark.formats("chat")
async def test_a_server_that_knows_developers_keeps_them() -> None:
    async with live(text={"engine": "openai"}) as house:
        house.brain.will(says("Hello."))
        sent = [
            {"role": "developer", "content": "Be brief."},
            user("Hi."),
            {"role": "system", "content": "It is late."},
        ]
        await house.chat(*sent)
        assert house.brain.asked[0].messages == sent


async def test_tools_are_offered_in_every_request_where_the_configuration_says_so() -> None:
    async with live(images={"offer_tools": "always"}) as house:
        house.brain.will(says("Hello."))
        await house.chat(user("Hi."), tools=[function("Read")])
        assert house.brain.asked[0].tools == ["Read", "analyzeImage", "recallImage"]


async def test_a_tool_of_the_client_keeps_its_name_and_ours_takes_another(house: House, stream: bool) -> None:
    house.brain.will(
        says(looks(1, "What?", name="chiasm_analyzeImage")), says(Calls("analyzeImage", '{"path":"x"}', "c1"))
    )
    answer = await house.chat(user(shown(CAT)), tools=[function("analyzeImage")], stream=stream)
    assert house.brain.asked[0].tools == ["analyzeImage", "chiasm_analyzeImage", "recallImage"]
    assert "chiasm_analyzeImage" in words_of(house.brain.asked[0].messages[0])
    assert [(call.name, call.arguments) for call in answer.calls] == [("analyzeImage", '{"path":"x"}')]
    assert answer.finish == "tool_calls"
    assert len(house.eyes.looks) == 1


# Mixed turns


async def test_a_mixed_turn_lets_the_clients_call_go_and_the_next_request_holds_both_results(
    house: House, stream: bool
) -> None:
    house.brain.will(
        says("Both.", looks(1, "What?", id="call_ours"), Calls("Read", '{"path": "a.txt"}', "call_theirs")),
        says("A cat, and a text."),
    )
    house.eyes.will(sees("A cat."))
    history = [user("Look and read.", shown(CAT))]
    tools = [function("Read")]

    answer = await house.chat(*history, tools=tools, stream=stream)

    assert (answer.text, answer.finish) == ("Both.", "tool_calls")
    (call,) = answer.calls
    assert (call.id, call.name, orjson.loads(call.arguments)) == ("call_theirs", "Read", {"path": "a.txt"})
    second = await house.chat(
        *history,
        assistant("Both.", tool_call("call_theirs", "Read", '{"path": "a.txt"}')),
        tool_result("call_theirs", "some text"),
        tools=tools,
        stream=stream,
    )
    assert second.text == "A cat, and a text."
    before, after = house.brain.asked
    assert after.messages[: len(before.messages)] == before.messages
    said, *results = after.messages[len(before.messages) :]
    assert [call["id"] for call in said["tool_calls"]] == ["call_ours", "call_theirs"]
    assert {result["tool_call_id"] for result in results} == {"call_ours", "call_theirs"}
    assert "A cat." in next(words_of(result) for result in results if result["tool_call_id"] == "call_ours")
    assert len(house.eyes.looks) == 1


async def test_the_request_after_a_mixed_turn_waits_for_a_look_that_still_runs(house: House) -> None:
    seen = asyncio.Event()
    house.brain.will(says(looks(1, "What?"), Calls("Read", "{}", "call_theirs")), says("Both."))
    house.eyes.will(sees("A cat.", after=seen))
    tools = [function("Read")]
    await house.chat(user(shown(CAT)), tools=tools, stream=True)
    next_request = asyncio.create_task(
        house.chat(
            user(shown(CAT)),
            assistant(None, tool_call("call_theirs", "Read")),
            tool_result("call_theirs", "some text"),
            tools=tools,
            stream=True,
        )
    )
    await soon(house.eyes.came())
    await asyncio.sleep(0.1)
    assert len(house.brain.asked) == 1, "asked before the look was over"
    seen.set()
    assert (await soon(next_request)).text == "Both."
    assert "A cat." in str(house.brain.asked[1].messages)


async def test_servers_that_count_call_ids_anew_in_each_turn_confuse_no_turns(house: House) -> None:
    """Kimi's `functions.Read:0` behind some servers, and every server that says `call_0`."""
    house.brain.will(
        says("One.", looks(1, "First?", id="ours_1"), Calls("Read", '{"path":"a"}', "call_0")),
        says("Two.", looks(1, "Second?", id="ours_2"), Calls("Read", '{"path":"b"}', "call_0")),
        says("Done."),
    )
    tools = [function("Read")]
    history = [user("Look and read.", shown(CAT))]
    for said, path in (("One.", "a"), ("Two.", "b")):
        await house.chat(*history, tools=tools)
        call = tool_call("call_0", "Read", f'{{"path":"{path}"}}')
        history += [assistant(said, call), tool_result("call_0", f"text {path}")]
    await house.chat(*history, tools=tools)
    answers = [message["content"] for message in house.brain.asked[2].messages if message["role"] == "assistant"]
    assert answers == ["One.", "Two."]


# Requests on which no tool loop can work, and brains without tools

FALLBACKS_OF_CHAT: dict[str, dict[str, Any]] = {
    "the answer is held to a format": {"response_format": {"type": "json_object"}},
    "several answers at once": {"n": 2},
}
FALLBACKS: dict[str, dict[str, Any]] = {
    "no tool may be called": {"tool_choice": "none", "tools": [function("Read")]},
    "another tool must be called": {
        "tool_choice": {"type": "function", "function": {"name": "Read"}},
        "tools": [function("Read")],
    },
}


@pytest.mark.parametrize("fields", FALLBACKS.values(), ids=FALLBACKS.keys())
async def test_where_tools_cannot_work_the_picture_is_described_in_its_place(
    house: House, stream: bool, fields: dict[str, Any]
) -> None:
    await is_described(house, stream, fields)


@pytest.mark.formats("chat")
@pytest.mark.parametrize("fields", FALLBACKS_OF_CHAT.values(), ids=FALLBACKS_OF_CHAT.keys())
async def test_where_an_answer_has_a_form_the_picture_is_described_in_its_place(
    house: House, stream: bool, fields: dict[str, Any]
) -> None:
    await is_described(house, stream, fields)


async def is_described(house: House, stream: bool, fields: dict[str, Any]) -> None:
    house.brain.will(says("A cat."), says("Still a cat."))
    house.eyes.will(sees("A tabby cat on a mat."))
    messages = [user("What is this?", shown(CAT))]

    await house.chat(*messages, stream=stream, **fields)
    await house.chat(*messages, assistant("A cat."), user("Sure?"), stream=stream, **fields)

    first, second = house.brain.asked
    assert first.tools == [tool["function"]["name"] for tool in fields.get("tools", ())]
    assert "[Image #1]" in words_of(first.messages[0])
    assert "A tabby cat on a mat." in words_of(first.messages[0])
    assert second.messages[0] == first.messages[0], "the same bytes, or the prefix cache is lost"
    (look,) = house.eyes.looks
    assert "What is this?" in look.words


@pytest.mark.formats("chat", "messages")
async def test_a_message_that_the_client_began_is_continued_with_descriptions(house: House, stream: bool) -> None:
    house.brain.will(says(" cat."))
    await house.chat(user("What?", shown(CAT)), assistant("It is a"), stream=stream)
    assert house.brain.asked[0].tools == []
    assert "What look 1 shows." in words_of(house.brain.asked[0].messages[0])


async def test_a_brain_without_tools_reads_descriptions(stream: bool) -> None:
    async with live(text={"images": "caption"}) as house:
        house.brain.will(says("A cat and a dog."))
        answer = await house.chat(user("Compare.", shown(CAT), shown(DOG), shown(CAT)), stream=stream)
        assert answer.text == "A cat and a dog."
        assert answer.usage is not None
        assert answer.usage["chiasm"]["vision_calls"] == 2
        assert len(house.eyes.looks) == 2, "each picture once"
        assert "tools" not in house.brain.asked[0].json


@pytest.mark.formats("chat")
async def test_several_answers_at_once_all_arrive(house: House) -> None:
    def choice(index: int, content: str) -> dict[str, Any]:
        return {"index": index, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}

    house.brain.will(
        whole({"id": "x", "object": "chat.completion", "created": 1, "choices": [choice(0, "One."), choice(1, "Two.")]})
    )
    got = await house.send({"messages": [user("Hi.", shown(CAT))], "n": 2})
    assert [choice["message"]["content"] for choice in got.json["choices"]] == ["One.", "Two."]


@pytest.mark.parametrize("side", [16, 200], ids=["small", "large"])
async def test_switched_off_everything_passes_as_it_came(side: int, stream: bool) -> None:
    async with live(text={"images": "off"}) as house:
        house.brain.may_see_pictures = True
        house.brain.will(says("A cat."))
        image = noise(side)
        messages = [
            user("What?", shown(image)),
            assistant(None, tool_call("t1", "Read")),
            tool_result("t1", as_claude_code_router_sends_it(image)),
            user(shown("https://example.org/cat.png")),
        ]
        assert (await house.chat(*messages, stream=stream)).text == "A cat."
        assert house.brain.asked[0].messages == messages
        assert "tools" not in house.brain.asked[0].json
        assert house.eyes.asked == []


# What the eyes cannot see


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (data_url(CAT[: len(CAT) // 2]), "truncated"),
        ("data:image/png;base64,", "Image #1: unreadable"),
        ("data:image/png;base64,!!not*base64!!", "not valid base64"),
        (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "Image #1: unreadable"),
        ("https://example.org/cat.png", "by URL are not fetched"),
    ],
)
async def test_a_bad_picture_is_words_and_the_answer_goes_on(
    house: House, url: str, problem: str, stream: bool
) -> None:
    house.brain.will(says(looks(1, "What?")), says("It cannot be read."))
    answer = await house.chat(user("What?", shown(url)), stream=stream)
    assert answer.text == "It cannot be read."
    assert problem in words_of(house.brain.asked[0].messages[0])
    assert "cannot be looked at" in words_of(house.brain.asked[1].messages[-1])
    assert house.eyes.asked == []


@pytest.mark.parametrize("failing", [refuses(400, "no such field"), refuses(503, "busy"), resets, whole(b"<html>")])
async def test_eyes_that_fail_are_words_and_the_answer_goes_on(house: House, failing: Script, stream: bool) -> None:
    house.eyes.answers = lambda asked: failing
    house.brain.will(says(looks(1, "What?")), says("I cannot see it."))
    answer = await house.chat(user("What?", shown(CAT)), stream=stream)
    assert answer.text == "I cannot see it."
    assert answer.finish == "stop"
    assert "analyzeImage failed" in words_of(house.brain.asked[1].messages[-1])


async def test_eyes_that_hang_are_words_in_time() -> None:
    async with live(vision={"timeout_seconds": 0.3}) as house:
        house.eyes.answers = lambda asked: hangs
        house.brain.will(says(looks(1, "What?")), says("I cannot see it."))
        assert (await house.chat(user(shown(CAT)), stream=True)).text == "I cannot see it."
        await soon(house.eyes.asked[0].gone.wait())


async def test_a_description_that_failed_is_words_too(house: House) -> None:
    house.eyes.answers = lambda asked: refuses(400, "broken")
    house.brain.will(says("I cannot see it."))
    await house.chat(user(shown(CAT)), tool_choice="none")
    assert "could not be looked at" in words_of(house.brain.asked[0].messages[0])


# Usage


@pytest.mark.formats("chat")
@pytest.mark.parametrize("wanted", [True, False])
async def test_usage_comes_in_a_chunk_of_its_own_only_when_asked_for(house: House, wanted: bool) -> None:
    house.brain.will(says("Hello.", usage=(11, 3)))
    answer = await house.chat(user("Hi."), stream=True, stream_options={"include_usage": wanted})
    assert house.brain.asked[0].json["stream_options"] == {"include_usage": True}
    assert answer.usage is not None
    assert (answer.usage["prompt_tokens"], answer.usage["completion_tokens"]) == (11, 3)


async def test_a_budget_is_shared_by_all_turns(house: House, stream: bool) -> None:
    house.brain.will(says(looks(1, "What?"), usage=(100, 30)), says("A cat."))
    await house.chat(user(shown(CAT)), max_tokens=100, stream=stream)
    assert [asked.chat["max_tokens"] for asked in house.brain.asked] == [100, 70]


# Names


async def test_a_request_id_is_taken_echoed_and_sent_on(house: House) -> None:
    house.brain.will(says("Hello."), says("Hello."), says("Hello."))
    body = {"messages": [user("Hi.")]}
    assert (await house.send(body, headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
    made = (await house.send({**body, "stream": True})).headers["x-request-id"]
    replaced = (await house.send(body, headers={"x-request-id": "two words"})).headers["x-request-id"]
    assert len(made) >= 16
    assert replaced != "two words"
    assert [asked.headers["x-request-id"] for asked in house.brain.asked] == ["mine-1", made, replaced]


async def test_errors_carry_the_request_id_too(house: House) -> None:
    for got in (
        await house.send(b"{", headers={"x-request-id": "mine-1"}),
        await house.get("/nowhere", x_request_id="mine-1"),
        await house.get("/healthz", x_request_id="mine-1"),
    ):
        assert got.headers["x-request-id"] == "mine-1"


async def test_a_conversation_is_named_and_its_name_honoured(house: House, stream: bool) -> None:
    house.brain.will(says("Hello."), says("Hello again."))
    got = await house.send({"messages": [user("Hi.", shown(CAT))], "stream": stream})
    name = got.headers["x-chiasm-conversation"]
    again = await house.send(
        {"messages": [user("Something else.", shown(DOG))], "stream": stream}, headers={"x-chiasm-conversation": name}
    )
    assert again.headers["x-chiasm-conversation"] == name
    assert "[Image #2]" in words_of(house.brain.asked[1].messages[0])


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"x-session-id": "s"}, {}),
        ({"x-session-affinity": "s"}, {}),
        ({"session-id": "s"}, {}),
        ({"x-claude-code-session-id": "s"}, {}),
        ({"x-openwebui-chat-id": "s"}, {}),
        ({}, {"metadata": {"user_id": "user_a_account_b_session_s"}}),
        ({}, {"metadata": {"user_id": '{"device_id":"d","session_id":"s"}'}}),
        ({}, {"prompt_cache_key": "s"}),
        ({}, {"metadata": {"session_id": "s"}}),
        ({}, {"user": "s"}),
    ],
)
async def test_a_session_of_the_client_is_a_conversation(house: House, headers: dict[str, str], fields: Any) -> None:
    house.brain.answers = lambda asked: says("Hello.")
    one = await house.send({"messages": [user("One.")], **fields}, headers=headers)
    two = await house.send({"messages": [user("Two.")], **fields}, headers=headers)
    other = await house.send({"messages": [user("Two.")]})
    names = [got.headers["x-chiasm-conversation"] for got in (one, two, other)]
    assert names[0] == names[1] != names[2]


async def test_two_keys_are_two_tenants() -> None:
    async with live(server={"api_keys": ["key-a", "key-b"]}) as house:
        house.brain.will(says("Hello."), says("Hello."))
        mine = {"x-chiasm-conversation": "talk"}
        await house.chat(user(shown(CAT)), headers={**mine, "x-api-key": "key-a"})
        await house.chat(user("[Image #1]?"), headers={**mine, "x-api-key": "key-b"})
        assert house.brain.asked[1].tools == [], "the other tenant has no image #1"


# Other addresses


@pytest.mark.formats("chat")
async def test_models_are_listed_with_what_they_take(house: House) -> None:
    listed = (await house.get("/v1/models")).json
    assert listed["object"] == "list"
    (row,) = listed["data"]
    assert row["id"] == "brain"
    assert "image" in row["architecture"]["input_modalities"]
    assert (await house.get("/v1/models/brain")).json == row
    missing = await house.get("/v1/models/other")
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


@pytest.mark.formats("chat")
async def test_a_name_with_a_slash_is_found() -> None:
    async with live(text={"name": "zai-org/GLM-5"}) as house:
        assert (await house.get("/v1/models/zai-org/GLM-5")).json["id"] == "zai-org/GLM-5"
        assert (await house.get("/v1/models/zai-org%2FGLM-5")).json["id"] == "zai-org/GLM-5"


async def test_without_names_the_first_model_listed_is_meant() -> None:
    async with live(text={"name": None}, vision={"name": None}) as house:
        house.brain.will(says(looks(1, "What?")), says("A cat."))
        answer = await house.chat(user(shown(CAT)), model="brain-7b", stream=True)
        assert answer.model == "brain-7b"
        assert house.brain.asked[0].json["model"] == "brain-7b"
        assert house.eyes.asked[0].json["model"] == "eyes-2b"
        assert (await house.get("/v1/models")).json["data"][0]["id"] == "brain-7b"


async def test_the_model_sent_upstream_is_the_servers(stream: bool) -> None:
    async with live(text={"name": "glm-5", "model": "zai-org/GLM-5"}) as house:
        house.brain.will(says("Hello."))
        assert (await house.chat(user("Hi."), model="glm-5", stream=stream)).model == "glm-5"
        assert house.brain.asked[0].json["model"] == "zai-org/GLM-5"


@pytest.mark.formats("chat")
async def test_alive_and_ready(house: House) -> None:
    assert (await house.get("/healthz")).json == {"status": "ok"}
    ready = await house.get("/readyz")
    assert (ready.status, ready.json["status"]) == (200, "ready")
    assert (await house.send(None, path="/healthz", method="HEAD")).status == 200


@pytest.mark.formats("chat")
@pytest.mark.parametrize("down", ["brain", "eyes"])
async def test_not_ready_while_brain_or_eyes_are_down(down: str) -> None:
    async with Brain() as brain, Eyes() as eyes, nobody() as nowhere:
        urls = (nowhere, eyes.url) if down == "brain" else (brain.url, nowhere)
        async with (
            running(Options().settings(*urls)) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE) as client,
        ):
            house = House(brain, eyes, port, client)
            got = await house.get("/readyz")
            assert (got.status, got.json["status"]) == (503, "not ready")
            sick = {label for label, state in got.json["checks"].items() if state != "ok"}
            assert sick == {"text brain" if down == "brain" else "vision eyes"}
            assert (await house.get("/healthz")).status == 200


@pytest.mark.parametrize("headers", [{"authorization": "Bearer right"}, {"x-api-key": "right"}])
async def test_either_header_opens_the_door(headers: dict[str, str]) -> None:
    async with live(server={"api_keys": ["other", "right"]}) as house:
        house.brain.will(says("Hello."))
        await house.chat(user("Hi."), headers=headers)
        assert (await house.send(None, path="/v1/models", method="GET", headers=headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": "right"}, {"x-api-key": ""}, {"x-api-key": "rightt"}],
)
async def test_without_a_right_key_nothing_is_answered(headers: dict[str, str]) -> None:
    async with live(server={"api_keys": ["right"]}) as house:
        for path, method in ((house.speaker.path, "POST"), ("/v1/models", "GET"), ("/v1/models/brain", "GET")):
            got = await house.send({"messages": [user("Hi.")]}, path=path, method=method, headers=headers)
            assert (got.status, got.error["code"]) == (401, "invalid_api_key")
        assert (await house.get("/healthz")).status == 200
        assert house.brain.asked == []


async def test_unknown_models_paths_and_methods_are_said_to_be(house: House) -> None:
    got = await house.send({"model": "gpt-9", "messages": [user("Hi.")]})
    assert (got.status, got.error["code"]) == (404, "model_not_found")
    assert "'gpt-9'" in got.error["message"]
    assert "'brain'" in got.error["message"]
    assert (await house.get("/v1/nowhere")).status == 404
    assert (await house.get("/v1/nowhere")).error["code"] == "not_found"
    assert (await house.get(f"{house.speaker.path}/")).status == 404
    wrong = await house.get(house.speaker.path)
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert (await house.send({}, path="/v1/models")).status == 405


# The brain's own refusals


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429])
async def test_the_brains_refusal_keeps_status_and_words(status: int, stream: bool) -> None:
    async with live(text={"api_key": "sk-very-secret"}) as house:
        words = "key sk-very-secret: context length is 4096"
        house.brain.will(refuses(status, words, headers={"retry-after": "7"}, code="too_much"))
        got = await house.send({"messages": [user("Hi.")], "stream": stream})
        told = "key [key]: context length is 4096"
        if status == 404 and house.speaker.name != "chat":  # not every server speaks it: ours adds what to do
            assert told in got.error["message"]
            told = got.error["message"]
        assert (got.status, got.error["message"]) == (status, told)
        if status != 404 or house.speaker.name == "chat":
            assert got.headers["retry-after"] == "7"
        assert b"sk-very-secret" not in got.body


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_the_brains_own_fault_is_502_with_its_words(house: House, status: int, stream: bool) -> None:
    house.brain.will(refuses(status, "out of memory"))
    got = await house.send({"messages": [user("Hi.")], "stream": stream})
    assert (got.status, got.error["message"]) == (502, "out of memory")


async def test_a_brain_that_is_not_there_is_502(stream: bool) -> None:
    async with nobody() as nowhere, live(text={"base_url": nowhere}) as house:
        got = await house.send({"messages": [user("Hi.")], "stream": stream})
        assert (got.status, got.error["code"]) == (502, "upstream_unreachable")
        assert nowhere.split("//")[1] not in got.body.decode()


@pytest.mark.parametrize("script", [hangs, says(Hangs())], ids=["before headers", "after headers"])
async def test_silence_before_the_first_event_is_504(script: Script, stream: bool) -> None:
    async with live(text={"first_byte_seconds": 0.5}) as house:
        house.brain.will(script)
        got = await house.send({"messages": [user("Hi.")], "stream": stream})
        assert (got.status, got.error["code"]) == (504, "upstream_timeout")
        assert got.headers["x-should-retry"] == "false"
        assert len(house.brain.asked) == 1
        await soon(house.brain.asked[0].gone.wait())


@pytest.mark.parametrize(("code", "status"), [(429, 429), (400, 400), (500, 502)])
async def test_an_error_as_the_first_event_is_a_status(house: House, code: int, status: int) -> None:
    house.brain.will(says(Fails("too many requests", code)))
    got = await house.send({"messages": [user("Hi.")], "stream": True})
    assert (got.status, got.error["message"]) == (status, "too many requests")


@pytest.mark.parametrize(
    "script",
    [
        bytes_of(b""),
        bytes_of(b"<html>nginx</html>", content_type="text/html"),
        bytes_of(b"data: {broken\n\n"),
        whole({"detail": "moved"}, status=302, headers={"location": "http://127.0.0.1:1/"}),
        whole([1, 2, 3]),
        whole({"choices": []}),
    ],
)
async def test_an_answer_that_is_none_is_an_error_and_never_an_empty_success(house: House, script: Script) -> None:
    house.brain.will(script)
    got = await house.send({"messages": [user("Hi.")], "stream": True})
    assert got.status == 502, got.body
    assert got.error["message"]


async def test_json_for_a_stream_request_becomes_a_stream(house: House) -> None:
    house.brain.will(says("Hello.", stream=False))
    assert (await house.chat(user("Hi."), stream=True)).text == "Hello."


async def test_a_picture_outside_the_messages_is_refused(house: House) -> None:
    got = await house.send({"messages": [user("Hi.")], "extra": {"image": data_url(CAT)}})
    assert (got.status, got.error["param"]) == (400, "extra")


@pytest.mark.formats("chat")
def test_the_watch_for_pictures_sees_what_it_must() -> None:
    """The proof that the check in every test here can fail."""
    for wrapped in (data_url(CAT), base64.b64encode(noise(20)).decode(), as_an_mcp_server_says_it(CAT)):
        assert PICTURE.search(orjson.dumps(wrapped))


async def test_the_engine_of_the_eyes_says_how_they_are_told_not_to_think() -> None:
    async with live(vision={"engine": "openrouter"}) as house:
        house.brain.will(says(looks(1, "What?")), says("A cat."))
        await house.chat(user("Look.", shown(picture(1))))
        sent = orjson.loads(house.eyes.asked[0].body)
        assert sent["reasoning"] == {"enabled": False}
        assert "chat_template_kwargs" not in sent
