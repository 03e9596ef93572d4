"""What the service learns of its brain by the way: what it refuses, and which engine it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from router.brain import AGAIN_SECONDS, Brain
from router.config import TextSettings
from router.errors import UpstreamBroken, UpstreamRefused
from router.protocol.follow_up import SHORT
from router.protocol.profiles import PROFILES
from router.upstream import Upstream
from tests.brain import Script, Sends, Thinks, looks, refuses, says, whole
from tests.eyes import sees
from tests.live import live, picture, shown, user

pytestmark = pytest.mark.anyio

PRESET = {"sampling": "preset", "thinking": "off"}


def refuses_with(status: int, body: Any) -> Script:
    return whole(body, status=status)


EXTRA = {"type": "extra_forbidden", "loc": ["body", "min_p"], "msg": "Extra inputs are not permitted", "input": 0.0}

REFUSALS = [
    refuses_with(422, {"detail": [EXTRA]}),
    refuses_with(422, {"object": "error", "message": {"detail": [EXTRA]}, "type": "invalid_request_error"}),
    refuses_with(422, {"detail": "Unexpected fields in the request: {'min_p'}"}),
    refuses(400, "Unrecognized request argument supplied: min_p"),
    refuses(400, "Unsupported parameter: 'min_p' is not supported with this model."),
    refuses(400, "property 'min_p' is unsupported"),
    refuses_with(400, [{"error": {"code": 400, "message": 'Unknown name "min_p": Cannot find field.'}}]),
    refuses_with(400, {"error": {"message": "Invalid request.", "type": "invalid_request_error", "param": "min_p"}}),
]


@pytest.mark.live
@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_field_of_ours_that_is_refused_is_left_out_from_then_on(refusal: Script, stream: bool) -> None:
    async with live(text=PRESET) as house:
        house.brain.will(refusal, says("Hello."), says("Hello again."))
        assert (await house.chat(user("Hi."), stream=stream)).text == "Hello."
        assert (await house.chat(user("Hi."), stream=stream)).text == "Hello again."
        first, again, later = (asked.json for asked in house.brain.asked)
        assert first["min_p"] == 0.0
        assert again == {key: value for key, value in first.items() if key != "min_p"}
        assert later == again


@pytest.mark.live
@pytest.mark.parametrize("name", ["stream_options", "chat_template_kwargs"])
async def test_what_joined_a_field_of_the_client_is_taken_out_and_the_clients_part_goes_on(name: str) -> None:
    async with live(text=PRESET) as house:
        house.brain.will(refuses(400, f"Unknown parameter: '{name}'"), says("Hello."))
        of_client: dict[str, Any] = {name: {"of_client": 1}}
        assert (await house.chat(user("Hi."), stream=True, **of_client)).text == "Hello."
        first, again = (asked.json for asked in house.brain.asked)
        assert len(first[name]) == 2
        assert again[name] == {"of_client": 1}


@pytest.mark.live
async def test_without_stream_options_the_answer_comes_and_its_usage_is_not_known() -> None:
    async with live() as house:
        detail = [{**EXTRA, "loc": ["body", "stream_options"]}]
        house.brain.will(refuses_with(422, {"detail": detail}), says("Hello."), says("Hello."))
        for _ in range(2):
            answer = await house.chat(user("Hi."), stream=True)
            assert (answer.text, answer.usage) == ("Hello.", None)
        assert ["stream_options" in asked.json for asked in house.brain.asked] == [True, False, False]


@pytest.mark.live
@pytest.mark.parametrize(
    "field",
    [
        {"top_k": 20},  # the preset's own value
        {"stream_options": {"include_usage": True}},
        {"parallel_tool_calls": False},
        {"frobnicate": 1},
    ],
)
async def test_a_field_of_the_client_is_never_left_out(field: dict[str, Any]) -> None:
    async with live(text=PRESET) as house:
        (name,) = field
        for _ in range(2):
            house.brain.will(refuses(400, f"Unsupported parameter: '{name}'"))
            got = await house.send({"messages": [user("Hi.")], "stream": True, **field})
            assert (got.status, got.error["message"]) == (400, f"Unsupported parameter: '{name}'")
        assert [asked.json[name] for asked in house.brain.asked] == [*field.values()] * 2


@pytest.mark.live
async def test_what_is_refused_one_by_one_is_left_out_one_by_one() -> None:
    async with live(text=PRESET) as house:
        house.brain.will(
            refuses(400, "property 'top_k' is unsupported"), refuses(400, "property 'min_p' is unsupported")
        )
        house.brain.will(says("Hello."), says("Hello."))
        assert (await house.chat(user("Hi."))).text == "Hello."
        assert (await house.chat(user("Hi."))).text == "Hello."
        assert len(house.brain.asked) == 4
        assert not {"top_k", "min_p"} & house.brain.asked[-1].json.keys()
        assert house.brain.asked[-1].json["top_p"] == 0.8


@pytest.mark.live
async def test_words_of_a_refusal_that_somebody_else_wrote_change_nothing_for_others() -> None:
    """Validation errors repeat what they refuse."""
    words = "stream_options chat_template_kwargs reasoning_content in messages is not supported"
    answer = {"role": "assistant", "content": "Hello.", "reasoning_content": "Hm."}
    async with live(server={"api_keys": ["one", "two"]}, text={**PRESET, "engine": "sglang"}) as house:
        house.brain.answers = lambda asked: (
            refuses(400, f"'logit_bias' should be a dictionary, input: {words}")
            if "logit_bias" in asked.json
            else says("Hello.")
        )
        body = {"messages": [user("Hi."), answer, user("Bye.")], "stream": True}
        other = {"authorization": "Bearer two"}
        await house.send(body, headers=other)
        got = await house.send({**body, "logit_bias": words}, headers={"authorization": "Bearer one"})
        assert got.status == 400
        await house.send(body, headers=other)
        assert house.brain.asked[-1].json == house.brain.asked[0].json
        assert house.brain.asked[-1].messages[1]["reasoning_content"] == "Hm."


@pytest.mark.live
async def test_thoughts_in_a_clients_history_that_are_not_taken_are_left_out() -> None:
    async with live(text={"engine": "sglang"}) as house:
        house.brain.will(refuses(400, NO_THOUGHTS), says("Bye."), says("Bye."))
        answer = {"role": "assistant", "content": "Hello.", "reasoning_content": "Hm."}
        for _ in range(2):
            assert (await house.chat(user("Hi."), answer, user("Bye."))).text == "Bye."
        assert ["reasoning_content" in asked.messages[1] for asked in house.brain.asked] == [True, False, False]


@pytest.mark.live
@pytest.mark.parametrize(
    "refusal",
    [
        refuses(400, "Unknown parameter: 'frobnicate'"),
        refuses(429, "Unsupported parameter: 'min_p'"),
        refuses(401, "invalid key for min_p"),
        refuses(400, "invalid min_p: maximum context length exceeded"),
    ],
)
async def test_other_refusals_are_the_clients_and_nothing_is_asked_again(refusal: Script) -> None:
    async with live(text=PRESET) as house:
        house.brain.will(refusal)
        assert (await house.send({"messages": [user("Hi.")]})).status in (400, 401, 429)
        house.brain.will(says("Hello."))
        await house.chat(user("Hi."))
        assert house.brain.asked[-1].json["min_p"] == 0.0


@pytest.mark.live
async def test_a_refusal_in_a_follow_up_is_learnt_from_as_well() -> None:
    async with live(text={"thinking": "off"}) as house:
        house.eyes.answers = lambda _: sees("a cat")
        house.brain.will(looks_after("Hm."), refuses(400, "Unknown parameter: 'chat_template_kwargs'"), says("A cat."))
        assert (await house.chat(user("What?", shown(picture())), stream=True)).text == "A cat."
        assert ["chat_template_kwargs" in asked.json for asked in house.brain.asked] == [True, True, False]


def looks_after(thought: str) -> Script:
    return says(Thinks(thought), looks(1, "What?"))


NO_THOUGHTS = (
    "'messages.1' : for 'role:assistant' the following must be satisfied"
    "[('messages.1' : property 'reasoning_content' is unsupported)]"
)


@pytest.mark.live
async def test_thoughts_that_are_not_taken_back_are_left_out_from_then_on() -> None:
    async with live(text={"engine": "sglang"}) as house:
        house.eyes.answers = lambda _: sees("a cat")
        house.brain.will(looks_after("Hm."), refuses(400, NO_THOUGHTS), says("A cat."))
        house.brain.will(looks_after("Hm."), says("A cat."))
        for number in range(2):
            answer = await house.chat(user("What?", shown(picture(number))), stream=True)
            assert (answer.reasoning, answer.text) == ("Hm.", "A cat.")
        said = [asked.messages[1] for asked in house.brain.asked if len(asked.messages) > 1]
        assert ["reasoning_content" in message for message in said] == [True, False, False]
        assert all(message["tool_calls"] for message in said)


@pytest.mark.live
async def test_a_look_that_does_not_fit_into_the_prompt_is_cut_short() -> None:
    async with live() as house:
        words = "".join(f"{number} " for number in range(1000))
        house.eyes.answers = lambda _: sees(words)
        overflow = {"code": 400, "type": "exceed_context_size_error", "n_ctx": 4096}
        message = "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it"
        house.brain.will(
            looks_after("Hm."), refuses_with(400, {"error": {**overflow, "message": message}}), says("A cat.")
        )
        assert (await house.chat(user("What?", shown(picture())), stream=True)).text == "A cat."
        full, short = (asked.messages[-1]["content"] for asked in house.brain.asked[1:])
        assert len(full) > 2 * SHORT
        assert short.startswith(full[:SHORT] + "\n[… cut here")
        assert len(short) < SHORT + 100


OF_OLLAMA = Sends(b'data: {"id":"x","system_fingerprint":"fp_ollama","choices":[]}\n\n')


@pytest.mark.live
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_an_engine_is_known_by_its_first_answer_from_the_next_request_on(stream: bool) -> None:
    async with live(text={"thinking": "off"}) as house:
        ollama = {"id": "x", "object": "chat.completion", "created": 1, "system_fingerprint": "fp_ollama"}
        if stream:
            first = says(OF_OLLAMA, "Hello.")
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
            first = whole({**ollama, "choices": [choice]})
        house.brain.will(first, says("Hello."))
        for _ in range(2):
            assert (await house.chat(user("Hi."), stream=stream)).text == "Hello."
        before, after = (asked.json for asked in house.brain.asked)
        assert "reasoning_effort" not in before
        assert (before["chat_template_kwargs"], after["reasoning_effort"]) == ({"enable_thinking": False}, "none")
        assert "chat_template_kwargs" not in after


@pytest.mark.live
async def test_what_was_configured_is_not_unlearnt_from_an_answer() -> None:
    async with live(text={"thinking": "off", "engine": "vllm"}) as house:
        house.brain.will(
            says(Sends(b'data: {"system_fingerprint":"fp_ollama","choices":[]}\n\n'), "Hello."), says("Hi.")
        )
        for _ in range(2):
            await house.chat(user("Hi."), stream=True)
        assert "chat_template_kwargs" in house.brain.asked[1].json


@pytest.mark.live
@pytest.mark.parametrize("status", [404, 405, 500, 501])
async def test_a_server_without_a_list_of_models_answers_all_the_same(status: int) -> None:
    async with live(text={"model": "m"}) as house:
        house.brain.models = refuses(status, "no list")
        house.brain.will(says("Hello."))
        assert (await house.chat(user("Hi."))).text == "Hello."
        assert house.brain.asked[0].json["model"] == "m"


# The list of models


class Shelf:
    """A server's answers to `GET /v1/models`, one for each time it is asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/models"
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def listing(*ids: str, owner: str = "") -> httpx.Response:
    return httpx.Response(200, json={"object": "list", "data": [{"id": id_, "owned_by": owner} for id_ in ids]})


