"""Whatever a client, a picture or a model says: an answer or a 4xx that names the place, never a 500, never a hang.

Pictures, arguments and what is no JSON are tried in every wire format (`speaker`).  Places in a body have other names
in each: here they are those of Chat Completions, the others have tests of their own, and all are in `test_fuzz.py`.
"""

from __future__ import annotations

import base64
import copy
import io
import resource
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.brain import Asked, Calls, Script, looks, says
from tests.eyes import sees
from tests.live import (
    House,
    Line,
    assistant,
    data_url,
    function,
    live,
    picture,
    post,
    shown,
    soon,
    text,
    tool_call,
    tool_result,
    user,
)
from tests.speakers.speaker import Speaker

pytestmark = [pytest.mark.anyio, pytest.mark.live]

CAT = picture(1)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with live() as house:
        yield house


# Bodies


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity, br"])
async def test_a_compressed_body_is_refused_with_words(house: House, encoding: str) -> None:
    got = await house.send({"messages": [user("Hi.")]}, headers={"content-encoding": encoding})
    assert got.status == 415
    assert "send it as it is" in got.error["message"]
    assert house.brain.asked == []


async def test_a_body_that_is_said_to_be_itself_is_read(house: House) -> None:
    house.brain.will(says("Hello."))
    assert (await house.send({"messages": [user("Hi.")]}, headers={"content-encoding": "identity"})).status == 200


OF_OTHERS = {"tool_calls": "x", "tool_call_id": 5, "role": "user", "rest": [], "origin": {}, "chiasm_item": {"a": 1}}
"""Fields that mean something in other formats, or to us."""


async def test_fields_that_mean_something_elsewhere_mean_nothing_here(speaker: Speaker) -> None:
    async with live(log_may_say="") as house:
        house.brain.answers = lambda asked: says("Hello.")
        body = speaker.request({"messages": [{"role": "user", "content": "Hi."}]})
        name = "input" if "input" in body else "messages"
        body[name] = [{**body[name][0], **({} if speaker.name == "chat" else OF_OTHERS)}, *body[name]]
        assert (await house.send(orjson.dumps(body))).status == 200


@pytest.mark.parametrize("odd", [{}, [], 5, None, "", "item", "call"], ids=repr)
async def test_a_part_of_an_odd_type_is_answered_or_refused(speaker: Speaker, odd: Any) -> None:
    async with live() as house:
        house.brain.answers = lambda asked: says("Hello.")
        for role in ("user", "assistant"):
            parts = [{"type": odd, "text": "Hi."}, {"type": "text", "text": "Hi.", "rest": odd}]
            said = {"role": role, "content": parts}
            body = speaker.request({"messages": [user("Hi.")]})
            body["input" if "input" in body else "messages"] += [said, {"role": "user", "content": "Hi."}]
            assert (await house.send(orjson.dumps(body))).status in (200, 400)


HI: dict[str, Any] = {"messages": [user("Hi.")]}


def with_message(message: Any) -> dict[str, Any]:
    return {"messages": [user("Hi."), message, user("And?")]}


NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "white space": b"  \n",
    "words": b"hello",
    "half": b'{"messages": [{"role": "user", "content": "Hi.',
    "a trailing comma": b'{"messages": [],}',
    "NaN": b'{"temperature": NaN, "messages": [{"role": "user", "content": "Hi."}]}',
    "infinity": b'{"temperature": 1e999, "messages": [{"role": "user", "content": "Hi."}]}',
    "half a surrogate pair": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "bytes that are no text": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "another encoding": '{"messages": [{"role": "user", "content": "Hi."}]}'.encode("utf-16"),
    "a raw line end": b'{"messages": [{"role": "user", "content": "a\nb"}]}',
    "ten thousand brackets": b'{"messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "ten thousand open brackets": b"[" * 10_000,
}


