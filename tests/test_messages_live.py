"""`POST /v1/messages` and `/v1/messages/count_tokens` over sockets, between a scripted brain and scripted eyes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
import pytest

from router.protocol.ledger import forgotten
from tests.brain import Calls, Waits, bytes_of, looks, refuses, says, whole
from tests.eyes import sees
from tests.live import DEADLINE, Got, House, Line, live, picture, post, shown, soon
from tests.live import user as chat_user
from tests.messages_brain import Raw, Thought, event, opens, says_message, start
from tests.messages_splice import Answer, read_stream

pytestmark = [pytest.mark.anyio, pytest.mark.live]

Json = dict[str, Any]

CAT, DOG = picture(1), picture(2)
PATH, COUNT = "/v1/messages", "/v1/messages/count_tokens"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with live() as house:
        yield house


def image(data: bytes) -> Json:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(data).decode()}
    return {"type": "image", "source": source}


def text(words: str) -> Json:
    return {"type": "text", "text": words}


def user(*blocks: str | Json) -> Json:
    return {"role": "user", "content": [text(block) if isinstance(block, str) else block for block in blocks]}


def result(id_: str, *blocks: str | Json) -> Json:
    content = [text(block) if isinstance(block, str) else block for block in blocks]
    return {"type": "tool_result", "tool_use_id": id_, "content": content}


def tool(name: str) -> Json:
    return {"name": name, "description": f"To {name}.", "input_schema": {"type": "object", "properties": {}}}


def body(messages: Sequence[Json], **fields: Any) -> Json:
    return {"model": "brain", "max_tokens": 4096, "messages": list(messages), **fields}


async def ask(house: House, *messages: Json, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
    got = await house.send(body(messages, stream=True, **fields), path=PATH, headers=headers)
    assert got.status == 200, got.body
    return read_stream(got.body)


def words_of(asked: Json) -> str:
    return orjson.dumps(asked["messages"]).decode()


# What the brain gets


async def test_an_image_is_words_and_the_brain_has_our_tool(house: House) -> None:
    house.brain.will(says_message("Hello."))
    answer = await ask(house, user("What is it?", image(CAT)), system="You are.", tools=[tool("read")])
    assert answer.blocks == [text("Hello.")]
    (asked,) = house.brain.asked
    assert asked.path == PATH
    assert asked.json["system"] == "You are."
    assert asked.json["max_tokens"] == 4096
    (message,) = asked.json["messages"]
    assert message["content"][0] == text("What is it?")
    assert message["content"][1]["text"].startswith("[Image #1] (attached PNG, 160x96")
    assert [one["name"] for one in asked.json["tools"]] == ["read", "analyzeImage", "recallImage"]
    assert all(one.keys() == {"name", "description", "input_schema"} for one in asked.json["tools"])


async def test_images_in_results_are_words_where_they_stood(house: House) -> None:
    house.brain.will(says_message("Hello."))
    said = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "read", "input": {}}]}
    await ask(house, user("Read."), said, user(result("a", "First:", image(CAT), "Second:", image(DOG)), "And now?"))
    (found, asked) = house.brain.asked[0].json["messages"][-1]["content"]
    assert found["tool_use_id"] == "a"
    assert [block["text"].partition(" (")[0] for block in found["content"]] == [
        "First:", "[Image #1]", "Second:", "[Image #2]",
    ]  # fmt: skip
    assert asked == text("And now?")


async def test_a_cache_mark_on_an_image_stays_in_its_place(house: House) -> None:
    # Claude Code marks the last block of a message, which a pasted image is.
    house.brain.will(says_message("Hello."))
    mark = {"cache_control": {"type": "ephemeral"}}
    said = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "read", "input": {}}]}
    await ask(house, user("What?", {**image(CAT), **mark}), said, user(result("a", {**image(DOG), **mark})))
    first, _, last = house.brain.asked[0].json["messages"]
    for block in (first["content"][1], last["content"][0]["content"][0]):
        assert block.keys() == {"type", "text", "cache_control"}
        assert block["cache_control"] == mark["cache_control"]


async def test_documents_pass_as_they_came(house: House) -> None:
    # Base64 of anything holds the first letters of a JPEG now and then.
    data = "JVBERi0xLjQK" + "A" * 300 + "/9j/" + "B" * 5000
    document = {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": data},
        "title": "a.pdf",
        "cache_control": {"type": "ephemeral"},
    }
    house.brain.may_see_pictures = True  # the witness takes any long base64 for a picture
    house.brain.will(says_message("Hello."))
    await ask(house, user(document, "What is it?"))
    assert house.brain.asked[0].json["messages"][0]["content"][0] == document


async def test_the_clients_own_numbers_count(house: House) -> None:
    house.brain.will(says_message("Hello."))
    await ask(house, user("[Image #3] What is it?", image(CAT)))
    assert "[Image #3] (attached" in words_of(house.brain.asked[0].json)


@pytest.mark.parametrize(
    "user_id",
    [
        "user_{0}_account_{0}_session_11111111-2222-3333-4444-555555555555",
        '{{"device_id":"d","account_uuid":"{0}","session_id":"11111111-2222-3333-4444-555555555555"}}',
    ],
)
async def test_the_session_in_the_users_id_is_the_conversation(house: House, user_id: str) -> None:
    names = set()
    for account in ("a", "b"):
        house.brain.will(says_message("Hello."))
        got = await house.send(body([user("Hi", account)], metadata={"user_id": user_id.format(account)}), path=PATH)
        names.add(got.headers["x-chiasm-conversation"])
    assert len(names) == 1


async def test_headers_of_the_format_and_the_session_reach_the_server(house: House) -> None:
    house.brain.will(says_message("Hello."), says_message("Hello."))
    given = {
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "a,b",
        "x-claude-code-session-id": "s",
        "x-api-key": "k",
    }
    await ask(house, user("Hi"), headers=given)
    told = house.brain.asked[0].headers
    assert {name: told.get(name) for name in given} == {**given, "x-api-key": None}
    await ask(house, user("Hi"))
    assert house.brain.asked[1].headers["anthropic-version"] == "2023-06-01"


async def test_our_key_goes_in_both_headers() -> None:
    async with live(text={"api_key": "sekret"}) as house:
        house.brain.will(says_message("Hello."))
        await ask(house, user("Hi"))
        told = house.brain.asked[0].headers
        assert (told["authorization"], told["x-api-key"]) == ("Bearer sekret", "sekret")


async def test_two_requests_that_differ_in_the_billing_line_are_the_same(house: House) -> None:
    for value in ("11111", "22222"):
        house.brain.will(says_message("Hello."))
        system = [text(f"x-anthropic-billing-header: cc_version=2.1; cch={value};"), text("You are.")]
        await ask(house, user("Hi"), system=system)
    one, other = house.brain.asked
    assert one.body == other.body
    assert one.json["system"] == [text("You are.")]


async def test_the_address_may_ask_for_a_beta(house: House) -> None:
    house.brain.will(says_message("Hello."))
    got = await house.send(body([user("Hi")]), path=f"{PATH}?beta=true")
    assert got.json["content"] == [text("Hello.")]


# A look


@pytest.mark.parametrize("stream", [True, False])
async def test_a_look_is_hidden(house: House, stream: bool) -> None:
    house.brain.will(
        says_message(Thought("I must look.", "one"), "Let me look.", looks(1, "What is it?"), read=100, written=20),
        says_message(Thought("So.", "two"), "A cat.", read=150, written=5, usage={"cache_read_input_tokens": 90}),
    )
    house.eyes.will(sees("A cat on a mat."))
    got = await house.send(body([user(image(CAT))], stream=stream), path=PATH)
    if stream:
        answer = read_stream(got.body)
        blocks, stop, usage = answer.blocks, answer.stop_reason, answer.usage
    else:
        blocks, stop, usage = (got.json[name] for name in ("content", "stop_reason", "usage"))
    assert [block["type"] for block in blocks] == ["thinking", "text", "thinking", "text"]
    assert [block["text"] for block in blocks if "text" in block] == ["Let me look.", "\n\nA cat."]
    assert (stop, usage["input_tokens"], usage["output_tokens"]) == ("end_turn", 150, 25)
    assert usage["cache_read_input_tokens"] == 90
    assert usage["chiasm"]["vision_calls"] == 1
    assert all(isinstance(value, int) for value in usage["chiasm"].values())
    first, second = (asked.json["messages"] for asked in house.brain.asked)
    assert second[: len(first)] == first
    assert second[len(first)]["content"][0] == {"type": "thinking", "thinking": "I must look.", "signature": "one"}
    (seen,) = second[-1]["content"]
    assert "A cat on a mat." in seen["content"]


async def test_pings_come_while_the_eyes_look() -> None:
    async with live(server={"heartbeat_seconds": 0.05}) as house:
        seen = asyncio.Event()
        house.brain.will(says_message("Let me look.", looks(1, "What?")), says_message("A cat."))
        house.eyes.will(sees("A cat.", after=seen))
        request = post(orjson.dumps(body([user(image(CAT))], stream=True)), path=PATH)
        async with Line(house.port, request) as line:
            await line.until(b"Let me look.")
            await line.until(b"event: ping")
            seen.set()
            answer = read_stream((await line.rest()).body)
    assert (answer.blocks, answer.pings > 0) == ([text("Let me look.\n\nA cat.")], True)


async def test_a_stream_that_waits_for_its_first_word_is_kept_alive_by_comments() -> None:
    async with live(server={"heartbeat_seconds": 0.05}) as house:
        go = asyncio.Event()

        async def late(asked: Any, wire: Any) -> None:
            await go.wait()
            await says_message("Hello.")(asked, wire)

        house.brain.will(late)
        async with Line(house.port, post(orjson.dumps(body([user("Hi")], stream=True)), path=PATH)) as line:
            await line.until(b": keep-alive")
            go.set()
            assert read_stream((await line.rest()).body).blocks == [text("Hello.")]


# Later requests


def echoed(answer: Answer) -> Json:
    return {"role": "assistant", "content": answer.blocks}


async def test_the_next_prompt_begins_with_what_the_brain_saw_and_said(house: House) -> None:
    house.brain.will(
        says_message(Thought("I must look.", "one"), looks(1, "What is it?")),
        says_message(Thought("Again.", "two"), "Wait.", looks(1, "Which colour?")),
        says_message(Thought("So.", "three"), "A black cat."),
        says_message("Bye."),
    )
    house.eyes.will(sees("A cat."), sees("Black."))
    asked = [user("What is it?", image(CAT))]
    answer = await ask(house, *asked)
    await ask(house, *asked, echoed(answer), user("Thanks."))
    before, after = house.brain.asked[2].json["messages"], house.brain.asked[3].json["messages"]
    assert after[: len(before)] == before
    assert after[len(before) :] == [
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "So.", "signature": "three"}, text("A black cat.")],
        },
        user("Thanks."),
    ]


async def test_marks_that_move_from_message_to_message_lose_nothing(house: House) -> None:
    house.brain.will(says_message(looks(1, "What is it?")), says_message("A cat."), says_message("Bye."))
    house.eyes.will(sees("A cat."))
    marked = {**text("What is it?"), "cache_control": {"type": "ephemeral"}}
    answer = await ask(house, user(image(CAT), marked))
    await ask(house, user(image(CAT), "What is it?"), echoed(answer), user(marked))
    assert len(house.brain.asked[2].json["messages"]) == 5, "the look is not in the history"


async def test_reminders_that_go_lose_nothing(house: House) -> None:
    # Claude Code puts one beside a result and leaves it out of the next request.
    house.brain.will(
        says_message(Calls("read", "{}", "a")),
        says_message(looks(1, "What is it?")),
        says_message("A cat."),
        says_message("Bye."),
    )
    house.eyes.will(sees("A cat."))
    first = [user("What is it?", image(CAT))]
    first.append(echoed(await ask(house, *first, tools=[tool("read")])))
    reminded = user(result("a", "Words."), "<system-reminder>Nothing to do.</system-reminder>")
    answer = await ask(house, *first, reminded, tools=[tool("read")])
    await ask(house, *first, user(result("a", "Words.")), echoed(answer), user("Bye."), tools=[tool("read")])
    assert "A cat.\\n(seen in image #1" in words_of(house.brain.asked[3].json)


async def test_what_the_server_carried_out_itself_hides_no_look(house: House) -> None:
    searched = Raw({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "cats"}})
    found = Raw({"type": "web_search_tool_result", "tool_use_id": "s", "content": []})
    house.brain.will(says_message(looks(1, "What?")), says_message(searched, found, "A cat."), says_message("Bye."))
    house.eyes.will(sees("A cat."))
    first = [user("What is it?", image(CAT))]
    answer = await ask(house, *first)
    assert [block["type"] for block in answer.blocks] == ["server_tool_use", "web_search_tool_result", "text"]
    await ask(house, *first, echoed(answer), user("Bye."))
    before, after = (asked.json["messages"] for asked in house.brain.asked[1:])
    assert after[: len(before)] == before


async def test_a_conversation_is_one_with_marks_and_without(house: House) -> None:
    # Clients that have no session make a text a list of one to set a mark on it, and a string again when it moves on.
    marked = {**text("What is it?"), "cache_control": {"type": "ephemeral"}}
    names = set()
    for said in ("What is it?", [marked]):
        house.brain.will(says_message("Hello."))
        got = await house.send(body([{"role": "user", "content": said}], system=said), path=PATH)
        names.add(got.headers["x-chiasm-conversation"])
    assert len(names) == 1


@pytest.mark.parametrize("mixed", [True, False])
async def test_a_call_that_the_client_writes_anew_loses_nothing(house: House, mixed: bool) -> None:
    # Claude Code takes `cd <where it is> && ` out of commands and white space off the ends of lines that it writes;
    # JavaScript says 2 for 2.0.
    look, bash = looks(1, "What is it?"), Calls("bash", '{"command": "cd /here && ls", "timeout": 2.0}', "toolu_theirs")
    house.brain.will(*([says_message(look, bash)] if mixed else [says_message(look), says_message("Now.", bash)]))
    house.brain.will(says_message("A cat."), says_message("Bye."))
    house.eyes.will(sees("A cat."))
    first = [user("What is it?", image(CAT))]
    answer = await ask(house, *first, tools=[tool("bash")])
    answer.blocks[-1]["input"] = {"command": "ls", "timeout": 2}
    first += [echoed(answer), user(result("toolu_theirs", "a.png"))]
    answer = await ask(house, *first, tools=[tool("bash")])
    before, after = (asked.json["messages"] for asked in house.brain.asked[-2:])
    assert after[: len(before)] == before
    assert "A cat.\\n(seen in image #1" in words_of(house.brain.asked[-1].json)
    await ask(house, *first, echoed(answer), user("Bye."), tools=[tool("bash")])
    assert house.brain.asked[-1].json["messages"][: len(after)] == after


async def test_a_thought_before_calls_that_were_never_run_keeps_its_signature() -> None:
    async with live(text={"max_turns": 2}) as house:
        again = says_message(Thought("Again.", "two"), looks(1, "Which colour?"))
        house.brain.will(says_message(Thought("Hm.", "one"), looks(1, "What is it?")), again, says_message("Bye."))
        house.eyes.will(sees("A cat."))
        first = [user(image(CAT))]
        answer = await ask(house, *first)
        await ask(house, *first, echoed(answer), user("Bye."))
        said = house.brain.asked[2].json["messages"][3]["content"]
        assert said[0] == {"type": "thinking", "thinking": "Again.", "signature": "two"}
        assert [block["type"] for block in said] == ["thinking", "text"]


async def test_a_mixed_turn_is_answered_in_one_message(house: House) -> None:
    mixed = (looks(1, "What is it?"), Calls("read", '{"path": "a"}', "theirs"))
    house.brain.will(says_message("Both.", *mixed), says_message("A cat, and a file."))
    house.eyes.will(sees("A cat on a mat."))
    first = [user("Both!", image(CAT))]
    answer = await ask(house, *first, tools=[tool("read")])
    assert answer.stop_reason == "tool_use"
    assert answer.blocks == [
        text("Both."),
        {"type": "tool_use", "id": "theirs", "name": "read", "input": {"path": "a"}},
    ]
    final = await ask(house, *first, echoed(answer), user(result("theirs", "Words."), "Go on."), tools=[tool("read")])
    assert final.blocks == [text("A cat, and a file.")]
    *_, said, results = house.brain.asked[1].json["messages"]
    assert [block["type"] for block in said["content"]] == ["text", "tool_use", "tool_use"]
    ours, theirs, words = results["content"]
    assert "A cat on a mat." in ours["content"]
    assert (theirs, words) == (result("theirs", "Words."), text("Go on."))
    assert [ours["tool_use_id"], "theirs"] == [block["id"] for block in said["content"][1:]]


async def test_a_forgotten_image_leaves_words_and_a_table_at_the_tail() -> None:
    async with live(images={"max_loaded": 1, "keep_loaded": 1}) as house:
        house.brain.will(says_message(looks(1, "What is it?")), says_message("A cat."), says_message("A dog."))
        house.eyes.will(sees("A cat."))
        first = [user("What is it?", image(CAT))]
        answer = await ask(house, *first)
        await ask(house, *first, echoed(answer), user("And this?", image(DOG)))
        asked = house.brain.asked[2].json["messages"]
        assert asked[2]["content"][0]["content"] == forgotten([1], "recallImage")
        assert "| 1 |" in asked[-1]["content"][-1]["text"].replace("#", "")


async def test_another_formats_history_has_no_hidden_turns_here(house: House) -> None:
    headers = {"x-session-id": "s"}
    house.brain.will(says(looks(1, "What is it?")), says("A cat."), says_message("Bye."))
    house.eyes.will(sees("A cat."))
    await house.chat(chat_user("What is it?", shown(CAT)), headers=headers)
    await ask(
        house, user("What is it?", image(CAT)), {"role": "assistant", "content": "A cat."}, user("Bye"), headers=headers
    )
    assert len(house.brain.asked[2].json["messages"]) == 3


# Where our tools cannot work


@pytest.mark.parametrize(
    "fields", [{"tool_choice": {"type": "none"}}, {"output_config": {"format": {"type": "json_schema"}}}]
)
async def test_where_no_loop_can_work_the_image_is_described(house: House, fields: Json) -> None:
    house.eyes.will(sees("A cat on a mat."))
    house.brain.will(says_message("A cat."))
    await ask(house, user("What is it?", image(CAT)), **fields)
    (asked,) = house.brain.asked
    assert "A cat on a mat." in words_of(asked.json)
    assert "tools" not in asked.json


async def test_a_brain_with_eyes_gets_blocks_of_its_form() -> None:
    async with live(text={"images": "native"}) as house:
        house.brain.may_see_pictures = True
        house.brain.will(says_message("A cat."))
        await ask(house, user("What is it?", image(CAT)))
        content = house.brain.asked[0].json["messages"][0]["content"]
        assert content[1:] == [text("[Image #1]"), image(CAT)] or content[-1] == image(CAT), content


async def test_with_images_off_all_passes_as_it_came() -> None:
    async with live(text={"images": "off"}) as house:
        house.brain.may_see_pictures = True
        house.brain.will(says_message("A cat."))
        message = user("What is it?", image(CAT), {"type": "image_url", "image_url": {"url": "https://a.example/x"}})
        await ask(house, message, user(result("a", image(DOG))))
        assert house.brain.asked[0].json["messages"] == [message, user(result("a", image(DOG)))]


# Errors


def error_of(got: Got) -> Json:
    assert got.json.keys() == {"type", "error"}
    assert got.json["type"] == "error"
    assert got.json["error"].keys() == {"type", "message"}
    return dict(got.json["error"])


async def test_our_own_errors_have_anthropics_form(house: House) -> None:
    got = await house.send(b"nonsense", path=PATH)
    assert (got.status, error_of(got)["type"]) == (400, "invalid_request_error")
    got = await house.send(body([user("Hi")], model="other"), path=PATH)
    assert (got.status, error_of(got)["type"]) == (404, "not_found_error")
    got = await house.get(PATH)
    assert (got.status, error_of(got)["type"]) == (405, "invalid_request_error")


async def test_a_wrong_key_is_told_in_anthropics_form() -> None:
    async with live(server={"api_keys": ["right"]}) as house:
        got = await house.send(body([user("Hi")]), path=PATH, headers={"x-api-key": "wrong"})
        assert (got.status, error_of(got)["type"]) == (401, "authentication_error")
        house.brain.will(says_message("Hello."))
        got = await house.send(body([user("Hi")]), path=PATH, headers={"x-api-key": "right"})
        assert got.status == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [400, 429, 413])
async def test_the_servers_refusal_keeps_status_and_words(house: House, status: int, stream: bool) -> None:
    words = "input length and `max_tokens` exceed context limit: 1 + 2 > 2"
    house.brain.will(whole({"type": "error", "error": {"type": "x", "message": words}}, status=status))
    got = await house.send(body([user("Hi")], stream=stream), path=PATH)
    types = {400: "invalid_request_error", 429: "rate_limit_error", 413: "request_too_large"}
    assert (got.status, error_of(got)) == (status, {"type": types[status], "message": words})


@pytest.mark.parametrize("looked", [False, True])
async def test_an_overloaded_server_is_called_so(house: House, looked: bool) -> None:
    """In the status it is a 502 as any other; clients know it by the type, which an event has too."""
    busy = refuses(529, "Overloaded", headers={"retry-after": "60"})
    house.brain.will(*([says_message("Let me look.", looks(1, "What?"))] if looked else []), busy)
    got = await house.send(body([user("What?", image(CAT))], stream=True), path=PATH)
    told = read_stream(got.body).error if looked else error_of(got)
    assert (got.status, told) == (200 if looked else 502, {"type": "overloaded_error", "message": "Overloaded"})


async def test_an_error_in_the_middle_is_an_event(house: House) -> None:
    broken = event("error", error={"type": "overloaded_error", "message": "Busy."})
    house.brain.will(bytes_of(start() + opens(0, "text", text="") + broken))
    answer = await ask(house, user("Hi"))
    assert answer.error == {"type": "overloaded_error", "message": "Busy."}


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize(
    "answer",
    [
        whole({"detail": "Not Found"}, status=404),
        whole(b"404 page not found", status=404),
        refuses(404, "File Not Found"),
        refuses(405, "Method Not Allowed"),
    ],
)
async def test_a_server_without_the_format_gives_one_clear_error(house: House, path: str, answer: Any) -> None:
    house.brain.will(answer)
    got = await house.send(body([user("Hi")]), path=path)
    assert got.status == 404
    error = error_of(got)
    assert error["type"] == "not_found_error"
    for words in ("vLLM", "Ollama", "/v1/chat/completions", "claude-code-router"):
        assert words in error["message"]


async def test_a_server_without_the_model_says_so_itself(house: House) -> None:
    house.brain.will(refuses(404, "The model `x` does not exist."))
    got = await house.send(body([user("Hi")]), path=PATH)
    assert (got.status, error_of(got)["message"]) == (404, "The model `x` does not exist.")


# Counting


COUNTED = {"input_tokens": 42}


async def test_what_is_counted_holds_words_for_images_and_our_tools(house: House) -> None:
    house.brain.will(whole(COUNTED), says_message("Hello."))
    request = body([user("What is it?", image(CAT))], tools=[tool("read")])
    del request["max_tokens"]
    got = await house.send(request, path=COUNT)
    assert (got.status, got.json) == (200, COUNTED)
    await ask(house, *request["messages"], tools=request["tools"])
    counted, asked = house.brain.asked
    assert counted.path == COUNT
    for name in ("messages", "tools"):
        assert counted.json[name] == asked.json[name]
    assert not {"max_tokens", "stream"} & counted.json.keys()


async def test_counting_gives_no_numbers(house: House) -> None:
    headers = {"x-session-id": "s"}
    house.brain.will(whole(COUNTED), says_message("Hello."))
    await house.send(body([user(image(DOG))]), path=COUNT, headers=headers)
    await ask(house, user(image(CAT)), headers=headers)
    assert "[Image #1] (attached" in words_of(house.brain.asked[1].json)


async def test_counting_forgets_nothing_and_shows_nothing() -> None:
    async with live(images={"max_loaded": 1, "keep_loaded": 1}) as house:
        headers = {"x-session-id": "s"}
        house.brain.will(says_message("Hello."), whole(COUNTED), says_message("Hello."))
        answer = await ask(house, user(image(CAT)), headers=headers)
        history = [user(image(CAT)), echoed(answer), user(image(DOG))]
        await house.send(body(history), path=COUNT, headers=headers)
        counted = words_of(house.brain.asked[1].json)
        assert "| forgotten |" in counted
        await ask(house, user(image(CAT)), headers=headers)
        assert "| forgotten |" not in words_of(house.brain.asked[2].json)


async def test_what_was_hidden_is_counted_too(house: House) -> None:
    house.brain.will(says_message(looks(1, "What is it?")), says_message("A cat."), whole(COUNTED))
    house.eyes.will(sees("A cat on a mat."))
    first = [user("What is it?", image(CAT))]
    answer = await ask(house, *first)
    await house.send(body([*first, echoed(answer), user("Thanks.")]), path=COUNT)
    assert "A cat on a mat." in words_of(house.brain.asked[2].json)


async def test_counting_asks_no_eyes() -> None:
    async with live(text={"images": "caption"}) as house:
        house.brain.will(whole(COUNTED))
        got = await house.send(body([user("What?", image(CAT))]), path=COUNT)
        assert got.json == COUNTED
        assert house.eyes.asked == []


async def test_an_answer_that_is_no_count_is_an_error(house: House) -> None:
    house.brain.will(whole({"tokens": 1}))
    got = await house.send(body([user("Hi")]), path=COUNT)
    assert (got.status, error_of(got)["type"]) == (502, "api_error")


async def test_a_client_that_hangs_up_ends_the_brains_work(house: House) -> None:
    house.brain.will(says_message("Hello.", Waits(DEADLINE)))
    async with Line(house.port, post(orjson.dumps(body([user("Hi")], stream=True)), path=PATH)) as line:
        await line.until(b"Hello.")
        await line.hang_up()
        await soon(house.brain.asked[0].gone.wait())


async def test_signed_thoughts_come_back_as_they_were_signed_even_where_the_looks_are_lost(house: House) -> None:
    # In another session (a fork, a store that was emptied) the history goes to the server as the client has it.
    first, second = Thought("I must look.", "one"), Thought("A cat, then.", "two")
    house.brain.will(says_message(first, looks(1, "What is it?")), says_message(second, "A cat."), says_message("Bye."))
    asked = user("What is it?", image(CAT))
    answer = await ask(house, asked, headers={"x-session-id": "one"})
    await ask(house, asked, echoed(answer), user("Bye."), headers={"x-session-id": "another"})
    said = house.brain.asked[2].json["messages"][1]["content"]
    thoughts = [{"type": "thinking", "thinking": one.text, "signature": one.signature} for one in (first, second)]
    assert said == [*thoughts, text("A cat.")]


async def test_a_redacted_thought_passes_and_comes_back(house: House) -> None:
    redacted = {"type": "redacted_thinking", "data": "xyz"}
    house.brain.will(says_message(Raw(redacted), "Hello."), says_message("Bye."))
    answer = await ask(house, user("Hi"))
    assert answer.blocks == [redacted, text("Hello.")]
    await ask(house, user("Hi"), echoed(answer), user("Bye"))
    assert house.brain.asked[1].json["messages"][1]["content"] == answer.blocks
