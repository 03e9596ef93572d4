"""A brain that says its tokens at times of its own, and writes down when it did.

    async with PacedBrain(Pace(first=0.2, gap=0.02, events=20)) as brain:
        ...
        brain.records[0].rate        # tokens a second, by the server's clock, which is the client's too

Events leave on a schedule that is fixed when the request comes, so that one that is late does not move the others.

Run as a program it serves on a port of loopback until it is ended: `python -m tests.paced 8300`.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

from tests.brain import Asked, Brain, Wire, chunk, event, refuses, whole

TEMPLATE: Final = 9
"""Tokens that the chat template adds to a conversation."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds."""

    first: float = 0.15
    gap: float = 0.02
    events: int = 15
    tokens_per_event: int = 1
    thinks: int = 0
    """So many of the events are thoughts."""
    serial: bool = False
    """One request after the other."""
    usage: bool = True


@dataclass(slots=True)
class Record:
    """Of `time.monotonic`."""

    came: float
    tokens_per_event: int
    sent: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return (len(self.sent) - 1) * self.tokens_per_event / (self.sent[-1] - self.sent[0])


class PacedBrain(Brain):
    """`tokenizes`: counts conversations under /tokenize, each word `tokens_per_word` tokens."""

    def __init__(self, pace: Pace = Pace(), *, tokenizes: bool = True, tokens_per_word: int = 1) -> None:
        super().__init__()
        self.pace = pace
        self.records: list[Record] = []
        self.counted = 0
        self.refuses: tuple[str, ...] = ()
        """Fields that it answers with 400."""
        self._tokenizes = tokenizes
        self._tokens_per_word = tokens_per_word
        self._turn = asyncio.Lock()

    async def answer(self, asked: Asked, wire: Wire) -> None:
        if asked.path == "/tokenize" and self._tokenizes and "messages" in asked.json:
            self.counted += 1
            await whole({"count": self.tokens(asked), "max_model_len": 4096})(asked, wire)
        elif asked.path in ("/tokenize", "/apply-template"):
            await refuses(404, "not here")(asked, wire)
        else:
            await super().answer(asked, wire)

    def tokens(self, asked: Asked) -> int:
        return len(_words(asked).split()) * self._tokens_per_word + TEMPLATE

    def will_pace(self) -> None:
        """Every request from now on is answered at this pace."""
        self.answers = lambda asked: self._paced

    async def _paced(self, asked: Asked, wire: Wire) -> None:
        for name in self.refuses:
            if name in asked.json:
                await refuses(400, f"Unrecognized request argument supplied: {name}")(asked, wire)
                return
        record = Record(time.monotonic(), self.pace.tokens_per_event)
        self.records.append(record)
        if self.pace.serial:
            async with self._turn:
                await self._say(asked, wire, record)
        else:
            await self._say(asked, wire, record)

    async def _say(self, asked: Asked, wire: Wire, record: Record) -> None:
        pace, id_ = self.pace, f"chatcmpl-{len(self.records)}"
        await wire.head(200, {"content-type": "text/event-stream"})
        await wire.send(chunk(id_, {"role": "assistant", "content": ""}))
        begun = time.monotonic() + pace.first
        for number in range(pace.events):
            await asyncio.sleep(max(0.0, begun + number * pace.gap - time.monotonic()))
            said = f"w{number} " * pace.tokens_per_event
            record.sent.append(time.monotonic())
            await wire.send(chunk(id_, {"reasoning_content" if number < pace.thinks else "content": said}))
        await wire.send(chunk(id_, {}, finish="length"))
        if pace.usage:
            await wire.send(event(self._usage(asked, id_)))
        await wire.send(b"data: [DONE]\n\n")
        await wire.end()

    def _usage(self, asked: Asked, id_: str) -> dict[str, Any]:
        prompt, said = self.tokens(asked), self.pace.events * self.pace.tokens_per_event
        usage = {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}
        envelope = {"id": id_, "object": "chat.completion.chunk", "created": 1, "model": "brain-7b"}
        return {**envelope, "choices": [], "usage": usage}


def _words(asked: Asked) -> str:
    content = asked.json["messages"][-1]["content"]
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def hidden_word(asked: Asked, *, within: int = 10**9) -> str:
    """The code word in the first `within` words of the prompt; empty: there is none."""
    read = " ".join(_words(asked).split()[:within])
    found = re.search(r"code word of the lighthouse is (\w+)\.", read)
    return found[1] if found else ""


async def serve(port: int) -> None:
    """A first token after 0.3 s, then 50 a second, 100 in all."""
    brain = PacedBrain(Pace(first=0.3, gap=0.02, events=100))
    brain.port = port
    brain.will_pace()
    async with brain:
        print(f"a brain at its own pace: {brain.url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
