"""Asks: one stream with the time of every event, and waves of many that are due at the same moment."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Final

import aiohttp
import httpx
import orjson

from router.bench.figures import Measured, Stream
from router.bench.plan import Side, Wave
from router.bench.purse import Purse, Spent
from router.doctor.budget import counted
from router.doctor.words import cleaned, error_words
from router.http_client import BROKEN
from router.protocol.chat.reader import ChunkReader
from router.protocol.parts import ErrorFrame, Finish, Part, Reasoning, Text, Usage

_LEAD_SECONDS: Final = 0.02
"""Between the making of a wave and the moment at which it is due, so that every stream waits for it."""

_LAG_SECONDS: Final = 0.01
"""How often the client looks whether it is late itself."""

_WISHES: Final = ("ignore_eos", "temperature", "stream_options", "max_tokens")
"""Fields that the figures can do without: answers then differ in length, and so do their words."""

_UNKNOWN_FIELD: Final = re.compile(
    r"unexpected field|extra (inputs|fields)|unknown (field|parameter|name)|not permitted|unrecognized", re.I
)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds."""

    first_event: float = 300.0
    silence: float = 60.0


@dataclass(slots=True)
class Target:
    """A server of Chat Completions.  `key` may be empty."""

    side: Side
    base_url: str
    model: str
    key: str
    patience: Patience = field(default_factory=Patience)
    secrets: tuple[str, ...] = ()
    """What must not be shown besides the key."""
    left_out: frozenset[str] = frozenset()
    """Fields that it refused."""

    @property
    def headers(self) -> dict[str, str]:
        key = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return {"accept-encoding": "identity", **key}

    def request(
        self, messages: Sequence[Mapping[str, Any]], max_tokens: int, *, to_the_end: bool = True
    ) -> dict[str, Any]:
        """`to_the_end`: the answer shall have `max_tokens`, whatever the model thinks of that."""
        wished = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"ignore_eos": True} if to_the_end else {}),
        }
        if "max_tokens" in self.left_out:
            wished["max_completion_tokens"] = max_tokens
        return {name: value for name, value in wished.items() if name not in self.left_out}


@dataclass(slots=True)
class Answer:
    """What one request brought back.  Times in seconds since it was due."""

    due: float
    """Of `time.monotonic`."""
    status: int = 0
    """0: none came."""
    why: str = ""
    """In a few words, why there is no whole answer; empty: there is."""
    arrivals: list[float] = field(default_factory=list)
    """Of the events with text or reasoning."""
    ended: float = 0.0
    text: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    finish: str = ""

    def count(self, name: str) -> int:
        return _integer(self.usage, name)

    @property
    def ours(self) -> Mapping[str, Any]:
        """`usage.chiasm`."""
        value = self.usage.get("chiasm")
        return value if isinstance(value, Mapping) else {}

    @property
    def cached_tokens(self) -> int | None:
        details = self.usage.get("prompt_tokens_details")
        told = details.get("cached_tokens") if isinstance(details, Mapping) else None
        return told if isinstance(told, int) else None

    @property
    def stream(self) -> Stream:
        """Raises `ValueError` where it did not come whole."""
        if self.why or not self.arrivals:
            raise ValueError(self.why or "no words came")
        return Stream(
            tuple(self.arrivals),
            self.ended,
            self.count("completion_tokens"),
            self.count("prompt_tokens"),
            self.cached_tokens,
        )


