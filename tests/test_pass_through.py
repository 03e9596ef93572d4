"""What goes to the brain as it came: completions, embeddings, tokens; and that nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.brain import Asked, Breaks, Hangs, Script, Sends, Waits, Wire, bytes_of, hangs, nobody, refuses, says, whole
from tests.live import DEADLINE, House, Line, data_url, live, picture, post, shown, soon, user

pytestmark = [pytest.mark.anyio, pytest.mark.live]

PATHS = {
    "/v1/completions": "/v1/completions",
    "/v1/embeddings": "/v1/embeddings",
    "/tokenize": "/tokenize",
    "/detokenize": "/detokenize",
    "/v1/tokenize": "/tokenize",
    "/v1/detokenize": "/detokenize",
}
"""Ours, and where each is on a model's server."""

CAT = picture(1)
BODY = {"model": "brain", "prompt": "Once upon", "x_unknown": {"deep": [1, None]}, "stream": False}
STREAM = b': hm\n\ndata: {"choices":[{"text":" a"}]}\r\n\r\ndata: {"choices":[{"text":" time"}]}\n\ndata: [DONE]\n\n'


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with live() as house:
        yield house


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_goes_up_and_an_answer_comes_down_as_they_are(house: House, path: str) -> None:
    answer = b'{"model": "brain-7b",\n "data" :[1.50, 2e3], "usage":null}'
    house.brain.will(whole(answer))
    got = await house.send(BODY, path=path)
    assert (got.status, got.body, got.headers["content-type"]) == (200, answer, "application/json")
    (asked,) = house.brain.asked
    assert (asked.method, asked.path, asked.json) == ("POST", PATHS[path], BODY)


async def test_a_stream_comes_to_the_byte(house: House) -> None:
    for size in (0, 1, 7):
        house.brain.will(bytes_of(STREAM, size=size))
        got = await house.send({**BODY, "stream": True}, path="/v1/completions")
        assert (got.status, got.body, got.headers["content-type"]) == (200, STREAM, "text/event-stream")
        assert got.headers["x-accel-buffering"] == "no"


def asking(house: House, path: str = "/v1/completions", **fields: Any) -> Line:
    return Line(house.port, post(orjson.dumps({**BODY, **fields}), path=path))


async def test_bytes_leave_as_they_come(house: House) -> None:
    more = asyncio.Event()
    house.brain.will(says(Sends(b"data: 1"), Waits(more), Sends(b"23\n\n"), usage=None, done=False))
    async with asking(house, stream=True) as line:
        await line.until(b"data: 1")
        assert b"23\n" not in line.raw
        more.set()
        assert (await line.rest()).body.startswith(b"data: 123\n\n")


async def test_the_key_and_the_models_id_are_ours() -> None:
    async with live(
        server={"api_keys": ["client-key"]}, text={"name": "glm-5", "model": "zai-org/GLM-5", "api_key": "brain-key"}
    ) as house:
        house.brain.will(whole({"model": "zai-org/GLM-5"}))
        headers = {"x-api-key": "client-key", "x-request-id": "r-1", "x-session-id": "s1", "cookie": "c=1"}
        got = await house.send({**BODY, "model": "glm-5"}, path="/v1/embeddings", headers=headers)
        assert got.json == {"model": "zai-org/GLM-5"}, "the answer is the server's own"
        assert got.headers["x-request-id"] == "r-1"
        (asked,) = house.brain.asked
        assert asked.json["model"] == "zai-org/GLM-5"
        assert asked.headers["authorization"] == "Bearer brain-key"
        assert (asked.headers["x-request-id"], asked.headers["x-session-id"]) == ("r-1", "s1")
        assert "client-key" not in str(asked.headers)
        assert "cookie" not in asked.headers


async def test_headers_of_the_server_stay_with_us(house: House) -> None:
    house.brain.will(whole({}, headers={"set-cookie": "a=b", "server": "secret/1.0", "x-own": "1"}))
    got = await house.send(BODY, path="/tokenize")
    assert not {"set-cookie", "server", "x-own"} & got.headers.keys()


async def test_a_request_without_a_model_means_the_first(house: House) -> None:
    house.brain.will(whole({"tokens": []}))
    assert (await house.send({"prompt": "Hi."}, path="/tokenize")).status == 200
    assert house.brain.asked[0].json["model"] == "brain"


