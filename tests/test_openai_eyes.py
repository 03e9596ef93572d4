"""`tools.vision.openai` and what it is made of: what goes to the server, what is made of what comes back."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from httpx_aiohttp import AiohttpTransport
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tools.call import VisionUsage
from tools.vision.backend import Region, VisionAnswer, VisionError, VisionImage, VisionQuery
from tools.vision.open import open_eyes
from tools.vision.openai import MAX_REPLY_BYTES, OpenAIEyes
from tools.vision.reply import read_reply
from tools.vision.server_words import MAX_WORDS, server_words
from tools.vision.special_tokens import neutralise

pytestmark = pytest.mark.anyio

KEY = "sk-canary-0123456789"
TRANSCRIPTS = Path(__file__).parent / "transcripts"


def png(width: int = 64, height: int = 48, colour: str = "red", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG", **options)
    return buffer.getvalue()


def query(task: str = "Read it.", context: str = "", images: int = 1) -> VisionQuery:
    return VisionQuery(
        tuple(VisionImage(2 * n + 3, png(colour=c)) for n, c in enumerate(COLOURS[:images])), task, context
    )


COLOURS = ("red", "green", "blue", "white")


def said(content: object = "A red box.", finish: str = "stop", **message: object) -> httpx.Response:
    return httpx.Response(
        200,
        json={
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3},
        },
    )


Answer = httpx.Response | Exception | Callable[[httpx.Request], Any]


class Server:
    """Answers from a script, the last one for ever, and remembers what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers) or [said()]
        self.requests: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            # A response object can be read once only.
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        found = answer(request)
        response: httpx.Response = await found if asyncio.iscoroutine(found) else found
        return response

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [orjson.loads(request.content) for request in self.requests if request.method == "POST"]


@asynccontextmanager
async def eyes(server: Server, **options: Any) -> AsyncIterator[OpenAIEyes]:
    options = {"name": "test", "model": "m", "api_key": KEY, "timeout_seconds": 20, **options}
    async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as client:
        made = OpenAIEyes(client, "http://eyes.internal:8001/v1/", **options)
        yield made
        await made.close()


async def failure(server: Server, asked: VisionQuery | None = None, **options: Any) -> VisionError:
    async with eyes(server, **options) as looking:
        with pytest.raises(VisionError) as caught:
            await looking.look(asked or query())
    words = str(caught.value)
    assert words
    for secret in (KEY, "eyes.internal", "8001", "http://", "base64"):
        assert secret not in words
    return caught.value


async def answer(server: Server, asked: VisionQuery | None = None, **options: Any) -> VisionAnswer:
    async with eyes(server, **options) as looking:
        return await looking.look(asked or query())


async def test_pictures_come_first_and_the_task_last() -> None:
    server = Server()
    found = await answer(server, query("Read the sign.", "It is in Welsh.", images=2), max_tokens=77)
    assert found == VisionAnswer("A red box.", VisionUsage(1, 10, 3))
    (request,) = server.requests
    assert str(request.url) == "http://eyes.internal:8001/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    (body,) = server.bodies
    assert (body["model"], body["stream"], body["max_tokens"]) == ("m", False, 77)
    system, user = body["messages"]
    assert system["role"] == "system"
    assert "never an instruction" in system["content"]
    assert user["role"] == "user"
    assert [part["type"] for part in user["content"]] == ["image_url", "image_url", "text"]
    assert user["content"][2]["text"] == (
        "Pictures, in order: [Image #3] (64x48), [Image #5] (64x48).\nTask: Read the sign.\nContext: It is in Welsh."
    )
    for part, colour in zip(user["content"][:2], [(255, 0, 0), (0, 128, 0)], strict=True):
        kind, _, data = part["image_url"]["url"].partition(";base64,")
        assert kind == "data:image/png"
        assert Image.open(io.BytesIO(base64.b64decode(data, validate=True))).getpixel((5, 5)) == colour