@pytest.mark.usefixtures("speaker")
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_what_is_not_json_is_a_400_that_shows_none_of_it(house: House, body: bytes) -> None:
    got = await house.send(body)
    assert (got.status, got.error["type"]) == (400, "invalid_request_error")
    assert "Hi." not in got.error["message"]
    assert house.brain.asked == []


WRONG: dict[str, tuple[Any, str | None]] = {
    "a list": ([], None),
    "a string": ("messages", None),
    "no messages": ({}, "messages"),
    "messages are null": ({"messages": None}, "messages"),
    "messages are empty": ({"messages": []}, "messages"),
    "messages are an object": ({"messages": {"role": "user"}}, "messages"),
    "a message is a string": ({"messages": ["Hi."]}, "messages[0]"),
    "a message is null": (with_message(None), "messages[1]"),
    "no role": (with_message({"content": "Hi."}), "messages[1].role"),
    "an unknown role": (with_message({"role": "robot", "content": "Hi."}), "messages[1].role"),
    "a role that is no string": (with_message({"role": ["user"], "content": "Hi."}), "messages[1].role"),
    "content is a number": (with_message({"role": "user", "content": 5}), "messages[1].content"),
    "content is an object": (with_message({"role": "user", "content": {}}), "messages[1].content"),
    "a part is a number": (with_message({"role": "user", "content": [5]}), "messages[1].content"),
    "a part is null": (with_message({"role": "user", "content": [None]}), "messages[1].content"),
    "tool_calls are a string": (
        with_message({"role": "assistant", "content": None, "tool_calls": "x"}),
        "messages[1].tool_calls",
    ),
    "the model is a number": ({**HI, "model": 5}, "model"),
    "stream is a string": ({**HI, "stream": "yes"}, "stream"),
    "tools are an object": ({**HI, "tools": {}}, "tools"),
    "a tool is a string": ({**HI, "tools": ["Read"]}, "tools[0]"),
    "max_tokens is a string": ({**HI, "max_tokens": "many"}, "max_tokens"),
    "max_tokens is too large for a number": (orjson.dumps(HI)[:-1] + b',"max_tokens":' + b"9" * 400 + b"}", None),
    "n is a boolean": ({**HI, "n": True}, "n"),
    "stream_options are a list": ({**HI, "stream_options": []}, "stream_options"),
    "sixty thousand messages": ({"messages": [user("Hi.")] * 60_000}, "messages"),
}


@pytest.mark.parametrize(("body", "param"), WRONG.values(), ids=WRONG.keys())
async def test_what_is_wrong_is_a_400_that_names_the_place(house: House, body: Any, param: str | None) -> None:
    got = await house.send(body)
    assert got.status == 400
    if param is not None:
        assert got.error["param"] == param
    assert house.brain.asked == []


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


def deep_text(depth: int) -> str:
    return "[" * depth + '{"type": "image"}' + "]" * depth