async def test_a_model_that_is_not_there_is_404(house: House) -> None:
    got = await house.send({**BODY, "model": "gpt-9"}, path="/v1/embeddings")
    assert (got.status, got.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_right_key_nothing_is_passed(path: str) -> None:
    async with live(server={"api_keys": ["right"]}) as house:
        got = await house.send(BODY, path=path, headers={"authorization": "Bearer wrong"})
        assert (got.status, got.error["code"]) == (401, "invalid_api_key")
        assert house.brain.asked == []


@pytest.mark.parametrize("path", PATHS)
async def test_other_methods_are_not_passed(house: House, path: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        got = await house.send(None, path=path, method=method)
        assert (got.status, got.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/rerank",
        "/v1/score",
        "/v1/audio/transcriptions",
        "/v1/load_lora_adapter",
        "/v1/completions/",
        "/v1/completions/x",
        "/v1//completions",
        "/v1/embeddings/../load_lora_adapter",
        "/v1/embeddings%2F..%2Fsleep",
        "/completions",
        "/embeddings",
        "/sleep",
        "/tokenizer_info",
        "/pooling",
        "/invocations",
    ],
)
async def test_nothing_else_is_passed(house: House, path: str) -> None:
    async with Line(house.port, post(orjson.dumps(BODY), path=path)) as line:
        got = await line.rest()
    assert (got.status, got.error["code"]) == (404, "not_found")


# What must not go up


async def test_fields_that_reach_what_belongs_to_others_are_left_out(house: House) -> None:
    house.brain.will(whole({}))
    await house.send({**BODY, "cache_salt": "x", "prompt_embeds": "x", "chat_template": "x"}, path="/v1/completions")
    assert house.brain.asked[0].json == BODY


@pytest.mark.parametrize("fields", [{"n": 5}, {"n": 10**9}, {"n": "5"}, {"best_of": 10**9}])
async def test_more_answers_at_once_than_a_brain_should_be_asked_for_are_refused(
    house: House, fields: dict[str, Any]
) -> None:
    got = await house.send({**BODY, **fields}, path="/v1/completions")
    assert (got.status, got.error["param"]) == (400, next(iter(fields)))
    house.brain.will(whole({}))
    assert (await house.send({**BODY, "n": 4, "best_of": 4}, path="/v1/completions")).status == 200
    assert len(house.brain.asked) == 1


PICTURES: dict[str, Any] = {
    "prompt": f"Look: {data_url(CAT)}",
    "input": [data_url(CAT)],
    "messages": [user("Hi.", shown(CAT))],
    "content": {"deep": [{"type": "image", "source": {"type": "base64", "data": data_url(CAT).partition(",")[2]}}]},
}


@pytest.mark.parametrize("field", PICTURES)
@pytest.mark.parametrize("path", PATHS)
async def test_a_picture_for_a_server_that_reads_text_is_refused(house: House, path: str, field: str) -> None:
    got = await house.send({"model": "brain", field: PICTURES[field]}, path=path)
    assert (got.status, got.error["param"]) == (400, field)
    assert house.brain.asked == []


async def test_a_large_picture_is_refused_too(house: House) -> None:
    """One that is cut out of the body before that is parsed."""
    large = "data:image/png;base64," + "QUJD" * 3000
    got = await house.send({"model": "brain", "input": large}, path="/v1/embeddings")
    assert (got.status, got.error["param"]) == (400, "input")


@pytest.mark.parametrize("images", ["off", "native"])
async def test_a_picture_for_a_server_that_sees_passes(images: str) -> None:
    async with live(text={"images": images}) as house:
        house.brain.may_see_pictures = True
        for url in (data_url(CAT), "data:image/png;base64," + "QUJD" * 3000):
            house.brain.will(whole({"count": 3}))
            body = {"model": "brain", "messages": [user("Hi.", shown(url))]}
            assert (await house.send(body, path="/tokenize")).json == {"count": 3}
            assert house.brain.asked[-1].json == body


@pytest.mark.parametrize(
    "part",
    [
        shown("http://169.254.169.254/a.png"),
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "video_url", "video_url": {"url": "http://10.0.0.1/v.mp4"}},
    ],
)
async def test_an_address_that_a_server_with_eyes_would_fetch_is_refused(part: dict[str, Any]) -> None:
    async with live(text={"images": "native"}) as house:
        for path, field in (("/tokenize", "messages"), ("/v1/embeddings", "messages"), ("/v1/embeddings", "input")):
            got = await house.send({"model": "brain", field: [user("Hi.", part)]}, path=path)
            assert (got.status, got.error["param"]) == (400, field)
        assert house.brain.asked == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"model": 1}', b'{"stream": "yes"}', b'{"a":' * 200 + b"1" + b"}" * 200],
    ids=["nothing", "broken", "a list", "no name", "no boolean", "deep"],
)
async def test_what_is_no_request_is_400(house: House, body: bytes) -> None:
    for path in PATHS:
        assert (await house.send(body, path=path)).status == 400


async def test_a_body_that_is_too_large_is_413() -> None:
    async with live(server={"max_body_mib": 1}) as house:
        got = await house.send({"model": "brain", "input": "x" * 2**20}, path="/v1/embeddings")
        assert (got.status, got.error["code"]) == (413, "request_too_large")


