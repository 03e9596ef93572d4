"""`tools.vision.qwen`: what Qwen's servers are told beyond plain Chat Completions."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx
import orjson
import pytest
from PIL import Image

from router.protocol.profiles import eyes_switch
from tools.call import VisionUsage
from tools.vision.backend import VisionImage, VisionQuery
from tools.vision.open import profile_of
from tools.vision.openai import OpenAIEyes
from tools.vision.qwen import QWEN

pytestmark = pytest.mark.anyio


def png(width: int = 64, height: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


def said(content: str | None = "Seen.", finish: str = "stop") -> httpx.Response:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return httpx.Response(200, json={"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})


class Server:
    """Answers from a script, the last one for ever."""

    def __init__(self, *answers: httpx.Response) -> None:
        self.answers = list(answers) or [said()]
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(orjson.loads(request.content))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@asynccontextmanager
async def eyes(server: Server, **options: Any) -> AsyncIterator[OpenAIEyes]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as client:
        options = {"name": "qwen", "model": "m", "timeout_seconds": 20, "profile": QWEN, **options}
        made = OpenAIEyes(client, "http://127.0.0.1:1/v1", **options)
        yield made
        await made.close()


def query(*pictures: bytes) -> VisionQuery:
    return VisionQuery(tuple(VisionImage(n + 1, data) for n, data in enumerate(pictures or [png()])), "Read it.")


async def sent_size(data: bytes) -> tuple[int, int]:
    server = Server()
    async with eyes(server) as looking:
        await looking.look(query(data))
    url = server.bodies[0]["messages"][1]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size


@pytest.mark.parametrize("thinking", [False, True])
async def test_the_thinking_switch_is_always_sent(thinking: bool) -> None:
    server = Server()
    async with eyes(server, thinking=thinking) as looking:
        await looking.look(query())
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": thinking}


@pytest.mark.parametrize(
    ("engine", "kind", "host", "sent"),
    [
        ("auto", "qwen", "127.0.0.1", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("auto", "qwen", "dashscope.aliyuncs.com", {"enable_thinking": False}),
        ("auto", "openai", "openrouter.ai", {}),
        ("openrouter", "openai", "openrouter.ai", {"reasoning": {"enabled": False}}),
        ("ollama", "qwen", "127.0.0.1", {"reasoning_effort": "none"}),
        ("zai", "openai", "127.0.0.1", {"thinking": {"type": "disabled"}}),
        ("vllm", "openai", "127.0.0.1", {"chat_template_kwargs": {"enable_thinking": False}}),
    ],
)
async def test_the_switch_is_the_one_that_the_server_knows(
    engine: str, kind: Literal["qwen", "openai"], host: str, sent: dict[str, Any]
) -> None:
    server = Server()
    async with eyes(server, profile=profile_of(kind, eyes_switch(engine, f"http://{host}/v1", kind))) as looking:
        await looking.look(query())
    sampling = {"temperature", "top_p", "top_k", "min_p", "presence_penalty"}
    usual = {"model", "messages", "stream", "max_tokens"}
    assert {name: value for name, value in server.bodies[0].items() if name not in sampling | usual} == sent


async def test_a_switch_that_a_model_refuses_is_left_out() -> None:
    refused = httpx.Response(400, json={"error": {"message": "Reasoning is mandatory for this model."}})
    server = Server(refused, said())
    async with eyes(server, profile=profile_of("openai", eyes_switch("openrouter", "", "openai"))) as looking:
        assert (await looking.look(query())).text == "Seen."
    assert "reasoning" not in server.bodies[1]


async def test_reading_is_not_disturbed_by_a_penalty_on_what_repeats() -> None:
    server = Server()
    async with eyes(server) as looking:
        await looking.look(query())
    fields = {key: server.bodies[0][key] for key in ("temperature", "top_p", "top_k", "min_p", "presence_penalty")}
    assert fields == {"temperature": 0.2, "top_p": 0.8, "top_k": 20, "min_p": 0, "presence_penalty": 0}


async def test_all_spent_on_thinking_is_asked_again_without() -> None:
    server = Server(said(None, "length"), said("Seen."))
    async with eyes(server, thinking=True, max_tokens=500) as looking:
        found = await looking.look(query())
    assert (found.text, found.usage) == ("Seen.", VisionUsage(2, 10, 4))
    assert [body["chat_template_kwargs"]["enable_thinking"] for body in server.bodies] == [True, False]
    assert [body["max_tokens"] for body in server.bodies] == [500, 4096]


@pytest.mark.parametrize(
    ("size", "sent"),
    [
        ((1920, 1080), (1920, 1080)),
        ((2560, 1440), (2560, 1440)),
        ((64, 64), (64, 64)),
        ((16, 16), (32, 32)),
        ((1, 1), (32, 32)),
        ((3840, 2160), (2720, 1536)),
        ((8000, 20), (8000, 40)),
    ],
)
async def test_pictures_have_a_size_that_the_preprocessor_takes(size: tuple[int, int], sent: tuple[int, int]) -> None:
    assert await sent_size(png(*size)) == sent


@pytest.mark.parametrize(
    ("status", "body", "left_out"),
    [
        (422, {"detail": "Unexpected fields in the request: {'top_k', 'min_p'}"}, {"top_k", "min_p"}),
        (
            400,
            {"error": {"message": "Unrecognized request argument supplied: chat_template_kwargs"}},
            {"chat_template_kwargs"},
        ),
        (400, {"error": {"message": "Unsupported parameter", "param": "top_k"}}, {"top_k"}),
        (
            422,
            {
                "detail": [
                    {"type": "extra_forbidden", "loc": ["body", "min_p"], "msg": "Extra inputs are not permitted"}
                ]
            },
            {"min_p"},
        ),
        (
            400,
            {"detail": "unknown field in request"},
            {"temperature", "top_p", "top_k", "min_p", "presence_penalty", "chat_template_kwargs"},
        ),
    ],
)
async def test_only_the_refused_fields_are_left_out_and_that_is_remembered(
    status: int, body: dict[str, Any], left_out: set[str]
) -> None:
    server = Server(httpx.Response(status, json=body), said())
    async with eyes(server) as looking:
        await looking.look(query())
        await looking.look(query())
    before, after, later = (set(sent) for sent in server.bodies)
    assert before - after == left_out
    assert later == after


async def test_fields_refused_one_by_one_are_left_out_one_by_one() -> None:
    def refuse(field: str) -> httpx.Response:
        return httpx.Response(400, json={"error": {"message": f"Unrecognized request argument supplied: {field}"}})

    server = Server(refuse("top_k"), refuse("min_p"), refuse("chat_template_kwargs"), said())
    async with eyes(server) as looking:
        assert (await looking.look(query())).text == "Seen."
    assert len(server.bodies) == 4
    assert not {"top_k", "min_p", "chat_template_kwargs"} & set(server.bodies[-1])


async def test_an_error_that_echoes_the_request_does_not_cost_its_fields() -> None:
    echo = {
        "detail": [{"loc": ["body", "messages"], "msg": "Input should be shorter", "input": {"top_k": 20, "min_p": 0}}]
    }
    server = Server(httpx.Response(422, json=echo))
    async with eyes(server) as looking:
        for _ in range(2):
            with pytest.raises(Exception, match="Input should be shorter"):
                await looking.look(query())
    assert all("top_k" in body for body in server.bodies)
    assert len(server.bodies) == 2