ODD: dict[str, Any] = {
    "functions are a number": {**HI, "functions": 5},
    "a function is a number": {**HI, "functions": [5]},
    "a function's name is a list": {**HI, "functions": [{"name": []}]},
    "a tool's function is a string": {**HI, "tools": [{"type": "function", "function": "Read"}]},
    "a tool's name is an object": {**HI, "tools": [{"type": "function", "function": {"name": {"a": 1}}}]},
    "a tool choice of numbers": {**HI, "tool_choice": [1, 2]},
    "a format of numbers": {**HI, "response_format": [1]},
    "a format's type is a list": {**HI, "response_format": {"type": []}},
    "metadata is a list": {**HI, "metadata": []},
    "a user id is an object": {**HI, "metadata": {"user_id": {}}},
    "a user id is broken JSON": {**HI, "metadata": {"user_id": "{"}},
    "a user id is deep JSON": {**HI, "metadata": {"user_id": '{"a":' * 100_000}},
    "a user id is JSON of no object": {**HI, "metadata": {"user_id": '{"session_id": 5}'}},
    "a user is a number": {**HI, "user": 5},
    "a text that is a number": {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
    "a part without a type": {"messages": [{"role": "user", "content": [{}]}]},
    "a part with a type of lists": {"messages": [{"role": "user", "content": [{"type": ["image"]}]}]},
    "parts that are strings": {"messages": [{"role": "user", "content": ["Hi.", "there."]}]},
    "no content": {"messages": [{"role": "user"}]},
    "an image URL that is a number": {"messages": [user({"type": "image_url", "image_url": 5})]},
    "an image URL that is null": {"messages": [user({"type": "image_url", "image_url": None})]},
    "an image URL without a URL": {"messages": [user({"type": "image_url", "image_url": {}})]},
    "an image URL that is empty": {"messages": [user(shown(""))]},
    "an image URL of another scheme": {"messages": [user(shown("file:///etc/passwd"))]},
    "a data URL without data": {"messages": [user(shown("data:"))]},
    "a data URL without base64": {"messages": [user(shown("data:image/png,%89PNG"))]},
    "a data URL of zeros": {"messages": [user(shown("data:image/png;base64," + "A" * 100_000))]},
    "an image without a source": {"messages": [user({"type": "image"})]},
    "an image whose source is a list": {"messages": [user({"type": "image", "source": []})]},
    "an image whose data is a number": {"messages": [user({"type": "image", "data": 5, "mimeType": "image/png"})]},
    "a call without a function": {"messages": [user("Hi."), assistant(None, {"id": "a"}), tool_result("a", "x")]},
    "a call whose id is a list": {
        "messages": [user("Hi."), assistant(None, {**tool_call("a", "Read"), "id": []}), tool_result("a", "x")]
    },
    "a call whose arguments are broken": {"messages": [user("Hi."), assistant(None, tool_call("a", "Read", '{"a'))]},
    "a tool message without an id": {"messages": [user("Hi."), {"role": "tool", "content": "x"}]},
    "a tool message that is half a picture": {
        "messages": [
            user("Hi."),
            tool_result("a", '[{"type":"image","source":{"data":"' + base64.b64encode(CAT).decode()),
        ]
    },
    "a tool message of deep JSON": {"messages": [user("Hi."), tool_result("a", deep_text(900))]},
    "a tool message of deeper JSON": {"messages": [user("Hi."), tool_result("a", deep_text(100_000))]},
    "a field of 200 levels": {**HI, "x": nested(200)},
    "a field of 300 levels": {**HI, "x": nested(300)},
    "a field of 1000 levels": {**HI, "x": nested(1000)},
    "a message of 300 levels": {"messages": [{**user("Hi."), "x": nested(300)}]},
    "a tool of 600 levels": {**HI, "tools": [{**function("Read"), "x": nested(600)}]},
    "a key twice": b'{"messages": [{"role": "robot"}], "messages": [{"role": "user", "content": "Hi."}]}',
    "a number of 400 digits": orjson.dumps(HI)[:-1] + b',"seed":' + b"9" * 300 + b"}",
    "a number that is no more than a float": orjson.dumps(HI)[:-1] + b',"seed":' + b"9" * 30 + b"}",
    "control characters": {"messages": [user("".join(map(chr, range(1, 32))))]},
    "special tokens": {"messages": [user("<|im_end|><|im_start|>system <|image_pad|>")]},
    "an empty system message": {"messages": [{"role": "system", "content": ""}, user("Hi.")]},
    "a system message alone": {"messages": [{"role": "system", "content": "Be brief."}]},
    "a million letters": {"messages": [user("b c " * 250_000)]},
    "five thousand messages": {"messages": [user("Hi."), assistant("Hello.")] * 2_500 + [user("And?")]},
    "a number of an image that cannot be": {"messages": [user("[Image #999999] [Image #0] [Image #-1]", shown(CAT))]},
    "a max_tokens below zero": {**HI, "max_tokens": -1},
    "very many answers": {**HI, "n": 10**15},
    "an unknown everything": {**HI, "x-" * 5_000: {"y": [None, True, 1e308, -0.0, 2**63]}},
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD.keys())
async def test_what_is_odd_is_answered_or_refused(house: House, body: Any) -> None:
    house.brain.answers = lambda asked: says("Hello.")
    raw = body if isinstance(body, bytes) else _dumped(body)
    for stream in (b"true", b"false"):
        got = await house.send(raw[:-1] + b',"stream":' + stream + b"}")
        assert got.status == 200 or 400 <= got.status < 500, (got.status, got.body[:500])
        if got.status == 200:
            assert b"Hello." in got.body
        else:
            assert got.error["message"]


def _dumped(value: Any) -> bytes:
    """JSON of any depth."""
    if isinstance(value, list) and len(value) == 1:
        inner, depth = value, 0
        while isinstance(inner, list) and len(inner) == 1:
            inner, depth = inner[0], depth + 1
        return b"[" * depth + _dumped(inner) + b"]" * depth
    if isinstance(value, dict):
        return b"{" + b",".join(orjson.dumps(key) + b":" + _dumped(item) for key, item in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(_dumped, value)) + b"]"
    return orjson.dumps(value)


@pytest.mark.parametrize("name", ["x-session-id", "x-request-id", "x-chiasm-conversation", "authorization"])
async def test_odd_headers_are_no_fault_of_ours(house: House, name: str) -> None:
    house.brain.answers = lambda asked: says("Hello.")
    for value in ("\xe9t\xe9", "a\tb", "x" * 5000, "\x7f", "", "'; drop table--", "../../etc"):
        async with Line(house.port, post(orjson.dumps(HI), headers={name: value})) as line:
            assert (await line.rest()).status in (200, 400), value


# Sizes


async def test_a_body_that_says_it_is_too_large_is_refused_unread(house: House) -> None:
    async with Line(house.port, post(b"", headers={"content-length": "209715200"})) as line:
        got = await line.rest()
        assert (got.status, got.error["code"]) == (413, "request_too_large")
        assert got.headers["connection"] == "close"


async def test_a_client_that_asks_first_is_not_told_to_go_on(house: House) -> None:
    headers = {"content-length": "209715200", "expect": "100-continue"}
    async with Line(house.port, post(b"", headers=headers)) as line:
        assert (await line.rest()).status == 413


async def test_a_body_that_grows_too_large_is_refused_and_not_kept() -> None:
    async with live(server={"max_body_mib": 2}) as house:
        before = resident()
        most = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal most
            for _ in range(200):
                most = max(most, resident() - before)
                yield b" " * 2**20

        response = await soon(
            house.client.post("/v1/chat/completions", content=endless(), headers={"content-type": "application/json"})
        )
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
        assert most < 50 * 2**20


def resident() -> int:
    """Bytes of memory in use, of client and service together."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_a_body_just_within_the_limit_is_taken() -> None:
    async with live(server={"max_body_mib": 1}) as house:
        house.brain.will(says("Hello."))
        body = orjson.dumps(HI)
        assert (await house.send(body + b" " * (2**20 - len(body)))).status == 200
        assert (await house.send(body + b" " * (2**20 - len(body) + 1))).status == 413


# Pictures


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, "PNG")
    return out.getvalue()


def bomb() -> bytes:
    """A PNG of a kilobyte that says it has 2.5 gigapixels."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", zlib.compress(b"\0" * 1000)) + block(b"IEND", b"")
    )


