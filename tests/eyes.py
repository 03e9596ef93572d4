"""Scripted eyes: a vision server on loopback that says what it is told, when it is told, and remembers every look.

    async with Eyes() as eyes:
        eyes.will(sees("a cat"))
        ...
        assert eyes.looks[0].pictures == [png] or eyes.looks[0].task == "What is it?"

Without a script every look is answered with a sentence that names how many looks there were.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.brain import Asked, LoopbackServer, Script, Wire, whole


@dataclass(frozen=True, slots=True)
class Look:
    """One question, as the vision server got it."""

    asked: Asked

    @property
    def pictures(self) -> list[bytes]:
        urls = [part["image_url"]["url"] for part in self._parts() if part["type"] == "image_url"]
        return [base64.b64decode(url.partition(",")[2], validate=True) for url in urls]

    @property
    def words(self) -> str:
        return "\n".join(part["text"] for part in self._parts() if part["type"] == "text")

    def _parts(self) -> Iterator[dict[str, Any]]:
        for message in self.asked.messages:
            if isinstance(message["content"], list):
                yield from message["content"]


class Eyes(LoopbackServer):
    """`at_once` is the largest number of looks that ran side by side."""

    model = "eyes-2b"

    def __init__(self) -> None:
        super().__init__()
        self.answers = lambda asked: sees(f"What look {len(self.asked)} shows.")
        self.running = 0
        self.at_once = 0

    @property
    def looks(self) -> list[Look]:
        return [Look(asked) for asked in self.asked]

    async def answer(self, asked: Asked, wire: Wire) -> None:
        with self._counted(asked):
            await super().answer(asked, wire)

    @contextmanager
    def _counted(self, asked: Asked) -> Iterator[None]:
        if asked.method == "GET":
            yield
            return
        self.running += 1
        self.at_once = max(self.at_once, self.running)
        try:
            yield
        finally:
            self.running -= 1


def sees(text: str, *, after: asyncio.Event | float = 0, usage: tuple[int, int] = (50, 5)) -> Script:
    """An answer; `usage`: prompt and completion tokens."""

    async def script(asked: Asked, wire: Wire) -> None:
        if isinstance(after, asyncio.Event):
            await after.wait()
        else:
            await asyncio.sleep(after)
        body = {
            "id": "chatcmpl-eyes",
            "object": "chat.completion",
            "created": 1_790_000_000,
            "model": "eyes-2b",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)},
        }
        await whole(body)(asked, wire)

    return script