async def test_a_single_whole_picture_needs_no_introduction() -> None:
    server = Server()
    await answer(server, query("Read it."))
    assert server.bodies[0]["messages"][1]["content"][1]["text"] == "Task: Read it."


async def test_what_was_done_to_a_picture_is_told_to_the_eyes_and_to_the_brain() -> None:
    server = Server()
    asked = VisionQuery((VisionImage(4, png(64, 48), Region(0.5, 0, 1, 1)),), "Read it.")
    found = await answer(server, asked)
    note = "the part 32,0,32,48 (x,y,w,h) of 64x48 pixels"
    assert server.bodies[0]["messages"][1]["content"][1]["text"] == (
        f"Pictures, in order: [Image #4] (32x48; {note}).\nTask: Read it."
    )
    assert found.text == f"A red box.\n\n(Note: [Image #4]: {note}.)"


async def test_without_a_key_no_authorization_is_sent() -> None:
    server = Server()
    await answer(server, api_key="")
    assert "authorization" not in server.requests[0].headers


async def test_an_empty_task_still_asks_something() -> None:
    server = Server()
    await answer(server, query("  "))
    assert "Describe the picture" in server.bodies[0]["messages"][1]["content"][1]["text"]


SPECIAL = ["<|image_pad|>", "<|vision_start|>", "<|im_end|>", "<|endoftext|>", "<｜User｜>", "<｜end▁of▁sentence｜>"]
SPECIAL += ["<__media__>", "<image>", "<IMG_CONTEXT>", "<image_soft_token>", "<start_of_image>", "<|begin_of_image|>"]


@pytest.mark.parametrize("token", SPECIAL)
async def test_special_tokens_reach_neither_the_eyes_nor_the_brain(token: str) -> None:
    server = Server(said(f"The sign says {token}."))
    found = await answer(server, query(f"Is {token} here?", f"It said {token}{token}"))
    assert token not in server.bodies[0]["messages"][1]["content"][1]["text"]
    assert token not in found.text
    assert "< " + token[1:] in found.text


@pytest.mark.parametrize(
    "text", ["a <|> b", "f <| g |> h", "<|", "|>", "if a<b|c>d", "<svg><image href='x'/></svg>", "x < y"]
)
def test_operators_and_markup_are_no_special_tokens(text: str) -> None:
    assert neutralise(text) == text


@given(st.text(alphabet="<|>｜_imagepd \ud800", max_size=60))
def test_neutralising_leaves_no_token_and_changes_nothing_the_second_time(text: str) -> None:
    once = neutralise(text)
    assert neutralise(once) == once
    assert "<|image_pad|>" not in once
    once.encode()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        ("  \n\n padded \n", "padded"),
        ([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}], "in parts"),
        (["bare ", "strings"], "bare strings"),
        ([{"type": "image_url", "image_url": {}}, {"type": "text", "text": "x"}], "x"),
        ("<think>\nlet me see\n</think>\n\nanswer", "answer"),
        ("let me see</think>\n\nanswer", "answer"),
        ("<think></think>answer", "answer"),
        ("use the <think> tag", "use the < think> tag"),
    ],
)
async def test_the_answer_is_found_in_any_shape(content: object, text: str) -> None:
    assert (await answer(Server(said(content)))).text == text


async def test_thoughts_in_their_own_field_are_left_there() -> None:
    for key in ("reasoning", "reasoning_content"):
        found = await answer(Server(said("It reads </think> verbatim", **{key: "Hm, a tag."})))
        assert found.text == "It reads < /think> verbatim"
    # What transformers serve leaks there with thinking off is no thought.
    assert (await answer(Server(said("hm</think>ok", reasoning_content="\n\n")))).text == "ok"


@pytest.mark.parametrize("content", [None, "", "  \n", [], "<think>and so on and on", "thought</think>"])
async def test_an_answer_of_nothing_but_thoughts_is_asked_for_once_more(content: object) -> None:
    server = Server(said(content, "length"), said("Seen."))
    found = await answer(server, max_tokens=3000)
    assert found == VisionAnswer("Seen.", VisionUsage(2, 20, 6))
    assert [body["max_tokens"] for body in server.bodies] == [3000, 6000]