# The brain's faults


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429])
async def test_a_refusal_keeps_status_and_words(status: int) -> None:
    async with live(text={"api_key": "sk-very-secret"}) as house:
        house.brain.will(refuses(status, "no: sk-very-secret", headers={"retry-after": "7"}))
        got = await house.send(BODY, path="/v1/embeddings")
        assert (got.status, got.error["message"]) == (status, "no: [key]")
        assert got.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    "script",
    [
        refuses(500, "out of memory"),
        whole(b"<html>nginx</html>", headers={"content-type": "text/html"}),
        whole(b"<html>nginx</html>", headers={"content-type": "Text/HTML"}),
        whole({}, status=302, headers={"location": "http://127.0.0.1:1/"}),
        bytes_of(b""),
    ],
    ids=["500", "a web page", "A Web Page", "elsewhere", "nothing"],
)
async def test_a_fault_of_the_brain_is_502(house: House, script: Script) -> None:
    house.brain.will(script)
    got = await house.send(BODY, path="/tokenize")
    assert (got.status, got.error["type"]) == (502, "upstream_error")


async def test_a_brain_that_is_not_there_is_502() -> None:
    async with nobody() as nowhere, live(text={"base_url": nowhere}) as house:
        got = await house.send(BODY, path="/v1/completions")
        assert (got.status, got.error["code"]) == (502, "upstream_unreachable")


@pytest.mark.parametrize("script", [hangs, says(Hangs())], ids=["before headers", "after headers"])
async def test_silence_is_504(script: Script) -> None:
    async with live(text={"first_byte_seconds": 0.5}) as house:
        house.brain.will(script)
        got = await house.send({**BODY, "stream": True}, path="/v1/completions")
        assert (got.status, got.error["code"]) == (504, "upstream_timeout")
        await soon(house.brain.asked[0].gone.wait())


async def test_a_connection_that_broke_before_a_word_is_made_once_more(house: House) -> None:
    house.brain.will(says(Breaks()), whole({"count": 1}))
    assert (await house.send({**BODY, "stream": True}, path="/tokenize")).json == {"count": 1}
    house.brain.will(says(Breaks()), says(Breaks()))
    assert (await house.send({**BODY, "stream": True}, path="/tokenize")).error["code"] == "upstream_reset"


@pytest.mark.parametrize("so_far", [b"data: 1\n\n", b"data: 1\n\ndata: {half"], ids=["between events", "in an event"])
@pytest.mark.parametrize(("piece", "code"), [(Breaks(), "upstream_reset"), (Hangs(), "upstream_timeout")])
async def test_a_stream_that_breaks_ends_with_an_error_event(so_far: bytes, piece: Any, code: str) -> None:
    async with live(text={"idle_seconds": 0.5} if isinstance(piece, Hangs) else {}) as house:
        house.brain.will(says(Sends(so_far), Waits(0.05), piece))
        got = await house.send({**BODY, "stream": True}, path="/v1/completions")
        assert got.body.startswith(so_far)
        *_, error, done, rest = got.body.split(b"\n\n")
        assert (done, rest) == (b"data: [DONE]", b"")
        assert orjson.loads(error.removeprefix(b"data: "))["error"]["code"] == code


@pytest.mark.parametrize("framed", [True, False], ids=["with a length", "in chunks"])
async def test_an_answer_that_breaks_is_never_taken_for_whole(house: House, framed: bool) -> None:
    async def half(asked: Asked, wire: Wire) -> None:
        length = {"content-length": "100"} if framed else {}
        await wire.head(200, {"content-type": "application/json", **length})
        await wire.send(b'{"data": [')
        await asyncio.sleep(0.05)
        wire.reset()

    house.brain.will(half)
    async with asking(house, "/v1/embeddings") as line:
        with pytest.raises((EOFError, ConnectionError)):
            await line.rest()
        assert not line.raw.endswith(b"0\r\n\r\n"), "as if it were whole"
    house.brain.will(whole({}))
    assert (await house.send(BODY, path="/v1/embeddings")).status == 200


# Clients that leave, and clients that do not read


@pytest.mark.parametrize("moment", ["before the first byte", "in the stream"])
async def test_a_hang_up_closes_the_upstream(house: House, moment: str) -> None:
    begun = moment == "in the stream"
    house.brain.will(says(Sends(b"data: 1\n\n"), Hangs()) if begun else hangs)
    async with asking(house, stream=True) as line:
        asked = await soon(house.brain.came())
        if begun:
            await line.until(b"data: 1")
    await soon(asked.gone.wait())


async def test_a_client_that_does_not_read_holds_the_server_up_and_nothing_grows(house: House) -> None:
    most = 200

    async def much(asked: Asked, wire: Wire) -> None:
        await wire.head(200, {"content-type": "text/event-stream"})
        for _ in range(most):
            await wire.send(b"data: " + b"x" * 2**18 + b"\n\n")
        await wire.end()

    house.brain.will(much)
    line = Line(house.port, post(orjson.dumps({**BODY, "stream": True}), path="/v1/completions"), receive_buffer=2**14)
    async with line:
        asked = await soon(house.brain.came())
        await line.until(b"data: ")
        sent = -1
        async with asyncio.timeout(DEADLINE):
            while sent != asked.sent:
                sent = asked.sent
                await asyncio.sleep(0.3)
        assert sent < most * 2**18 / 2
    await soon(asked.gone.wait())
