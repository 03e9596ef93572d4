"""`POST /v1/responses` over sockets: a scripted brain that speaks it, scripted eyes, openai-python as the referee."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from cache.disk import DiskStore
from router.admin.ids import conversation_id
from router.intake.conversation import key_of
from tests.brain import Asked, Script, bytes_of, closes, refuses
from tests.eyes import sees
from tests.live import DEADLINE, House, Line, becomes, data_url, live, picture, post
from tests.responses_brain import LOOK, Keeping, Turn, answers
from tests.responses_reading import Read, read_events

pytestmark = [pytest.mark.anyio, pytest.mark.live]

PATH = "/v1/responses"
BASH = {"type": "function", "name": "bash", "parameters": {"type": "object", "properties": {}}, "strict": False}


def words(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


def shown(seed: int = 1) -> dict[str, Any]:
    return {"type": "input_image", "image_url": data_url(picture(seed)), "detail": "auto"}


def user(*parts: str | dict[str, Any]) -> dict[str, Any]:
    content = [words(part) if isinstance(part, str) else part for part in parts]
    return {"type": "message", "role": "user", "content": content}


def result(call_id: str, output: Any = "12 degrees") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


async def ask(house: House, *items: Any, stream: bool = True, **fields: Any) -> Read:
    body = {"model": "brain", "input": list(items), "stream": stream, **fields}
    got = await house.send(body, path=PATH)
    assert got.status == 200, got.body
    return read_events(got.body) if stream else Read(response=orjson.loads(got.body))


def texts(asked: Any) -> str:
    """All words of the history that the brain got."""
    return orjson.dumps(asked.json["input"]).decode()


@pytest.mark.parametrize("stream", [True, False])
async def test_image_is_looked_at_and_nobody_sees_how(stream: bool) -> None:
    async with live() as house:
        house.brain.will(
            answers(Turn().thinks("I look.").calls("analyzeImage"), read=100, said=20),
            answers(Turn(2).thinks("Ah.").says("It is a cat."), read=150, said=7),
        )
        house.eyes.will(sees("A cat, asleep."))
        read = await ask(house, user("What is it?", shown()), stream=stream, instructions="Be brief.")
        assert read.text == "It is a cat."
        assert read.thoughts == "I look.|Ah."
        assert [item["type"] for item in read.output] == ["reasoning", "reasoning", "message"]
        assert read.response["model"] == "brain"
        assert read.response["tools"] == []
        usage = read.response["usage"]
        assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (150, 27, 177)
        assert usage["chiasm"]["vision_calls"] == 1
        first, second = house.brain.asked
        assert first.path == PATH
        assert first.json["instructions"] == "Be brief."
        assert first.json["tools"][-1]["name"] == "recallImage"
        assert "[Image #1] (attached PNG" in texts(first)
        assert second.json["input"][: len(first.json["input"])] == first.json["input"]
        assert "A cat, asleep." in second.json["input"][-1]["output"]


async def test_image_in_a_result_of_a_tool_is_found_in_every_form() -> None:
    async with live() as house:
        house.brain.will(answers(Turn().calls("analyzeImage")), answers(Turn(2).says("A cat.")))
        call = {"type": "function_call", "call_id": "c1", "name": "view_image", "arguments": '{"path":"a.png"}'}
        block = orjson.dumps([{"type": "image", "data": data_url(picture(2))[22:], "mimeType": "image/png"}]).decode()
        read = await ask(
            house,
            user("Look at both."),
            call,
            result("c1", [words("attached"), shown(1)]),
            {**call, "call_id": "c2"},
            result("c2", block),
            tools=[{**BASH, "name": "view_image"}],
        )
        assert read.text == "A cat."
        asked = house.brain.asked[0].json["input"]
        assert asked[2]["output"][0] == words("attached")
        assert asked[2]["output"][1]["type"] == "input_text"
        assert asked[2]["output"][1]["text"].startswith("[Image #1] (attached PNG")
        assert asked[4]["output"].startswith("[Image #2] (attached PNG")


async def test_turn_k_plus_1_begins_with_what_the_brain_saw_and_said_in_turn_k() -> None:
    async with live() as house:
        house.brain.will(
            answers(Turn().thinks("I look.").says("Let me look.").calls("analyzeImage")),
            answers(Turn(2).thinks("Ah.").says("It is a cat.")),
            answers(Turn(3).says("Black.")),
            answers(Turn(4).says("Yes.")),
        )
        history: list[Any] = [user("What is it?", shown())]
        for question in ("Which colour?", "Sure?", None):
            read = await ask(house, *history, instructions="Be brief.")
            history += [*read.output, *([user(question)] if question else [])]
        asked = [one.json for one in house.brain.asked]
        for before, after in pairwise(asked):
            assert after["input"][: len(before["input"])] == before["input"]
            assert after["tools"] == before["tools"]
        said = orjson.loads(Turn(2).thinks("Ah.").says("It is a cat.").in_one_piece())["output"]
        assert asked[2]["input"][len(asked[1]["input"]) :][:2] == said


async def test_mixed_turn_is_answered_by_both_and_pieced_together() -> None:
    async with live() as house:
        house.brain.will(
            answers(Turn().calls("bash", "{}", "call_b").calls("analyzeImage", LOOK, "call_l")),
            answers(Turn(2).says("A cat at 12 degrees.")),
        )
        house.eyes.will(sees("A cat."))
        question = user("What is it, and how warm?", shown())
        first = await ask(house, question, tools=[BASH])
        assert first.calls == [("call_b", "bash", "{}")]
        assert first.response["status"] == "completed"
        second = await ask(house, question, *first.output, result("call_b"), tools=[BASH])
        assert second.text == "A cat at 12 degrees."
        after = house.brain.asked[1].json["input"]
        assert [(item["type"], item.get("call_id")) for item in after[1:]] == [
            ("function_call", "call_b"),
            ("function_call", "call_l"),
            ("function_call_output", "call_b"),
            ("function_call_output", "call_l"),
        ]
        assert "A cat." in after[-1]["output"]


async def test_two_looks_at_once_are_one_follow_up() -> None:
    async with live() as house:
        other = '{"image":"2","task":"What is it?"}'
        house.brain.will(
            answers(Turn().calls("analyzeImage").calls("analyzeImage", other)), answers(Turn(2).says("Two cats."))
        )
        assert (await ask(house, user("Same?", shown(1), shown(2)))).text == "Two cats."
        assert [item["type"] for item in house.brain.asked[1].json["input"][-2:]] == ["function_call_output"] * 2


async def test_hidden_tools_of_the_server_pass_renumbered() -> None:
    async with live() as house:
        house.brain.will(answers(Turn().calls("analyzeImage")), answers(Turn(2).searches().says("A cat.")))
        read = await ask(house, user("What?", shown()), tools=[{"type": "web_search"}])
        assert [item["type"] for item in read.output] == ["web_search_call", "message"]
        assert [event["output_index"] for event in read.events if "web_search" in event["type"]] == [0, 0, 0]


async def test_json_schema_gets_a_description_instead_of_tools() -> None:
    async with live() as house:
        house.brain.will(answers(Turn().says('{"a":1}')))
        house.eyes.will(sees("A red cube."))
        schema = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
        await ask(house, user("What?", shown()), text=schema)
        asked = house.brain.asked[0]
        assert "tools" not in asked.json
        assert "A red cube." in texts(asked)


async def test_whole_answer_is_put_together_from_a_stream_where_the_server_sends_one() -> None:
    async with live() as house:
        house.brain.will(bytes_of(Turn().calls("analyzeImage").is_whole()), bytes_of(Turn(2).says("A cat.").is_whole()))
        assert (await ask(house, user("What?", shown()), stream=False)).text == "A cat."


# Errors


async def test_error_before_the_first_event_is_a_status() -> None:
    async with live() as house:
        house.brain.will(refuses(429, "Slow down.", code="rate_limit_exceeded"))
        got = await house.send({"input": "Hi", "stream": True}, path=PATH)
        assert got.status == 429
        assert got.json["error"]["message"] == "Slow down."


async def test_error_after_the_first_event_is_a_failed_response() -> None:
    async with live() as house:
        house.brain.will(bytes_of(Turn().says("A c").fails("server_error", "Out of memory.")))
        read = await ask(house, user("Hi"))
        assert read.response["status"] == "failed"
        assert read.response["error"] == {"code": "server_error", "message": "Out of memory."}


async def test_brain_that_is_gone_at_the_follow_up_fails_the_response() -> None:
    async with live() as house:
        house.brain.will(answers(Turn().says("Let me look.").calls("analyzeImage")), closes, closes)
        read = await ask(house, user("What?", shown()))
        assert read.response["status"] == "failed"


async def test_server_that_takes_no_thoughts_back_is_asked_again_without() -> None:
    async with live() as house:
        house.brain.will(
            answers(Turn().thinks("I look.").calls("analyzeImage")),
            refuses(400, "input[1]: items of type reasoning are not supported"),
            answers(Turn(2).says("A cat.")),
        )
        assert (await ask(house, user("What?", shown()))).text == "A cat."
        kinds = [[item["type"] for item in one.json["input"]] for one in house.brain.asked]
        assert kinds[1:] == [
            ["message", "reasoning", "function_call", "function_call_output"],
            ["message", "function_call", "function_call_output"],
        ]


@pytest.mark.parametrize(
    ("status", "words_"), [(404, "Not Found"), (405, "Method Not Allowed"), (404, "404 page not found")]
)
async def test_server_without_the_address_is_told_from_one_without_the_model(status: int, words_: str) -> None:
    async with live() as house:
        house.brain.will(refuses(status, words_))
        got = await house.send({"input": "Hi"}, path=PATH)
        assert got.status == 404
        assert got.json["error"]["code"] == "upstream_lacks_path"
        assert "/v1/chat/completions" in got.json["error"]["message"]
        house.brain.will(refuses(404, "The model `x` does not exist."))
        got = await house.send({"input": "Hi"}, path=PATH)
        assert got.json["error"]["message"] == "The model `x` does not exist."


async def test_bad_body_is_refused_in_the_shape_of_the_format() -> None:
    async with live() as house:
        got = await house.send({"model": "brain"}, path=PATH)
        assert got.status == 400
        assert got.error["param"] == "input"


# The server keeps responses


@pytest.mark.parametrize("stream", [True, False])
async def test_client_goes_on_from_the_one_id_that_it_knows(stream: bool) -> None:
    async with live() as house:
        keeping = Keeping()
        house.brain.will(
            keeping.answers(Turn().calls("analyzeImage")),
            keeping.answers(Turn(2).says("A cat.")),
            keeping.answers(Turn(3).calls("analyzeImage", '{"image":"1","task":"Which colour?"}')),
            keeping.answers(Turn(4).says("Black.")),
            keeping.answers(Turn(5).says("Bye.")),
        )
        first = await ask(house, user("What?", shown()), stream=stream)
        second = await ask(house, user("Which colour?"), stream=stream, previous_response_id=first.response["id"])
        assert second.text == "Black."
        assert second.response["previous_response_id"] == first.response["id"]
        third = await ask(house, user("Bye."), stream=stream, previous_response_id=second.response["id"])
        assert third.text == "Bye."
        asked = [one.json.get("previous_response_id") for one in house.brain.asked]
        assert asked == [None, None, "resp_up2", "resp_up2", "resp_up4"]
        assert len(house.eyes.asked) == 2


async def test_a_deleted_conversation_leaves_no_id_of_its_answers(tmp_path: Path) -> None:
    async with live(store={"kind": "disk", "path": str(tmp_path)}) as house:
        keeping = Keeping()
        for number, name in ((1, "first"), (2, "second")):
            house.brain.will(keeping.answers(Turn(number).says("A cat.")))
            body = {"model": "brain", "input": [user("What?", shown(number))]}
            headers = {"x-chiasm-conversation": name}
            assert (await house.send(body, path=PATH, headers=headers)).status == 200
        store = DiskStore(tmp_path, max_bytes=2**30)
        assert len([key async for key in store.keys("response/")]) == 2
        deleted = conversation_id("local", key_of("first"))
        assert (await house.client.delete(f"/admin/api/conversations/{deleted}")).status_code == 200
        left = [await store.get(key) async for key in store.keys("response/")]
        await store.close()
        assert len(left) == 1
        assert b"second" in (left[0] or b"")


async def test_images_that_come_later_are_counted_on() -> None:
    async with live() as house:
        keeping = Keeping()
        house.brain.will(keeping.answers(Turn().says("A cat.")), keeping.answers(Turn(2).says("A dog.")))
        first = await ask(house, user("What?", shown(1)))
        await ask(house, user("And this?", shown(2)), previous_response_id=first.response["id"])
        assert "[Image #2] (attached PNG" in texts(house.brain.asked[1])


async def test_mixed_turn_that_the_server_keeps_has_all_its_calls_answered() -> None:
    async with live() as house:
        keeping = Keeping()
        house.brain.will(
            keeping.answers(Turn().calls("analyzeImage", LOOK, "call_l").calls("bash", "{}", "call_b")),
            keeping.answers(Turn(2).says("A cat at 12 degrees.")),
            keeping.answers(Turn(3).says("Bye.")),
        )
        house.eyes.will(sees("A cat."))
        first = await ask(house, user("What, and how warm?", shown()), tools=[BASH])
        second = await ask(house, result("call_b"), tools=[BASH], previous_response_id=first.response["id"])
        assert second.text == "A cat at 12 degrees."
        sent = house.brain.asked[1].json["input"]
        assert [item["call_id"] for item in sent] == ["call_l", "call_b"]
        assert "A cat." in sent[0]["output"]
        await ask(house, user("Bye."), tools=[BASH], previous_response_id=second.response["id"])
        assert [item["type"] for item in house.brain.asked[2].json["input"]] == ["message"]


async def test_id_that_nobody_knows_is_the_servers_to_refuse() -> None:
    async with live() as house:
        house.brain.will(Keeping().answers(Turn().says("?")))
        got = await house.send({"input": "Hi", "previous_response_id": "resp_x"}, path=PATH)
        assert got.status == 400
        assert got.error["code"] == "previous_response_not_found"


async def test_id_of_one_client_is_unknown_to_another() -> None:
    keys = ["a" * 24, "b" * 24]
    async with live(server={"api_keys": keys}) as house:
        house.brain.will(
            answers(Turn().calls("analyzeImage")), answers(Turn(2).says("A cat.")), answers(Turn(3).says("Black."))
        )
        first = await house.send(
            {"input": [user("What?", shown())]}, path=PATH, headers={"authorization": f"Bearer {keys[0]}"}
        )
        following = {"input": "And?", "previous_response_id": first.json["id"]}
        for id_ in (first.json["id"], "resp_up2"):
            stranger = await house.send(
                {**following, "previous_response_id": id_}, path=PATH, headers={"authorization": f"Bearer {keys[1]}"}
            )
            assert stranger.status == 400
            assert stranger.error["code"] == "previous_response_not_found"
            assert stranger.error["param"] == "previous_response_id"
        assert len(house.brain.asked) == 2
        own = await house.send(following, path=PATH, headers={"authorization": f"Bearer {keys[0]}"})
        assert own.status == 200
        assert own.headers["x-chiasm-conversation"] == first.headers["x-chiasm-conversation"]


async def test_no_client_names_its_answer_as_another_clients_is_named() -> None:
    """vLLM and SGLang take the id of a response from the body; it would then count as given to whoever wrote it."""
    keys = ["a" * 24, "b" * 24]
    owner, stranger = ({"authorization": f"Bearer {key}"} for key in keys)
    async with live(server={"api_keys": keys}) as house:

        def answer(asked: Asked) -> Script:
            named = asked.json.get("request_id", f"resp_up{len(house.brain.asked)}")
            return answers(Turn(int(named.removeprefix("resp_up"))).says("So."))

        house.brain.answers = answer
        first = await house.send({"input": "My secret."}, path=PATH, headers=owner)
        named = {"input": "Hi", "request_id": first.json["id"], "rid": first.json["id"], "store": 0}
        assert (await house.send(named, path=PATH, headers=stranger)).json["id"] != first.json["id"]
        following = {"input": "And?", "previous_response_id": first.json["id"]}
        got = await house.send(following, path=PATH, headers=stranger)
        assert got.status == 400
        assert got.error["code"] == "previous_response_not_found"
        assert not house.brain.asked[1].json.keys() & {"request_id", "rid"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [user("Hi"), {"type": "item_reference", "id": "msg_of_another"}]}, "input[1]"),
        ({"input": [user("Hi"), {"type": "reasoning", "id": "rs_of_another", "summary": []}]}, "input[1]"),
        ({"input": [{"type": "image_generation_call", "id": "ig_of_another"}, user("Hi")]}, "input[0]"),
        ({"input": "Hi", "conversation": "conv_of_another"}, "conversation"),
        ({"input": "Hi", "conversation": {"id": "conv_of_another"}}, "conversation"),
    ],
)
async def test_what_the_server_keeps_for_all_clients_is_named_by_none_of_several(
    fields: dict[str, Any], param: str
) -> None:
    keys = ["a" * 24, "b" * 24]
    async with live(server={"api_keys": keys}) as house:
        got = await house.send(fields, path=PATH, headers={"authorization": f"Bearer {keys[0]}"})
        assert (got.status, got.error["param"]) == (400, param)
        assert house.brain.asked == []
    async with live() as house:
        house.brain.will(answers(Turn().says("So.")))
        assert (await house.send(fields, path=PATH)).status == 200


@pytest.mark.parametrize(
    "item",
    [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "reasoning", "summary": []},
    ],
)
async def test_an_item_that_is_sent_whole_is_taken_from_each_of_several(item: dict[str, Any]) -> None:
    keys = ["a" * 24, "b" * 24]
    async with live(server={"api_keys": keys}) as house:
        house.brain.will(answers(Turn().says("So.")))
        body = {"input": [user("Hi"), item, user("And?")]}
        assert (await house.send(body, path=PATH, headers={"authorization": f"Bearer {keys[0]}"})).status == 200


async def test_what_the_client_does_not_want_kept_is_not_noted() -> None:
    async with live() as house:
        house.brain.will(answers(Turn().calls("analyzeImage")), answers(Turn(2).says("A cat.")))
        house.brain.will(answers(Turn(3).says("?")))
        first = await ask(house, user("What?", shown()), store=False)
        await ask(house, user("And?"), previous_response_id=first.response["id"])
        assert house.brain.asked[2].json["previous_response_id"] == first.response["id"]


async def test_brain_with_eyes_gets_the_pixels_and_may_have_forgotten_ones_again() -> None:
    async with live(text={"images": "native"}, images={"max_loaded": 1, "keep_loaded": 1}) as house:
        house.brain.may_see_pictures = True
        house.brain.will(
            answers(Turn().says("A cat and a dog.")),
            answers(Turn(2).calls("recallImage", '{"image":"1"}')),
            answers(Turn(3).says("A cat.")),
        )
        both = user("What is that?", shown(1), shown(2))
        first = await ask(house, both)
        second = await ask(house, both, *first.output, user("And the first?"))
        assert second.text == "A cat."
        assert "recallImage" not in orjson.dumps(second.events).decode()
        pixels = [
            [
                part
                for item in one.json["input"]
                if item.get("type") == "message" or "content" in item
                for part in item["content"]
                if part["type"] == "input_image"
            ]
            for one in house.brain.asked
        ]
        assert [len(parts) for parts in pixels] == [2, 1, 2]  # what is new is shown, however much it is
        assert pixels[1][0]["image_url"] == data_url(picture(2))
        assert pixels[2][-1] == {"type": "input_image", "image_url": data_url(picture(1)), "detail": "auto"}
        for one in house.brain.asked:
            assert '"image_url":{' not in one.body.decode()


# The client's side


async def test_heartbeat_stands_between_events_while_the_eyes_look() -> None:
    async with live(server={"heartbeat_seconds": 0.05}) as house:
        house.brain.will(answers(Turn().says("Let me look.").calls("analyzeImage")), answers(Turn(2).says("A cat.")))
        seen = asyncio.Event()
        house.eyes.will(sees("A cat.", after=seen))
        body = orjson.dumps({"input": [user("What?", shown())], "stream": True})
        async with Line(house.port, post(body, path=PATH)) as line:
            while line.raw.count(b": keep-alive\n\n") < 2:
                assert await line.more(), line.raw
            seen.set()
            got = await line.rest()
        assert read_events(got.body).text == "Let me look.\n\nA cat."


async def test_hang_up_reaches_the_brain() -> None:
    async with live() as house:
        turn = Turn().says("A c").breaks_off()

        async def script(asked: Any, wire: Any) -> None:
            await wire.head(200, {"content-type": "text/event-stream"})
            await wire.send(turn)
            await wire.until_hung_up()

        house.brain.will(script)
        body = {"input": "Hi", "stream": True}
        async with house.client.stream("POST", PATH, json=body) as response:
            async for _ in response.aiter_bytes():
                break
        await becomes(lambda: house.brain.asked[0].gone.is_set())


@asynccontextmanager
async def sdk(house: House) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{house.port}/v1",
        api_key="any",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False, timeout=DEADLINE),
    ) as client:
        yield client


async def test_sdk_streams_thoughts_words_and_calls() -> None:
    async with live() as house, sdk(house) as client:
        house.brain.will(
            answers(Turn().sums_up("I look.", encrypted_content="sig").calls("analyzeImage")),
            answers(Turn(2).says("A cat.").calls("bash", '{"command":"ls"}', "call_b")),
        )
        async with client.responses.stream(
            model="brain",
            input=[user("What?", shown())],  # type: ignore[list-item]
            tools=[BASH],  # type: ignore[list-item]
        ) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
        assert final.output_text == "A cat."
        thought, _, call = final.output
        assert thought.type == "reasoning"
        assert thought.encrypted_content == "sig"
        assert call.type == "function_call"
        assert (call.call_id, call.name, call.arguments) == ("call_b", "bash", '{"command":"ls"}')
        assert final.usage is not None
        assert final.usage.output_tokens == 10


async def test_sdk_gets_a_whole_answer_and_goes_on_from_it() -> None:
    async with live() as house, sdk(house) as client:
        keeping = Keeping()
        house.brain.will(
            keeping.answers(Turn().calls("analyzeImage")),
            keeping.answers(Turn(2).says("A cat.")),
            keeping.answers(Turn(3).says("Black.")),
        )
        first = await client.responses.create(model="brain", input=[user("What?", shown())])  # type: ignore[list-item]
        assert first.output_text == "A cat."
        second = await client.responses.create(model="brain", input="Colour?", previous_response_id=first.id)
        assert second.output_text == "Black."


async def test_sdk_learns_of_a_failure() -> None:
    async with live() as house, sdk(house) as client:
        house.brain.will(bytes_of(Turn().says("A c").fails("rate_limit_exceeded", "Slow down.")))
        stream = await client.responses.create(model="brain", input="Hi", stream=True)
        last = [event async for event in stream][-1]
        assert last.type == "response.failed"
        assert last.response.error is not None
        assert last.response.error.message == "Slow down."