async def test_nothing_said_twice_is_an_error_that_says_so() -> None:
    server = Server(said("", "length"))
    error = await failure(server)
    assert "used up its whole budget twice" in str(error)
    assert not error.retryable
    assert len(server.requests) == 2
    assert "empty answer twice" in str(await failure(Server(said(""))))


async def test_a_refusal_is_told_as_one() -> None:
    server = Server(said(None, refusal="I cannot identify people."))
    error = await failure(server)
    assert str(error) == "The vision model declined: I cannot identify people."
    assert len(server.requests) == 1


async def test_a_cut_answer_says_that_it_was_cut() -> None:
    found = await answer(Server(said("Line 1\nLine 2", "length")))
    assert found.text == "Line 1\nLine 2\n\n(Note: the answer was cut off at its token limit.)"


@pytest.mark.parametrize(
    ("start", "unit", "times"),
    [
        ("The table:\n", "| 0 | 0 | 0 |\n", 200),
        ("Look: ", "a", 4000),
        ("", "the same sentence again and again, ", 90),
        ("x" * 9000, "0.00 ", 900),
    ],
)
async def test_a_loop_is_cut_after_its_first_round(start: str, unit: str, times: int) -> None:
    found = await answer(Server(said(start + unit * times, "length")))
    assert found.text.endswith("(Note: the answer began to repeat itself and was cut there.)")
    kept = found.text.partition("\n\n(Note")[0]
    assert kept.startswith((start + unit)[: len(kept)])
    assert len(kept) <= max(len(start) + 2 * len(unit), len(start) + 1000)


async def test_what_repeats_in_the_picture_is_left_alone() -> None:
    log = "ERROR: connection lost\n" * 100
    assert (await answer(Server(said(log, "stop")))).text == log.strip()
    varied = "".join(f"{n * n} " for n in range(500))
    assert varied.strip() in (await answer(Server(said(varied, "length")))).text


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 2}, VisionUsage(1, 7, 2)),
        ({"prompt_tokens": 7}, VisionUsage(1, 7, 0)),
        ({"prompt_tokens": "7", "completion_tokens": True}, VisionUsage(1, 0, 0)),
        ({"prompt_tokens": -1, "completion_tokens": None}, VisionUsage(1, 0, 0)),
        (None, VisionUsage(1, 0, 0)),
        ([], VisionUsage(1, 0, 0)),
    ],
)
async def test_usage_is_read_as_far_as_it_makes_sense(usage: object, counted: VisionUsage) -> None:
    body = {"choices": [{"message": {"content": "x"}}], "usage": usage}
    assert (await answer(Server(httpx.Response(200, json=body)))).usage == counted


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (httpx.Response(400, json={"error": {"message": "too many images", "code": 400}}), "HTTP 400: too many images"),
        (httpx.Response(400, json={"error": "no such thing"}), "HTTP 400: no such thing"),
        (httpx.Response(400, json={"detail": "pinned to 'x'"}), "HTTP 400: pinned to 'x'"),
        (
            httpx.Response(422, json={"detail": [{"loc": ["body"], "msg": "JSON decode error"}]}),
            "HTTP 422: JSON decode error",
        ),
        (httpx.Response(403, json={"message": "forbidden"}), "HTTP 403: forbidden"),
        (httpx.Response(401, text="no"), "HTTP 401: no"),
        (httpx.Response(404, text="<html><body>Not Found</body></html>"), "HTTP 404."),
        (httpx.Response(413, content=b"\xff\xfe\x00"), "HTTP 413: "),
        (httpx.Response(400, json=["a", {"message": "b"}]), "HTTP 400: a; b"),
        (httpx.Response(400, json=17), "HTTP 400."),
        (httpx.Response(307, headers={"location": "http://eyes.internal:8001/elsewhere"}), "HTTP 307."),
        (httpx.Response(204), "HTTP 204."),
    ],
)
async def test_a_refusal_is_told_once_in_the_servers_own_words(response: httpx.Response, words: str) -> None:
    server = Server(response)
    error = await failure(server)
    assert f"The vision server answered {words}" in str(error)
    assert len(server.requests) == 1
    assert error.retryable is (response.status_code == 404)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_an_overloaded_server_is_asked_once_more(status: int) -> None:
    server = Server(httpx.Response(status, text="busy"), said("Seen."))
    assert (await answer(server)).text == "Seen."
    server = Server(httpx.Response(status, text="busy", headers={"retry-after": "0"}))
    error = await failure(server)
    assert f"HTTP {status}: busy" in str(error)
    assert error.retryable
    assert len(server.requests) == 2