async def ask(
    client: httpx.AsyncClient,
    target: Target,
    request: Mapping[str, Any],
    purse: Purse,
    worst: int,
    *,
    due: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Post `request` at the moment `due` (now if `None`) and read to the end.

    `worst`: the tokens that it can cost.  Never raises for what a server does; raises `Spent` before it asks.  Where a
    connection that was kept open breaks before the answer begins, it is asked once more, as clients do.
    """
    due = time.monotonic() if due is None else due
    await asyncio.sleep(max(0.0, due - time.monotonic()))
    answer, retry = await _asked(client, target, request, purse, worst, due, headers or {})
    if retry and purse.has(1, worst):
        answer, _ = await _asked(client, target, request, purse, worst, due, headers or {})
    return answer


async def _asked(
    client: httpx.AsyncClient,
    target: Target,
    request: Mapping[str, Any],
    purse: Purse,
    worst: int,
    due: float,
    headers: Mapping[str, str],
) -> tuple[Answer, bool]:
    answer = Answer(due)
    with purse.lend(worst) as loan:
        retry = await _listen(client, target, request, headers, answer)
        answer.ended = time.monotonic() - due
        came_to_nothing = not answer.arrivals and (answer.status == 0 or answer.status >= 400)
        loan.cost = 0 if came_to_nothing else counted(answer.usage)
    return answer, retry


async def ask_courteously(
    client: httpx.AsyncClient, target: Target, prompt: str, max_tokens: int, purse: Purse, worst: int
) -> Answer:
    """A first request, from which `target` learns what to leave out."""
    while True:
        request = target.request([{"role": "user", "content": prompt}], max_tokens)
        answer = await ask(client, target, request, purse, worst)
        refused = _refused(answer, request)
        if not refused:
            return answer
        target.left_out |= refused


async def run_wave(
    client: httpx.AsyncClient,
    target: Target,
    wave: Wave,
    prompts: Sequence[str],
    max_tokens: int,
    purse: Purse,
    worst: int,
) -> Measured:
    """All streams at once; over when all of them are.  `worst`: of each.  Raises `Spent` before any begins."""
    if not purse.has(len(prompts), worst):
        raise Spent
    requests = [target.request([{"role": "user", "content": prompt}], max_tokens) for prompt in prompts]
    due = time.monotonic() + _LEAD_SECONDS
    lateness = _Lateness()
    watch = asyncio.create_task(lateness.watch())
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(client, target, request, purse, worst, due=due)) for request in requests]
    finally:
        watch.cancel()
    answers = [task.result() for task in tasks]
    good = tuple(answer.stream for answer in answers if not answer.why and answer.arrivals)
    bad = tuple(answer.why or "no words came" for answer in answers if answer.why or not answer.arrivals)
    return Measured(wave.streams, wave.round, wave.side, good, bad, lateness.worst)


class _Lateness:
    """How much later than it should a task of this client's loop runs: by so much may its times be wrong."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def watch(self) -> None:
        while True:
            wanted = time.monotonic() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            self.worst = max(self.worst, time.monotonic() - wanted)


async def _listen(
    client: httpx.AsyncClient,
    target: Target,
    request: Mapping[str, Any],
    headers: Mapping[str, str],
    answer: Answer,
) -> bool:
    """Fill `answer`; whether it is worth asking once more."""
    reader = ChunkReader(_mint)
    sent = {**target.headers, "content-type": "application/json", **headers}
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(target.patience.first_event) as patience:
            url = f"{target.base_url}/chat/completions"
            async with client.stream("POST", url, content=orjson.dumps(request), headers=sent) as response:
                answer.status = response.status_code
                if response.status_code >= 400:
                    answer.why = f"HTTP {response.status_code}: {_words(await response.aread(), target)}"
                    return False
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    answer.why = "the answer is not a stream"
                    return False
                assert isinstance(response.stream, httpx.AsyncByteStream)
                # As the network cut it: `aiter_raw` may join pieces, and when each came is what is asked.
                async for data in response.stream:
                    now = time.monotonic() - answer.due
                    for part in reader.feed(data):
                        _take(part, now, answer, target)
                    if answer.arrivals:
                        patience.reschedule(loop.time() + target.patience.silence)
        for part in reader.close():
            _take(part, time.monotonic() - answer.due, answer, target)
    except TimeoutError:
        answer.why = "the answer stopped in its middle" if answer.arrivals else "no word came in time"
    except BROKEN as error:
        # To the transport, what breaks before the answer is a ConnectError, too; the cause tells them apart.
        gone = isinstance(error.__cause__, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        answer.why = "nobody answers there" if gone else "the connection broke"
        return not gone and answer.status == 0
    return False


def _take(part: Part, now: float, answer: Answer, target: Target) -> None:
    match part:
        case Text(text):
            answer.text += text
            answer.arrivals.append(now)
        case Reasoning():
            answer.arrivals.append(now)
        case Usage(values):
            answer.usage = values
        case Finish(reason):
            answer.finish = reason
        case ErrorFrame(message):
            answer.why = answer.why or f"an error in the stream: {cleaned(message, (target.key, *target.secrets))}"


def _refused(answer: Answer, sent: Mapping[str, Any]) -> frozenset[str]:
    if answer.status not in (400, 422):
        return frozenset()
    there = [name for name in _WISHES if name in sent]
    named = frozenset(name for name in there if re.search(rf"\b{name}\b", answer.why))
    if named:
        return named
    return frozenset(set(there) - {"max_tokens"}) if _UNKNOWN_FIELD.search(answer.why) else frozenset()


def _words(body: bytes, target: Target) -> str:
    return cleaned(error_words(body), (target.key, *target.secrets))


def _integer(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _mint() -> str:
    return f"call_{token_hex(12)}"