BAD_PICTURES: dict[str, str] = {
    "truncated": data_url(CAT[:-40]),
    "half": data_url(CAT[: len(CAT) // 2]),
    "a header alone": data_url(CAT[:33]),
    "a bomb": data_url(bomb()),
    "an empty data URL": "data:image/png;base64,",
    "an SVG": data_url(b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", "image/svg+xml"),
    "HTML": data_url(b"<html><body>hello</body></html>"),
    "junk in base64": "data:image/png;base64,iVBORw0KGgo*#!$" + "A" * 50,
    "a URL": "https://example.org/cat.png",
    "a URL of this machine": "http://127.0.0.1:1/cat.png",
    "a PDF": data_url(b"%PDF-1.7 1 0 obj", "application/pdf"),
}


@pytest.mark.usefixtures("speaker")
@pytest.mark.parametrize("url", BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
async def test_a_bad_picture_poisons_nothing(house: House, url: str) -> None:
    house.brain.will(says(looks(1, "What?"), looks(2, "What?")), says("The second is a cat."), says("As I said."))
    house.eyes.will(sees("A cat."))
    messages = [user("Which?", shown(url), shown(CAT))]
    answer = await house.chat(*messages, stream=True)
    assert answer.text == "The second is a cat."
    first = house.brain.asked[0]
    assert "[Image #1: unreadable, " in str(first.messages[0])
    assert "[Image #2] " in str(first.messages[0])
    assert len(house.eyes.asked) == 1
    await house.chat(*messages, assistant(answer.text), user("Sure?"))
    assert house.brain.asked[2].messages[0] == first.messages[0]


@pytest.mark.usefixtures("speaker")
@pytest.mark.parametrize(
    "image",
    [png(1, 1), png(1, 3000), png(3, 3, "LA"), png(3, 3, "P"), png(4, 4, "I;16"), png(4, 4, "1")],
    ids=["one pixel", "a line", "grey with alpha", "a palette", "16 bits", "1 bit"],
)
async def test_odd_pictures_are_looked_at_or_refused_in_words(house: House, image: bytes) -> None:
    house.brain.will(says(looks(1, "What?")), says("So."))
    assert (await house.chat(user(shown(image)), stream=True)).text == "So."


@pytest.mark.usefixtures("speaker")
async def test_a_picture_larger_than_allowed_is_named_as_such() -> None:
    async with live(images={"max_image_mib": 0.001, "max_megapixels": 0.001}) as house:
        house.brain.will(says("So."))
        await house.chat(user(shown(CAT)), stream=True)
        assert "unreadable, too large" in str(house.brain.asked[0].messages[0])


@pytest.mark.usefixtures("speaker")
async def test_hundred_pictures_in_one_request(house: House) -> None:
    house.brain.will(says("So."))
    await house.chat(user(*(shown(picture(seed)) for seed in range(100))), stream=True)
    assert "[Image #100]" in str(house.brain.asked[0].messages[0])


# What the brain writes


@pytest.mark.usefixtures("speaker")
@pytest.mark.parametrize(
    "arguments",
    [
        '{"image":"1","task":"What',
        '{"image": 1, "task": "What?"}',
        '{"imageId": ["1"], "task": "What?"}',
        '"{\\"image\\":\\"1\\",\\"task\\":\\"What?\\"}"',
        '{"image":"[Image #1]","task":"What?","region":"0,0,50%,50%"}',
    ],
)
async def test_broken_arguments_are_made_whole(house: House, arguments: str) -> None:
    house.brain.will(says(Calls("analyzeImage", arguments)), says("So."))
    assert (await house.chat(user(shown(CAT)), stream=True)).text == "So."
    assert "What" in house.eyes.looks[0].words


@pytest.mark.usefixtures("speaker")
@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "null",
        "[]",
        "{}",
        "5",
        '{"image":',
        '{"image":"cat"}',
        '{"image":"1e99"}',
        '{"image":{"a":{"b":1}}}',
        '{"image":"1","region":"-5,nan,1e99,0"}',
        '{"image":"1, 2, 3, 4, 5, 6, 7, 8, 9"}',
        "[" * 5000,
        "\x00\ufffd\u2028",
        '{"image":"' + "9, " * 30_000 + '"}',
    ],
)
async def test_hopeless_arguments_are_words_to_the_brain(house: House, arguments: str) -> None:
    house.brain.will(says(Calls("analyzeImage", arguments)), says("So."))
    answer = await house.chat(user(shown(CAT), shown(picture(2))), stream=True)
    assert answer.text == "So."
    assert isinstance(house.brain.asked[1].messages[-1]["content"], str)
    calls = house.brain.asked[1].messages[-2]["tool_calls"]
    assert isinstance(orjson.loads(calls[0]["function"]["arguments"]), dict), "servers refuse a history without"


# Mutations

BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": None}}
VALID: list[dict[str, Any]] = [
    {
        "model": "brain",
        "messages": [
            {
                "role": "system",
                "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            },
            user("What is [Image #1]?", shown(CAT), text("And this?")),
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [function("Read")],
        "tool_choice": "auto",
        "metadata": {"user_id": "user_a_account_b_session_c"},
        "max_tokens": 100,
        "temperature": 0.5,
    },
    {
        "messages": [
            user("Read it."),
            assistant(None, tool_call("c1", "Read", '{"path":"a.png"}')),
            tool_result(
                "c1",
                orjson.dumps(
                    [{**BLOCK, "source": {**BLOCK["source"], "data": base64.b64encode(CAT).decode()}}]  # type: ignore[dict-item]
                ).decode(),
            ),
            assistant("I see."),
            user({**BLOCK, "source": {**BLOCK["source"], "data": base64.b64encode(CAT).decode()}}),  # type: ignore[dict-item]
        ],
        "stream": False,
        "response_format": {"type": "text"},
        "n": 1,
        "user": "ann",
    },
]

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["user", "tool", "system", "image_url", "image", "none", "required", "data:,"]),
    st.lists(st.one_of(st.none(), st.integers(0, 9), st.text(max_size=5)), max_size=3),
    st.dictionaries(st.sampled_from(["type", "text", "url", "role", "content", "name", "id"]), st.text(max_size=5)),
    st.builds(lambda: [[[[]]]]),  # a new one each time, since it may be mutated in turn
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way for key, item in inside for way in ((*path, key), *places(item, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    body: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 3))):
        ways = places(body)
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        holder: Any = body
        for key in way:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "replace", "remove", "double", "rename"])):
            case "replace":
                holder[last] = draw(JUNK)
            case "remove":
                del holder[last]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            case _ if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = holder.pop(last)
    return body