async def test_a_long_retry_after_is_not_waited_for() -> None:
    server = Server(httpx.Response(429, text="later", headers={"retry-after": "3600"}))
    assert (await failure(server)).retryable
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("to eyes.internal:8001"),
        httpx.ConnectTimeout("x"),
        httpx.RemoteProtocolError("x"),
        httpx.ReadError("x"),
    ],
)
async def test_a_failed_connection_is_tried_once_more(error: Exception) -> None:
    server = Server(error, said("Seen."))
    assert (await answer(server)).text == "Seen."
    server = Server(error)
    failed = await failure(server)
    assert str(failed) == "The connection to the vision model failed: its server is down or dropped it."
    assert failed.retryable
    assert len(server.requests) == 2


async def test_a_server_that_went_silent_is_not_asked_again() -> None:
    server = Server(httpx.ReadTimeout("x"))
    assert str(await failure(server)) == "The vision model took too long to answer."
    assert len(server.requests) == 1


async def test_an_unforeseen_failure_is_a_vision_error_too() -> None:
    error = await failure(Server(RuntimeError("http://eyes.internal:8001 " + KEY)))
    assert str(error) == "Looking failed unexpectedly (RuntimeError)."


async def hang(request: httpx.Request) -> httpx.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def test_silence_ends_at_the_time_limit() -> None:
    error = await failure(Server(hang), timeout_seconds=0.2)
    assert str(error) == "The vision model did not answer within 0.2 s."
    assert error.retryable


async def test_waiting_for_a_place_ends_at_the_time_limit_too() -> None:
    server = Server(hang)
    async with eyes(server, timeout_seconds=0.2, max_concurrency=1) as looking, looking._places.of("other"):
        with pytest.raises(VisionError, match=r"^The vision model was busy and had no place free within 0\.2 s\.$"):
            await looking.look(query())
    assert server.requests == []


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (httpx.Response(200, text="oops"), "is not JSON but text/plain"),
        (httpx.Response(200, html="<html>login</html>"), "is not JSON but text/html"),
        (httpx.Response(200, content=b'{"choices": [', headers={"content-type": "application/json"}), "is not JSON."),
        (httpx.Response(200, content=b""), "is not JSON."),
        (
            httpx.Response(200, content=b"data: {}\n\n", headers={"content-type": "text/event-stream"}),
            "text/event-stream",
        ),
        (httpx.Response(200, json={"error": {"message": "model is loading"}}), "sent no answer: model is loading"),
        (httpx.Response(200, json={"choices": []}), "sent no answer."),
        (httpx.Response(200, json={"choices": [{"text": "legacy"}]}), "sent no answer."),
        (httpx.Response(200, json=[1, 2]), "sent no answer"),
        (httpx.Response(200, content=b"null"), "sent no answer."),
    ],
)
async def test_what_is_no_answer_is_not_taken_for_one(response: httpx.Response, words: str) -> None:
    assert words in str(await failure(Server(response)))


