"""What brain and eyes were shown, by however many instances of the application, and whether all of it can be true.

Every picture here shows a colour that is its number of order (`seed`), and stands in a message behind the words
"Picture <seed>:".  The eyes say which picture they see by its pixels alone.  So from nothing but what went over the
wire it can be said whether a number ever meant two pictures, a picture ever had two numbers, or the words about one
were ever told as those about another.

    seen = Witness()
    async with Watched(store, seen) as site: ...
    seen.check()
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image

from cache.store import Store
from tests.brain import Asked
from tests.conversing import Inside, screenshot, words_of
from tests.eyes import Look
from tests.live import text

_PLACED = re.compile(r"Picture (\d+):\s*\[Image #(\d+)[\]:]")
_ROW = re.compile(r"^\| #(\d+) \|[^|]*\| It is picture (\d+)", re.MULTILINE)
_SEEN = re.compile(r"It is picture (\d+)")
_ARGUMENT = re.compile(r'"image": ?"#?(\d+)"')


def pictured(*seeds: int) -> list[dict[str, Any]]:
    """The parts of a message that shows these pictures."""
    return [part for seed in seeds for part in (text(f"Picture {seed}:"), screenshot(seed))]


def described(picture: bytes) -> str:
    """What the eyes say of a picture: which one it is, by its pixels."""
    with Image.open(io.BytesIO(picture)) as image:
        red, green, blue = image.convert("RGB").getpixel((1, 1))  # type: ignore[misc]
    return f"It is picture {red + 256 * green + 65536 * blue}. Of a single colour."


def seen_in(asked: Asked) -> str:
    """What the eyes answer."""
    return " ".join(described(picture) for picture in Look(asked).pictures)


USAGE = {"prompt_tokens": 50, "completion_tokens": 5, "total_tokens": 55}


@dataclass
class Witness:
    prompts: list[Mapping[str, Any]] = field(default_factory=list)
    """All that the brain was asked, whoever asked it."""
    looks: list[Look] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    """By seed, of the prompts that were checked."""
    may_look: asyncio.Event = field(default_factory=asyncio.Event)
    """Until this is set the eyes do not answer."""

    def __post_init__(self) -> None:
        self.may_look.set()

    def check(self) -> None:
        """Of one conversation: everything that was said of its pictures is about one numbering."""
        for prompt in self.prompts:
            self.check_one(prompt["messages"], self.numbers)
        for prompt in self.prompts:
            self._check_told(prompt["messages"], self.numbers)

    def check_each(self) -> None:
        """Each prompt by itself: what a conversation without a memory can still promise."""
        for prompt in self.prompts:
            numbers: dict[int, int] = {}
            self.check_one(prompt["messages"], numbers)
            self._check_told(prompt["messages"], numbers)

    @staticmethod
    def check_one(messages: Sequence[Mapping[str, Any]], numbers: dict[int, int]) -> None:
        """Calls and results belong together, and this numbering goes on."""
        well_formed(messages)
        for seed, number in _placed(messages):
            assert numbers.setdefault(seed, number) == number, f"picture {seed} was #{numbers[seed]} and is #{number}"
        assert len(set(numbers.values())) == len(numbers), f"two pictures with one number: {numbers}"

    @staticmethod
    def _check_told(messages: Sequence[Mapping[str, Any]], numbers: Mapping[int, int]) -> None:
        for number, seeds in _told(messages):
            meant = {numbers.get(seed) for seed in seeds}
            assert number in meant, f"what was told of #{number} is about {seeds}, which are {meant}"


def _placed(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    for message in messages:
        for seed, number in _PLACED.findall(words_of(message)):
            yield int(seed), int(number)


def _told(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, set[int]]]:
    """A number, and the picture that was told to be behind it; several where it was compared with others."""
    for message in messages:
        for number, seed in _ROW.findall(words_of(message)):
            yield int(number), {int(seed)}
    asked = {
        call["id"]: int(found[1])
        for message in messages
        for call in message.get("tool_calls") or ()
        if (found := _ARGUMENT.search(call["function"]["arguments"]))
    }
    for message in messages:
        about = asked.get(message.get("tool_call_id", ""))
        seeds = {int(seed) for seed in _SEEN.findall(words_of(message))}
        if message["role"] == "tool" and about is not None and seeds:
            yield about, seeds


def well_formed(messages: Sequence[Mapping[str, Any]]) -> None:
    """Every call is answered once, right behind the message that makes it, and nothing else is answered."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in waiting, f"a result that nobody waits for: {message}"
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting, f"calls without a result: {waiting}"
        waiting = [call["id"] for call in message.get("tool_calls") or ()]
        assert len(set(waiting)) == len(waiting), waiting
    assert not waiting, f"calls without a result: {waiting}"


class Watched(Inside):
    """An application whose eyes say what they see, and whose brain and eyes tell a witness."""

    def __init__(self, store: Store, seen: Witness, **options: Any) -> None:
        super().__init__(store, **options)
        self._seen = seen

    async def _upstream(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return await super()._upstream(request)
        asked = Asked(request.method, request.url.path, dict(request.headers), await request.aread())
        if request.url.host != "eyes.test":
            self._seen.prompts.append(asked.json)
            return await super()._upstream(request)
        self._seen.looks.append(Look(asked))
        await self._seen.may_look.wait()
        message = {"role": "assistant", "content": seen_in(asked)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx.Response(200, json={"model": "eyes", "choices": [choice], "usage": USAGE})
