"""Thousands of bodies that no client would send, the same ones every time: an answer or a 4xx, never a 5xx of ours,
never a hang, and afterwards the service is as it was.

`tests/test_bad_input.py` looks for faults one by one and makes what it finds small; here it is the mass that counts.
`CHIASM_FUZZ` says how many there are (`make test-faults`: fifty thousand), `CHIASM_FUZZ_FROM` where they begin.  Chat
Completions gets all of them, each other wire format a tenth.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import pytest

from tests.brain import Asked, Script, looks, says
from tests.live import Footprint, House, data_url, function, live, picture, shown, user
from tests.speakers import speaking
from tests.speakers.speaker import Speaker, events_of

pytestmark = [pytest.mark.anyio, pytest.mark.live]

BODIES: Final = int(os.environ.get("CHIASM_FUZZ", "1500"))
FIRST: Final = int(os.environ.get("CHIASM_FUZZ_FROM", "0"))
AT_ONCE: Final = 8

CAT: Final = picture(1)
LETTERS: Final = base64.b64encode(CAT).decode()

RAW: Final = "@@raw:"
"""A string that begins so stands for JSON text that no encoder writes."""

TOKENS: Final = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e-400",
    "9" * 19,
    "9" * 20,
    "9" * 30,
    "9" * 400,
    "-" + "9" * 5000,
    "0." + "1" * 3000,
    "-0",
    "01",
    "1.",
    ".5",
    "+1",
    "0x10",
    r'"\ud800"',
    r'"\udc00\ud800"',
    r'"\u0000"',
    r'"\x41"',
    '"\t"',
    "'single'",
    "undefined",
    "",
    "/* comment */ 1",
    "{}",
    "[[]]",
    "[1,]",
    '{"a":1,"a":2}',
    '{"__proto__":{"a":1}}',
]

JUNK: Final[list[Any]] = [
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**53 + 1,
    2**63,
    2**64 - 1,
    1e308,
    5e-324,
    "",
    " ",
    "user",
    "tool",
    "developer",
    "image",
    "image_url",
    "input_image",
    "none",
    "required",
    "json_schema",
    "x" * 3000,
    "<|im_end|><|image_pad|>",
    "[Image #1]",
    "[Image #99999999999999999999]",
    "\u202e\u2028\x7f\x1b[2J",
    "../../etc/passwd",
    "${TEXT_API_KEY}",
    "{{7*7}}",
    "data:,",
    "data:image/png;base64,",
    "http://127.0.0.1:1/x.png",
    "file:///etc/passwd",
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"type": None},
    {"type": "image_url", "image_url": {"url": None}},
    {"type": "image", "source": {"type": "base64", "data": {}}},
]


def base_bodies() -> list[dict[str, Any]]:
    """In the speaker's words."""
    speaker = speaking()
    others = () if speaker.name == "chat" else ("n", "response_format")
    return [
        speaker.request({name: value for name, value in body.items() if name not in others})
        for body in bodies_of_chat()
    ]