async def test_an_endless_answer_is_not_kept() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(MAX_REPLY_BYTES // 65536 + 10):
            yield b" " * 65536

    error = await failure(Server(lambda _: httpx.Response(200, content=endless())))
    assert str(error) == "The vision model's answer is too long to be one."


async def test_neither_key_nor_address_nor_picture_comes_back_in_an_error() -> None:
    picture = base64.b64encode(png()).decode()
    echoed = (
        f"bad {KEY} at http://eyes.internal:8001/v1/x and 10.0.0.7:8001, Bearer abc, data:image/png;base64,{picture} "
    )
    echoed += f"[fe80::1]:80 {picture} eyes.internal <|im_end|>"
    for body in ({"error": {"message": echoed}}, {"detail": echoed}):
        error = await failure(Server(httpx.Response(400, json=body)))
        assert picture[:40] not in str(error)
        for trace in ("10.0.0.7", "abc", "fe80", "<|im_end|>"):
            assert trace not in str(error)
        assert str(error).startswith("The vision server answered HTTP 400: bad … at …")


@given(
    payload=st.one_of(
        st.binary(max_size=400),
        st.recursive(
            st.none() | st.integers(-9, 9) | st.text(max_size=400),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.sampled_from(["error", "detail", "message", "msg", "x"]), inner, max_size=4)
            ),
            max_leaves=8,
        ).map(orjson.dumps),
    )
)
def test_the_words_of_any_error_body_are_short_and_printable(payload: bytes) -> None:
    words = server_words(payload)
    assert len(words) <= MAX_WORDS
    assert not any(ord(character) < 32 for character in words)


async def test_a_field_that_a_server_does_not_know_is_left_out_from_then_on() -> None:
    server = Server(httpx.Response(422, json={"detail": "Unexpected fields in the request: {'temperature'}"}), said())
    async with eyes(server) as looking:
        await looking.look(query())
        await looking.look(query())
    assert ["temperature" in body for body in server.bodies] == [True, False, False]


async def test_a_server_that_wants_the_newer_name_of_the_budget_gets_it() -> None:
    words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    server = Server(httpx.Response(400, json={"error": {"message": words, "param": "max_tokens"}}), said())
    async with eyes(server, max_tokens=99) as looking:
        await looking.look(query())
        await looking.look(query())
    assert [body.get("max_tokens") for body in server.bodies] == [99, None, None]
    assert [body.get("max_completion_tokens") for body in server.bodies] == [None, 99, 99]


async def test_a_refusal_that_leaving_a_field_out_does_not_cure_teaches_nothing() -> None:
    repeated = "unreadable picture; the question was 'Is the temperature too high? Use max_completion_tokens.'"
    server = Server(*[httpx.Response(400, json={"error": {"message": repeated}})] * 3, said())
    async with eyes(server, max_tokens=99) as looking:
        with pytest.raises(VisionError, match="unreadable picture"):
            await looking.look(query())
        await looking.look(query())
    assert [("temperature" in body, body.get("max_tokens")) for body in server.bodies][-1] == (True, 99)


async def test_a_server_that_refuses_whatever_is_sent_is_not_asked_for_ever() -> None:
    server = Server(httpx.Response(400, json={"error": "Unknown field: temperature. Use max_completion_tokens."}))
    await failure(server)
    assert len(server.requests) == 3


async def test_without_a_model_the_first_listed_is_asked_for_once() -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [{"id": "first"}, {"id": "second"}]})
        return said()

    server = Server(serve)
    async with eyes(server, model=None) as looking:
        await looking.look(query())
        await looking.look(query())
    assert [request.method for request in server.requests] == ["GET", "POST", "POST"]
    assert [body["model"] for body in server.bodies] == ["first", "first"]


async def test_a_failed_listing_is_not_remembered_and_a_forgotten_model_is_asked_anew() -> None:
    listing = httpx.Response(200, json={"object": "list", "data": [{"id": "a"}]})
    renamed = httpx.Response(200, json={"data": [{"id": "b"}]})
    server = Server(
        httpx.Response(401, text="who?"), listing, said(), httpx.Response(404, text="no model a"), renamed, said()
    )
    async with eyes(server, model=None) as looking:
        with pytest.raises(VisionError, match="HTTP 401: who"):
            await looking.look(query())
        await looking.look(query())
        with pytest.raises(VisionError, match="HTTP 404: no model a"):
            await looking.look(query())
        await looking.look(query())
    assert [body["model"] for body in server.bodies] == ["a", "a", "b"]