@asynccontextmanager
async def upstream(shelf: Shelf, model: str | None = "m") -> AsyncIterator[Upstream]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(shelf)) as client:
        yield Upstream(client, base_url="http://127.0.0.1:1/v1", model=model, api_key="")


def brain_of(upstream: Upstream, clock: Callable[[], float] = lambda: 0.0, engine: Any = "auto") -> Brain:
    settings = TextSettings(name="m", base_url="http://127.0.0.1:1/v1", model="m", engine=engine)
    return Brain(settings=settings, upstream=upstream, eyes=None, clock=clock)


@pytest.mark.parametrize("status", [405, 500, 501])
async def test_a_broken_list_is_an_empty_one_to_whoever_knows_the_model_and_is_not_kept(status: int) -> None:
    shelf = Shelf(httpx.Response(status, headers={"server": "s"}), listing("a", "b", owner="vllm"))
    async with upstream(shelf) as server:
        broken = await server.listing()
        assert (broken.ids, broken.owner, broken.server) == ([], "", "s")
        assert server.listed is None
        whole = await server.listing()
        assert (whole.ids, whole.owner) == (["a", "b"], "vllm")
        assert (await server.listing(), shelf.asked) == (whole, 2)


@pytest.mark.parametrize("status", [405, 500, 501])
async def test_a_broken_list_is_an_error_to_whoever_does_not_know_the_model(status: int) -> None:
    async with upstream(Shelf(httpx.Response(status)), model=None) as server:
        with pytest.raises(UpstreamBroken if status >= 500 else UpstreamRefused):
            await server.model()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(404), UpstreamRefused),
        (httpx.Response(401), UpstreamRefused),
        (httpx.Response(503), UpstreamBroken),
        (httpx.Response(200, content=b"<html>"), UpstreamBroken),
        (httpx.Response(200, json={"data": [{}]}), UpstreamBroken),
        (httpx.ConnectError("refused"), UpstreamBroken),
    ],
)
async def test_other_answers_than_a_list_are_errors(answer: Any, error: type[Exception]) -> None:
    async with upstream(Shelf(answer)) as server:
        with pytest.raises(error):
            await server.listing()