def bodies_of_chat() -> list[dict[str, Any]]:
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": LETTERS}}
    call = {"id": "c1", "type": "function", "function": {"name": "Read", "arguments": '{"path":"a.png"}'}}
    return [
        {"messages": [user("Hi.")]},
        {
            "model": "brain",
            "messages": [
                {"role": "system", "content": "Be brief."},
                user("What is [Image #1]?", shown(CAT), "And this?"),
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [function("Read")],
            "tool_choice": "auto",
            "metadata": {"user_id": "user_a_account_b_session_c"},
            "max_tokens": 100,
            "temperature": 0.5,
            "stop": ["x"],
            "n": 1,
            "logprobs": True,
            "top_logprobs": 5,
            "seed": 1,
            "chat_template_kwargs": {"enable_thinking": False},
        },
        {
            "messages": [
                user("Read it."),
                {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": json.dumps([block])},
                {"role": "assistant", "content": "I see."},
                {"role": "user", "content": [block, {"type": "input_image", "image_url": data_url(CAT)}]},
                user("Here: ![a](" + data_url(CAT) + ") and so on."),
            ],
            "response_format": {"type": "text"},
            "user": "ann",
            "prompt_cache_key": "k",
        },
    ]


class Mill:
    """Makes one body after the other from one seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._kinds: list[Callable[[], bytes]] = [
            self.mutated,
            self.mutated,
            self.odd_tokens,
            self.odd_tokens,
            self.nested,
            self.twice,
            self.odd_pictures,
            self.odd_pictures,
            self.absurd_counts,
            self.garbled,
            self.encoded,
        ]

    def body(self) -> bytes:
        return self._chance.choice(self._kinds)()

    def mutated(self) -> bytes:
        body = self._base()
        for _ in range(self._chance.randint(1, 4)):
            holder, key = self._place(body)
            match self._chance.randrange(5):
                case 0:
                    del holder[key]
                case 1 if isinstance(holder, list):
                    holder.insert(key, holder[key])
                case 2 if isinstance(holder, dict):
                    holder[self._chance.choice(["", "type", "role", "content", "url", "x" * 300, "tool_calls"])] = (
                        holder.pop(key)
                    )
                case 3:
                    holder[key] = [holder[key]] if self._chance.random() < 0.5 else {"type": holder[key]}
                case _:
                    holder[key] = self._chance.choice(JUNK)
        return written(body)

    def odd_tokens(self) -> bytes:
        body = self._base()
        for _ in range(self._chance.randint(1, 2)):
            holder, key = self._place(body)
            holder[key] = RAW + str(self._chance.randrange(len(TOKENS)))
        return written(body)

    def nested(self) -> bytes:
        body = self._base()
        holder, key = self._place(body)
        holder[key] = "@@deep@@"
        depth = self._chance.choice([10, 60, 127, 128, 129, 255, 500, 1023, 1025, 3000])
        open_, close = self._chance.choice([("[", "]"), ('{"a":', "}"), ('{"content":[', "]}")])
        inner = self._chance.choice(["1", "", '"' + data_url(CAT) + '"'])
        return written(body).replace(b'"@@deep@@"', (open_ * depth + inner + close * depth).encode())

    def twice(self) -> bytes:
        """Keys that stand there twice: parsers differ in which of them counts."""
        one, other = written(self._base()), written(self._base())
        return one[:-1] + b"," + other[1:]

    def odd_pictures(self) -> bytes:
        part = {"type": "image_url", "image_url": {"url": self._odd_url()}}
        return written(speaking().request({"messages": [user("Look.", part)]}))

    def _odd_url(self) -> str:
        letters = self._chance.choice(
            [
                LETTERS,
                LETTERS[: self._chance.randrange(len(LETTERS))],
                LETTERS.rstrip("="),
                LETTERS + "=" * 5,
                LETTERS.replace("+", "-").replace("/", "_"),
                LETTERS.replace("+", "%2B").replace("/", "%2f"),
                "\r\n".join(LETTERS[at : at + 76] for at in range(0, len(LETTERS), 76)),
                LETTERS.replace("/", "\\/"),
                LETTERS.replace("A", "А"),
                LETTERS[::-1],
                base64.b64encode(LETTERS.encode()).decode(),
                "A" * 10_000,
                data_url(CAT),
                CAT.hex(),
                "",
            ]
        )
        kind = self._chance.choice(
            ["image/png", "image/jpeg", "IMAGE/PNG", "image/svg+xml", "text/html", "", "image/" + "x" * 500]
        )
        head = self._chance.choice(["data:", "DATA:", " data:", "data:data:", "data://", "blob:", ""])
        mark = self._chance.choice(
            [";base64,", ";BASE64,", ";charset=utf-8;base64,", ";base64", ",", ";base64,,", "; base64 , "]
        )
        return head + kind + mark + letters

    def absurd_counts(self) -> bytes:
        body = self._base()
        for name in self._chance.sample(
            ["n", "max_tokens", "max_completion_tokens", "top_logprobs", "seed", "best_of"], 2
        ):
            body[name] = self._chance.choice([0, -1, 10**6, 2**31, 2**63, 2**64 - 1, 1.5, RAW + "7"])
        many = self._chance.choice([1, 50, 500])
        match self._chance.randrange(4):
            case 0:
                name = "input" if "input" in body else "messages"
                body[name] = body[name] * many
            case 1:
                tools = [function(f"t{number}") for number in range(many)]
                body = speaking().request({"messages": [user("Hi.")], "tools": tools})
            case 2:
                body = speaking().request({"messages": [user(*[shown(CAT)] * many)]})
            case _:
                body |= {f"field-{number}": number for number in range(many)}
        return written(body)

    def garbled(self) -> bytes:
        body = bytearray(written(self._base()))
        for _ in range(self._chance.randint(1, 6)):
            if not body:
                break
            at = self._chance.randrange(len(body))
            match self._chance.randrange(4):
                case 0:
                    body[at] ^= 1 << self._chance.randrange(8)
                case 1:
                    body[at:at] = self._chance.randbytes(self._chance.randint(1, 4))
                case 2:
                    del body[at : at + self._chance.randint(1, 40)]
                case _ if len(body) > 10:
                    body[at:at] = body[: self._chance.randint(1, 60)]
        return bytes(body) or b"{"

    def encoded(self) -> bytes:
        text = written(self._base()).decode()
        return self._chance.choice(
            [
                b"\xef\xbb\xbf" + text.encode(),
                text.encode("utf-16"),
                text.encode("utf-32"),
                text.encode("utf-7"),
                text.encode() + b"\0",
                b"\0" + text.encode(),
                text.encode() + text.encode(),
                b"\n" * 1000 + text.encode() + b" " * 1000,
                text.replace("Hi", "\xe9\xff").encode("latin-1"),
                text.encode()[: self._chance.randrange(len(text))],
                b"\x1f\x8b" + text.encode(),
            ]
        )

    def _base(self) -> dict[str, Any]:
        return self._chance.choice(base_bodies())

    def _place(self, body: Any) -> tuple[Any, Any]:
        """A random value inside, by what holds it."""
        found: list[tuple[Any, Any]] = []

        def walk(holder: Any) -> None:
            keys = holder if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
            for key in list(keys):
                found.append((holder, key))
                walk(holder[key])

        walk(body)
        return self._chance.choice(found) if found else ({"": 0}, "")


ENDS: Final = {"message_stop", "error", "response.completed", "response.incomplete", "response.failed"}


def written(body: Any) -> bytes:
    text = json.dumps(body, separators=(",", ":"))
    for number, token in enumerate(TOKENS):
        text = text.replace(f'"{RAW}{number}"', token)
    return text.encode()


def anything() -> Callable[[Asked], Script]:
    """Looks once where it may, as a brain would."""
    looked: set[str] = set()

    def answers(asked: Asked) -> Script:
        request_id = asked.headers["x-request-id"]
        if "analyzeImage" in str(asked.json.get("tools")) and request_id not in looked:
            looked.add(request_id)
            return says("Hm.", looks(1, "What?"))
        return says("Hello.")

    return answers


async def answered_or_refused(house: House, number: int) -> int:
    body = Mill(number).body()
    got = await house.send(body)
    assert got.status == 200 or 400 <= got.status < 500, (number, got.status, got.body[:300], body[:2000])
    if got.status != 200:
        assert got.error["message"]
    elif got.headers["content-type"].startswith("text/event-stream"):
        if got.speaker.name == "chat":
            assert got.body.endswith(b"data: [DONE]\n\n"), (number, body[:2000])
        else:
            assert events_of(got.body)[-1][0] in ENDS, (number, body[:2000])
    return got.status


async def test_thousands_of_bodies_are_answered_or_refused_and_leave_nothing_behind(speaker: Speaker) -> None:
    bodies = BODIES if speaker.name == "chat" else BODIES // 10
    async with live() as house:
        house.brain.answers = anything()
        house.brain.may_see_pictures = True  # half a picture, or one in an alphabet of its own, is none
        assert (await house.send({"messages": [user("Hi.", shown(CAT))]})).status == 200
        before = Footprint.now()
        seen: set[int] = set()
        numbers = iter(range(FIRST, FIRST + bodies))
        while batch := list(islice(numbers, AT_ONCE)):
            seen.update(await asyncio.gather(*(answered_or_refused(house, number) for number in batch)))
            assert not house.brain.faults, (batch, house.brain.faults)
            house.brain.asked.clear()
            house.eyes.asked.clear()
        assert seen >= {200, 400}
        await before.returns()
        assert (await house.send({"messages": [user("Hi.", shown(CAT))]})).status == 200