@pytest.mark.parametrize("listing", [{"data": []}, {}, [], {"data": [{"id": ""}, 3]}])
async def test_a_server_without_models_says_what_to_do(listing: object) -> None:
    error = await failure(Server(httpx.Response(200, json=listing)), model=None)
    assert str(error) == "The vision server lists no models; one has to be configured."


@pytest.mark.parametrize(
    ("answered", "model", "ready"),
    [
        (httpx.Response(200, json={"data": [{"id": "m"}]}), None, None),
        (httpx.Response(200, json={"data": []}), None, "the vision server lists no models"),
        (httpx.Response(200, json={"data": []}), "m", None),
        (httpx.Response(404), "m", None),
        (httpx.Response(500), "m", None),
        (httpx.Response(404), None, "the vision server answers HTTP 404"),
        (httpx.Response(401), "m", "the vision server refuses the key (HTTP 401)"),
        (
            httpx.Response(503, json={"error": {"message": "Loading model"}}),
            "m",
            "the vision server answers HTTP 503: Loading model",
        ),
        (httpx.ConnectError("x"), "m", "The connection to the vision model failed: its server is down or dropped it."),
        (httpx.Response(200, text="hi"), None, "The vision server's list of models is not JSON."),
        (RuntimeError("closed"), "m", "the vision server cannot be asked (RuntimeError)"),
    ],
)
async def test_readiness_is_told_in_a_line(answered: Answer, model: str | None, ready: str | None) -> None:
    server = Server(answered)
    async with eyes(server, model=model) as looking:
        assert await looking.ready() == ready
    assert {request.method for request in server.requests} == {"GET"}


async def test_a_picture_that_cannot_be_used_is_named_and_never_sent() -> None:
    server = Server()
    error = await failure(server, VisionQuery((VisionImage(3, png()), VisionImage(7, png()[:40])), "x"))
    assert str(error) == "[Image #7]: The picture cannot be used: truncated PNG."
    assert server.requests == []


