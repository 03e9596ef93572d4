"""claude-code-router, asked as Claude Code asks it: what it sends to the service, and what it makes of the answer.

It is configured as `chiasm print-config` says: passing Messages on as they are, or translating to Chat Completions and
back.  Only the program in the middle is real; the requests are in Claude Code's shape, and its place as the reader is
taken by `anthropic_reader`, which refuses what Claude Code would stumble over.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import httpx
import orjson
import pytest

from tests.brain import Calls, Fails, Thinks, looks, refuses, says
from tests.clients.anthropic_reader import Reply, read_messages_stream
from tests.clients.environment import environment
from tests.clients.roster import BY_NAME, NODE_BINARY
from tests.clients.stage import CLIENT_SECONDS, KEY, Stage, end
from tests.engines.servers import free_port
from tests.eyes import sees
from tests.live import picture

pytestmark = [pytest.mark.anyio, pytest.mark.live]

OnStage = Callable[..., AbstractAsyncContextManager[Stage]]
Json = dict[str, Any]

NAMES: Final = ("claude-code-router-1", "claude-code-router-2")

SYSTEM: Final = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.240; cc_entrypoint=cli; cch=1a2b3;"},
    {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
]
READ: Final = {
    "name": "Read",
    "description": "Reads a file.",
    "input_schema": {"type": "object", "properties": {"file_path": {"type": "string"}}, "required": ["file_path"]},
}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.client(name)) for name in NAMES])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Way = Literal["messages", "chat", "chat-reasoning"]
"""`chat-reasoning`: with the transformer that shows a model's thoughts; `chat` leaves them out."""


@pytest.fixture(params=get_args(Way))
def way(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    return way


@dataclass(slots=True)
class Router:
    client: httpx.AsyncClient

    async def ask(self, *messages: Json, stream: bool = True, **fields: Any) -> Reply:
        """As Claude Code asks."""
        got = await self.post(*messages, stream=stream, **fields)
        assert got.status_code == 200, got.text
        if stream:
            assert got.headers["content-type"].startswith("text/event-stream")
            return read_messages_stream(got.content)
        return Reply.of_message(got.json())

    async def post(self, *messages: Json, stream: bool = True, **fields: Any) -> httpx.Response:
        body = {
            "model": "claude-sonnet-4-5",
            "max_tokens": 4000,
            "stream": stream,
            "system": SYSTEM,
            "messages": messages,
            "tools": [READ],
            "thinking": {"type": "enabled", "budget_tokens": 2000},
            "metadata": {"user_id": "user_0_account__session_5f3c2d1e-0000-4000-8000-000000000001"},
            **fields,
        }
        headers = {"x-api-key": "dummy-router", "anthropic-version": "2023-06-01", "user-agent": "claude-cli/2.1.240"}
        return await self.client.post("/v1/messages?beta=true", headers=headers, json=body)


@asynccontextmanager
async def router(stage: Stage, name: str, way: Way) -> AsyncIterator[Router]:
    port = free_port()
    printed = "ccr" if way == "messages" else "ccr-chat"
    config = orjson.loads(stage.printed(printed))
    if way == "chat-reasoning":
        config["Providers"][0]["transformer"] = {"use": ["reasoning"]}
    config |= {"HOST": "127.0.0.1", "PORT": port, "APIKEY": "dummy-router", "NON_INTERACTIVE_MODE": True}
    folder = stage.home / ".claude-code-router"
    folder.mkdir()
    (folder / "config.json").write_bytes(orjson.dumps(config))
    process = await asyncio.create_subprocess_exec(
        NODE_BINARY,
        BY_NAME[name].modules / BY_NAME[name].package / "dist" / "cli.js",
        "start",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=stage.home,
        env=environment(stage.home, CHIASM_API_KEY=KEY),
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=CLIENT_SECONDS) as client:
            async with asyncio.timeout(CLIENT_SECONDS):
                while not await _is_up(client):
                    assert process.returncode is None, "it did not start"
                    await asyncio.sleep(0.1)
            yield Router(client)
    finally:
        await end(process)


async def _is_up(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).status_code == 200
    except httpx.TransportError:
        return False


def image(data: bytes) -> Json:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(data).decode()}
    return {"type": "image", "source": source}


def user(*blocks: str | Json) -> Json:
    return {
        "role": "user",
        "content": [{"type": "text", "text": one} if isinstance(one, str) else one for one in blocks],
    }


def thought(way: Way, *thoughts: str) -> list[str]:
    return [] if way == "chat" else list(thoughts)