async def test_a_list_that_breaks_later_does_not_take_away_the_one_there_was() -> None:
    async with upstream(Shelf(listing("a"), httpx.Response(500))) as server:
        kept = await server.listing()
        assert (await server.listing(fresh=True)).ids == []
        assert server.listed is kept


async def test_an_empty_list_is_asked_for_again_by_whoever_needs_a_model() -> None:
    async with upstream(Shelf(listing(), listing("late")), model=None) as server:
        with pytest.raises(UpstreamBroken):
            await server.model()
        assert await server.model() == "late"


@pytest.mark.parametrize(
    "answer", [httpx.Response(404), httpx.Response(405), httpx.Response(500), httpx.Response(501), listing()]
)
async def test_a_server_without_a_list_is_asked_for_it_again_after_a_while_and_not_before(answer: Any) -> None:
    now = 0.0
    shelf = Shelf(answer, listing("m", owner="library"))
    async with upstream(shelf) as server:
        brain = brain_of(server, lambda: now)
        assert await brain.profile() == PROFILES["auto"]
        now = AGAIN_SECONDS - 1
        assert await brain.profile() == PROFILES["auto"]
        assert shelf.asked == 1
        now = AGAIN_SECONDS
        assert await brain.profile() == PROFILES["ollama"]
        now = 10 * AGAIN_SECONDS
        assert await brain.profile() == PROFILES["ollama"]
        assert shelf.asked == 2