async def test_no_more_looks_at_once_than_allowed() -> None:
    running = most = 0

    async def slow(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return said()

    async with eyes(Server(slow), max_concurrency=3) as looking:
        await asyncio.gather(*(looking.look(query()) for _ in range(12)))
    assert most == 3


async def test_a_cancelled_look_frees_its_place() -> None:
    asked = asyncio.Event()

    async def wait(request: httpx.Request) -> httpx.Response:
        asked.set()
        return await hang(request)

    async with eyes(Server(wait, wait, said("Seen.")), max_concurrency=1) as looking:
        for _ in range(2):
            look = asyncio.create_task(looking.look(query()))
            await asyncio.wait_for(asked.wait(), 10)
            asked.clear()
            look.cancel()
            with pytest.raises(asyncio.CancelledError):
                await look
        assert (await looking.look(query())).text == "Seen."


async def test_after_closing_there_is_an_error_and_no_crash() -> None:
    async with eyes(Server()) as looking:
        await looking.close()
        with pytest.raises(VisionError):
            await looking.look(query())


def recorded() -> list[Path]:
    found = [
        path for engine in ("vllm", "llamacpp", "hf") for path in (TRANSCRIPTS / engine).glob("*image*nonstream.txt")
    ]
    return sorted(path for path in found if "HTTP/1.1 200" in path.read_text(errors="replace"))


@pytest.mark.parametrize("path", recorded(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recorded_answers_of_real_servers_are_read(path: Path) -> None:
    raw = path.read_bytes()
    body = raw[raw.index(b"\n{") + 1 :].partition(b"\n#")[0]
    reply = read_reply(body, "application/json")
    assert reply is not None
    assert reply.text
    assert reply.usage.prompt_tokens > 10
    assert reply.usage.completion_tokens > 0


def test_there_are_recorded_answers() -> None:
    assert len(recorded()) >= 8


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("vllm-textonly/image_nonstream.txt", "is not a multimodal model"),
        ("vllm/image_badb64.txt", "cannot identify image file"),
        ("llamacpp-textonly/image_nonstream.txt", "image input is not supported"),
        ("llamacpp/image_badb64.txt", "Failed to load image"),
        ("hf/image_badb64.txt", "Internal Server Error"),
        ("hf/unknown_field.txt", "Unexpected fields in the request"),
        ("hf/bad_json.txt", "JSON decode error"),
    ],
)
def test_recorded_refusals_of_real_servers_are_told_in_their_words(file: str, words: str) -> None:
    raw = (TRANSCRIPTS / file).read_bytes().replace(b"\r\n", b"\n")
    body = raw.partition(b"raw response")[2].partition(b"\n\n")[2].partition(b"\n# total")[0]
    assert words in server_words(body)


class Socket:
    """A real server that does what it is told with each connection: answer, drop it, or keep it waiting."""

    def __init__(self, *doings: str) -> None:
        self.doings = list(doings)
        self.asked = asyncio.Event()
        self.gone = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        self.asked.set()
        match self.doings.pop(0):
            case "answer":
                body = said("Seen.").content
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n")
                writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
            case "wait":
                await reader.read()
                self.gone.set()
        writer.close()


@asynccontextmanager
async def live(socket: Socket) -> AsyncIterator[OpenAIEyes]:
    server = await asyncio.start_server(socket, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, httpx.AsyncClient(transport=AiohttpTransport(), trust_env=False) as client:
        made = OpenAIEyes(client, f"http://127.0.0.1:{port}/v1", name="live", model="m", timeout_seconds=20)
        yield made
        await made.close()


@pytest.mark.live
async def test_on_a_real_socket_a_look_is_answered_after_a_dropped_connection() -> None:
    async with live(Socket("drop", "answer")) as looking:
        assert (await looking.look(query())).text == "Seen."


@pytest.mark.live
async def test_on_a_real_socket_a_server_that_drops_everything_is_an_error() -> None:
    async with live(Socket("drop", "drop")) as looking:
        with pytest.raises(VisionError, match="connection to the vision model failed"):
            await looking.look(query())


@pytest.mark.live
async def test_on_a_real_socket_a_cancelled_look_closes_its_connection() -> None:
    socket = Socket("wait")
    async with live(socket) as looking:
        look = asyncio.create_task(looking.look(query()))
        await asyncio.wait_for(socket.asked.wait(), 10)
        look.cancel()
        with pytest.raises(asyncio.CancelledError):
            await look
        await asyncio.wait_for(socket.gone.wait(), 10)


@pytest.mark.live
async def test_on_a_real_socket_nobody_listening_is_an_error() -> None:
    server = await asyncio.start_server(Socket(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with httpx.AsyncClient(transport=AiohttpTransport(), trust_env=False) as client:
        made = OpenAIEyes(client, f"http://127.0.0.1:{port}/v1", name="live", model="m")
        with pytest.raises(VisionError, match="connection to the vision model failed") as caught:
            await made.look(query())
        assert caught.value.retryable
        assert await made.ready() == str(caught.value)
        await made.close()


async def test_each_kind_of_eyes_can_be_opened() -> None:
    async with httpx.AsyncClient() as client:
        for kind, made in (("openai", "OpenAIEyes 'x', openai"), ("qwen", "OpenAIEyes 'x', qwen"), ("ocr", "OcrEyes")):
            opened = open_eyes(kind, name="x", client=client, base_url="http://127.0.0.1:1/v1")  # type: ignore[arg-type]
            assert repr(opened).startswith(f"<{made}")
            assert opened.name == "x"
            await opened.close()
    with pytest.raises(ValueError, match="need a client and a base_url"):
        open_eyes("qwen", name="x")
