"""A server that says too much, or counts to absurd numbers, harms nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

import router.protocol.chat.reader
import router.upstream
from router.protocol.chat.reader import CompletionReader
from router.protocol.parts import ErrorFrame
from tests.brain import Asked, Sends, Wire, looks, says, whole
from tests.eyes import sees
from tests.live import live, picture, shown, soon, user

pytestmark = [pytest.mark.anyio]


def test_a_whole_answer_that_is_too_large_is_an_error_and_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.protocol.chat.reader, "MOST_COMPLETION_BYTES", 3 * 2**20)
    reader = CompletionReader(lambda: "id")
    for _ in range(3):
        assert reader.feed(b" " * 2**20) == ()
    assert reader.feed(b" ") == [ErrorFrame("the text model's server answered more than 3 MiB")]
    assert reader._body == b""


def test_a_whole_answer_just_within_the_limit_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"choices":[{"message":{"content":"Hello."},"finish_reason":"stop"}]}'
    monkeypatch.setattr(router.protocol.chat.reader, "MOST_COMPLETION_BYTES", len(body))
    reader = CompletionReader(lambda: "id")
    assert reader.feed(body) == ()
    reader.close()
    assert reader.clean


async def endless(asked: Asked, wire: Wire) -> None:
    """A JSON answer that never ends."""
    await wire.head(200, {"content-type": "application/json"})
    while True:
        await wire.send(b" " * 2**18)
        await asyncio.sleep(0)  # or a connection that broke would never be known to have


@pytest.mark.live
async def test_a_server_whose_whole_answer_never_ends_is_a_502_and_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.protocol.chat.reader, "MOST_COMPLETION_BYTES", 4 * 2**20)
    async with live() as house:
        house.brain.will(endless)
        got = await house.send({"messages": [user("Hi.")]})
        assert (got.status, got.error["message"]) == (502, "the text model's server answered more than 4 MiB")
        await soon(house.brain.asked[0].gone.wait())


@pytest.mark.live
async def test_an_event_that_never_ends_is_an_error_and_is_left() -> None:
    async with live() as house:
        house.brain.will(says("Hel", Sends(b"data: " + b"x" * 9_000_000)))
        answer = await house.send({"messages": [user("Hi.")], "stream": True})
        assert b"an event of more than" in answer.body
        assert answer.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.live
async def test_a_list_of_models_that_never_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.upstream, "_MOST_LISTING_BYTES", 2**20)
    async with live(text={"name": ""}) as house:
        house.brain.models = endless
        got = await house.get("/v1/models")
        assert got.status == 502
        assert got.error["message"] == "the text model's server lists its models in more than 1 MiB"


# Numbers


ABSURD: list[Any] = [2**63, 2**64 - 1, -1, -(2**63), 1e300, 10**30, 10**400, True, "5", None, [], {}]


def with_usage(words: str, count: Any) -> bytes:
    """A completion that says it cost this."""
    said = {"role": "assistant", "content": words}
    body = {"id": "c", "choices": [{"index": 0, "message": said, "finish_reason": "stop"}], "usage": "HERE"}
    usage = ",".join(
        f'"{name}":{_json(count)}' for name in ("prompt_tokens", "completion_tokens", "total_tokens", "cost")
    )
    details = f'"completion_tokens_details":{{"reasoning_tokens":{_json(count)}}}'
    return orjson.dumps(body).replace(b'"HERE"', f"{{{usage},{details}}}".encode())


def _json(value: Any) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else orjson.dumps(value).decode()


@pytest.mark.live
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("count", ABSURD, ids=lambda count: str(count)[:8])
async def test_absurd_counts_of_tokens_harm_no_answer(count: Any, stream: bool) -> None:
    async with live() as house:
        completion = with_usage("Hello.", count)
        as_chunk = b"data: " + completion.replace(b'"message"', b'"delta"') + b"\n\n"
        house.brain.will(says(Sends(as_chunk)) if stream else whole(completion))
        got = await house.send(
            {"messages": [user("Hi.")], "stream": stream, "stream_options": {"include_usage": True}}
            if stream
            else {"messages": [user("Hi.")]}
        )
        assert got.status == 200, got.body
        assert b"Hello." in got.body
        assert b'"error"' not in got.body


@pytest.mark.live
async def test_absurd_counts_of_several_turns_and_of_the_eyes_are_not_added_up() -> None:
    async with live() as house:
        much = (2**63 - 1, 2**63 - 1)
        house.brain.will(says(looks(1, "What?"), usage=much), says("A cat.", usage=much))
        house.eyes.will(sees("A cat.", usage=much))
        answer = await house.chat(user(shown(picture(1))), stream=True)
        assert answer.text == "A cat."