async def test_plain_words(name: str, way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage, router(stage, name, way) as ccr:
        stage.house.brain.will(says(Thinks("A greet"), Thinks("ing."), "Hello", " there."))
        reply = await ccr.ask(user("Hi."))
        assert reply.text_of("text") == ["Hello there."]
        assert reply.text_of("thinking") == thought(way, "A greeting.")
        assert (reply.stop_reason, reply.model, reply.error) == ("end_turn", "brain", None)
        assert (reply.usage["input_tokens"], reply.usage["output_tokens"]) == (100, 10)
        (asked,) = stage.house.brain.asked
        for stray in (b"media_type", b"x-anthropic-billing-header", *[b"cache_control"] * (way != "messages")):
            assert stray not in asked.body


async def test_a_pasted_picture_that_is_looked_at(name: str, way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage, router(stage, name, way) as ccr:
        stage.house.brain.will(
            says(Thinks("A picture."), "\n\n", looks(1, "What?"), looks(1, "What colour?"), usage=(100, 10)),
            says(Thinks("A cat, then."), "It is a ", "cat.", usage=(150, 7)),
        )
        reply = await ccr.ask(user("[Image #1] What is this?", image(picture())))
        assert reply.text_of("text") == ["It is a cat."]
        # Two that the server has signed; to the router's own form they are one.
        thoughts = ["A picture.", "A cat, then."]
        assert reply.text_of("thinking") == thought(way, *(thoughts if way == "messages" else ["\n\n".join(thoughts)]))
        assert (reply.stop_reason, reply.error, reply.calls) == ("end_turn", None, [])
        assert (reply.usage["input_tokens"], reply.usage["output_tokens"]) == (150, 17)
        assert len(stage.house.eyes.looks) == 2
        assert b"[Image #2]" not in stage.house.brain.asked[0].body, "its number and ours agree"


async def test_words_before_and_after_a_look_are_one_block(name: str, way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage, router(stage, name, way) as ccr:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me ", "look.", "\n\n", looks(1, "What?")), says("\n\nIt is a ", "cat.")
        )
        reply = await ccr.ask(user("What is this?", image(picture())))
        assert reply.text_of("text") == ["Let me look.\n\nIt is a cat."]
        assert reply.text_of("thinking") == thought(way, "A picture.")
        assert reply.stop_reason == "end_turn"


def known_limit_of_reasoning(words: str) -> pytest.MarkDecorator:
    """All ways; with `chat-reasoning` this is known to fail, and the day it does not, the test says so."""
    mark = pytest.mark.xfail(strict=True, raises=AssertionError, reason=f"{words}; see docs/clients.md")
    return pytest.mark.parametrize("way", ["messages", "chat", pytest.param("chat-reasoning", marks=mark)])


@known_limit_of_reasoning("writes thoughts that follow words into the words' block")
async def test_thoughts_after_words(name: str, way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage, router(stage, name, way) as ccr:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me look.", looks(1, "What?")), says(Thinks("A cat, then."), "It is a cat.")
        )
        reply = await ccr.ask(user("What is this?", image(picture())))
        assert "".join(reply.text_of("text")) == "Let me look.\n\nIt is a cat."
        assert reply.text_of("thinking") == thought(way, "A picture.", "A cat, then.")
        assert reply.stop_reason == "end_turn"


@pytest.mark.parametrize("way", ["chat-reasoning"])
async def test_late_thoughts_can_be_left_out(name: str, way: Way, on_stage: OnStage) -> None:
    async with on_stage(server={"late_reasoning": "drop"}) as stage, router(stage, name, way) as ccr:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me look.", looks(1, "What?")), says(Thinks("A cat, then."), "It is a cat.")
        )
        reply = await ccr.ask(user("What is this?", image(picture())))
        assert reply.text_of("text") == ["Let me look.\n\nIt is a cat."]
        assert reply.text_of("thinking") == ["A picture."]


async def test_two_calls_beside_a_look_and_a_picture_among_their_results(
    name: str, way: Way, on_stage: OnStage
) -> None:
    async with on_stage() as stage, router(stage, name, way) as ccr:
        stage.house.brain.will(
            says(
                Thinks("Hm."),
                "I will read.",
                Calls("Read", '{"file_path":"/a.txt"}', "call_a"),
                looks(1, "What?", id="call_ours"),
                Calls("Read", '{"file_path":"/dog.png"}', "call_b"),
            ),
            says("\n\n", looks(2, "What?")),
            says("A cat and a dog.", usage=(200, 2)),
        )
        stage.house.eyes.will(sees("A tabby cat."), sees("A small dog."))
        question = user("[Image #1] Compare.", image(picture(1)))
        before = await ccr.ask(question)
        assert before.calls == [
            ("call_a", "Read", {"file_path": "/a.txt"}),
            ("call_b", "Read", {"file_path": "/dog.png"}),
        ]
        assert [block.type for block in before.blocks if block.type != "thinking"] == ["text", "tool_use", "tool_use"]
        assert before.stop_reason == "tool_use"
        results = user(
            {"type": "tool_result", "tool_use_id": "call_a", "content": "AAA"},
            {"type": "tool_result", "tool_use_id": "call_b", "content": [image(picture(2))]},
        )
        after = await ccr.ask(question, before.as_message, results)
        assert after.text_of("text") == ["A cat and a dog."]
        assert (after.stop_reason, after.calls) == ("end_turn", [])
        assert (after.usage["input_tokens"], after.usage["output_tokens"]) == (200, 12)
        _, second, third = stage.house.brain.asked
        told = {one["tool_call_id"]: one["content"] for one in second.messages if one["role"] == "tool"}
        assert told.keys() == {"call_a", "call_ours", "call_b"}
        assert told["call_a"] == "AAA"
        assert "[Image #2]" in str(told["call_b"])
        assert "A tabby cat." in str(told["call_ours"])
        assert "A small dog." in str(third.messages[-1]["content"])


async def test_an_answer_in_one_piece(name: str, way: Way, on_stage: OnStage) -> None:
    async with on_stage() as stage, router(stage, name, way) as ccr:
        stage.house.brain.will(says("Let me look.", looks(1, "What?")), says("It is a cat.", usage=(150, 7)))
        reply = await ccr.ask(user("What is this?", image(picture())), stream=False)
        assert reply.text_of("text") == ["Let me look.\n\nIt is a cat."]
        assert (reply.stop_reason, reply.calls) == ("end_turn", [])
        assert (reply.usage["input_tokens"], reply.usage["output_tokens"]) == (150, 17)


@pytest.mark.parametrize("heartbeat", ["comment", "chunk"])
async def test_heartbeats_while_the_eyes_take_their_time(
    name: str, way: Way, on_stage: OnStage, heartbeat: str
) -> None:
    async with (
        on_stage(server={"heartbeat": heartbeat, "heartbeat_seconds": 0.05}) as stage,
        router(stage, name, way) as ccr,
    ):
        stage.house.brain.will(says(Thinks("Hm."), "Wait.", looks(1, "What?")), says("A cat."))
        stage.house.eyes.will(sees("A cat.", after=0.4))
        reply = await ccr.ask(user("What is this?", image(picture())))
        assert reply.text_of("text") == ["Wait.\n\nA cat."]
        assert reply.stop_reason == "end_turn"
        chat_beat = b": keep-alive" if heartbeat == "comment" else b'"delta":{},'
        beats = stage.tap.heard.count(b"event: ping" if way == "messages" else chat_beat)
        assert beats >= 3


@known_limit_of_reasoning("drops events without a delta, errors among them")
async def test_an_error_in_the_middle_of_an_answer_is_handed_on(name: str, way: Way, on_stage: OnStage) -> None:
    """In an event of a shape of its own, after which it ends the message as if all were well."""
    async with on_stage() as stage, router(stage, name, way) as ccr:
        stage.house.brain.will(says("Hello", Fails("the graphics card has left")))
        reply = await ccr.ask(user("Hi."))
        assert reply.text_of("text") == ["Hello"]
        assert "the graphics card has left" in str(reply.error)


async def test_the_words_of_a_refusal_arrive(name: str, way: Way, on_stage: OnStage) -> None:
    """Claude Code shortens its history by these."""
    words = "input length and `max_tokens` exceed context limit: 190000 + 21333 > 200000"
    async with on_stage() as stage, router(stage, name, way) as ccr:
        stage.house.brain.will(refuses(400, words))
        got = await ccr.post(user("Hi."))
        assert got.status_code == 400
        assert words in got.text


async def test_the_printed_key_comes_from_the_environment(name: str, way: Way, on_stage: OnStage) -> None:
    async with on_stage(server={"api_keys": [KEY]}) as stage, router(stage, name, way) as ccr:
        stage.house.brain.will(says("Hello."))
        reply = await ccr.ask(user("Hi."))
        assert reply.text_of("text") == ["Hello."]


@pytest.mark.parametrize("way", ["messages"])
async def test_the_session_of_the_client_arrives(name: str, way: Way, on_stage: OnStage) -> None:
    """So that a conversation is found again however its history was compacted."""
    async with on_stage() as stage, router(stage, name, way) as ccr:
        stage.house.brain.will(says("A cat."), says("Compacted."))
        await ccr.ask(user("[Image #1] What is this?", image(picture())))
        await ccr.ask(user("A summary of what was said so far.  Go on."))
        _, second = stage.house.brain.asked
        assert second.tools == ["Read", "analyzeImage", "recallImage"], "the image of the first request is known"