async def test_a_server_that_is_not_there_yet_is_asked_by_the_next_request() -> None:
    shelf = Shelf(httpx.ConnectError("refused"), listing("m", owner="library"))
    async with upstream(shelf) as server:
        brain = brain_of(server)
        assert await brain.profile() == PROFILES["auto"]
        assert await brain.profile() == PROFILES["ollama"]


async def test_a_list_that_tells_nothing_is_not_asked_for_again_and_the_answers_are_waited_for() -> None:
    shelf = Shelf(listing("m", owner="somebody"))
    async with upstream(shelf) as server:
        now = 0.0
        brain = brain_of(server, lambda: now)
        assert await brain.profile() == PROFILES["auto"]
        server.heard({}, {"id": "x"})
        now = 10 * AGAIN_SECONDS
        assert await brain.profile() == PROFILES["auto"]
        server.heard({}, {"system_fingerprint": "fp_ollama"})
        assert await brain.profile() == PROFILES["ollama"]
        server.heard({"server": "llama.cpp"}, {"id": "x"})
        assert await brain.profile() == PROFILES["ollama"]


async def test_a_configured_engine_asks_nobody() -> None:
    async with upstream(Shelf()) as server:
        server.engine = "ollama"
        assert await brain_of(server, engine="deepseek").profile() == PROFILES["deepseek"]


async def test_what_a_server_refused_in_messages_is_left_out_of_its_profile() -> None:
    async with upstream(Shelf()) as server:
        brain = brain_of(server, engine="vllm")
        server.refused_thoughts = frozenset({"reasoning_content"})
        assert (await brain.profile()).history_reasoning == ("reasoning",)