@st.composite
def garbled(draw: st.DrawFn) -> bytes:
    body = bytearray(orjson.dumps(draw(st.sampled_from(VALID))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body) - 1))
        match draw(st.sampled_from(["set", "insert", "cut", "drop"])):
            case "set":
                body[at] = draw(st.integers(0, 255))
            case "insert":
                body[at:at] = draw(st.binary(max_size=4))
            case "cut" if at:
                del body[at:]
            case _:
                del body[at : at + draw(st.integers(1, 50))]
        if not body:
            break
    return bytes(body)


# One house for all examples is what is meant here: the one must not damage the other.
FUZZED = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def answered_or_refused(house: House, body: bytes) -> None:
    got = await house.send(body)
    assert got.status == 200 or 400 <= got.status < 500, (got.status, got.body, body)
    if got.status == 200 and got.headers["content-type"].startswith("text/event-stream"):
        assert got.body.endswith(b"data: [DONE]\n\n")
    faults, house.brain.faults = house.brain.faults, []  # an example answers for itself alone
    assert not faults, (faults, body)


def anything(asked: Asked) -> Script:
    """Looks where it may, as a brain would."""
    if "analyzeImage" in str(asked.json.get("tools")) and asked.messages[-1].get("role") != "tool":
        return says("Hm.", looks(1, "What?"))
    return says("Hello.")


@FUZZED
@given(body=mutated())
async def test_mutated_bodies_are_answered_or_refused(house: House, body: dict[str, Any]) -> None:
    house.brain.answers = anything
    await answered_or_refused(house, orjson.dumps(body))


@FUZZED
@given(body=garbled())
async def test_garbled_bodies_are_answered_or_refused(house: House, body: bytes) -> None:
    house.brain.answers = anything
    house.brain.may_see_pictures = True  # what was base64 is none any more when a letter of it is gone
    await answered_or_refused(house, body)
