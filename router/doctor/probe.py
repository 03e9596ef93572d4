"""Asks one server over HTTP and brings back what was heard.  Never raises but for the budget.

A field that is only a wish (`temperature`, `stream_options`) and that the server refuses by name is left out and the
request made once more, as Chiasm itself does.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Any

import httpx
import orjson

from router.doctor.budget import Budget, counted, estimated
from router.doctor.heard import Fault, Heard, HeardCall, Page
from router.doctor.words import cleaned, error_words
from router.http_client import BROKEN
from router.protocol.chat.reader import ChunkReader, CompletionReader
from router.protocol.parts import ErrorFrame, Finish, Part, Reasoning, Text, ToolArgs, ToolStart, Usage
from router.protocol.sse import EventTooLarge, SSEDecoder

_WISHES = (
    "temperature",
    "stream_options",
    "top_k",
    "min_p",
    "top_p",
    "presence_penalty",
    "max_tokens",
    "parallel_tool_calls",
)
_UNKNOWN_FIELD = re.compile(
    r"unexpected field|extra (inputs|fields)|unknown (field|parameter|name)|not permitted", re.I
)
_MOST_BYTES = 4 * 2**20
"""Of an answer; one within its token limit has a hundredth of it."""

_PICTURE_URL = re.compile(rb'"data:image/[^"]*"')


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds."""

    page: float = 10.0
    first_event: float = 120.0
    """Prefill of a few hundred tokens, and a queue perhaps."""
    silence: float = 60.0
    whole: float = 180.0


class Probe:
    """`client` is lent.  `secrets`: what must not be shown besides the key."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        base_url: str,
        api_key: str,
        budget: Budget,
        limits: Limits | None = None,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.base_url = base_url
        self._client = client
        self._api_key = api_key
        self._budget = budget
        self._limits = limits or Limits()
        self._secrets = (api_key, *secrets)

    async def page(self, url: str) -> Page:
        """GET an address on the server."""
        begun = time.monotonic()
        fault: Fault = "silent"
        try:
            async with asyncio.timeout(self._limits.page):
                async with self._client.stream("GET", url, headers=self._headers()) as response:
                    body = bytearray()
                    async for data in _raw(response):
                        body += data
                        if len(body) > _MOST_BYTES:
                            break
        except TimeoutError:
            return Page(fault=fault, seconds=time.monotonic() - begun)
        except BROKEN as error:
            words = self.cleaned(_reason(error))
            return Page(fault=_fault(error), words=words, seconds=time.monotonic() - begun)
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = None
        words = self.cleaned(error_words(bytes(body))) if response.status_code >= 400 else ""
        return Page(response.status_code, "", words, dict(response.headers), value, time.monotonic() - begun)

    async def chat(
        self, request: Mapping[str, Any], *, pictures: int = 0, more: int = 0, headers: Mapping[str, str] | None = None
    ) -> Heard:
        """Post `request`, whose `max_tokens` is its share of the budget beside its prompt.

        `pictures`: tokens that its pictures may take; `more`: what else it can set off behind the server.  Raises
        `OutOfBudget`.
        """
        left_out: frozenset[str] = frozenset()
        while True:
            body = {key: value for key, value in request.items() if key not in left_out}
            if "max_tokens" in left_out:
                body["max_completion_tokens"] = request["max_tokens"]
            heard = await self._asked(body, pictures=pictures, more=more, headers=headers or {})
            refused = _wishes_refused(heard, body)
            if not refused:
                return replace(heard, left_out=left_out)
            left_out |= refused

    def cleaned(self, text: str) -> str:
        return cleaned(text, self._secrets)

    async def _asked(
        self, request: Mapping[str, Any], *, pictures: int, more: int, headers: Mapping[str, str]
    ) -> Heard:
        content = orjson.dumps(request)
        text_bytes = len(_PICTURE_URL.sub(b"", content))
        worst = estimated(text_bytes) + pictures + more
        worst += int(request.get("max_tokens") or request.get("max_completion_tokens") or 0)
        self._budget.reserve(worst)
        listening = _Listening(streamed=bool(request.get("stream")), begun=time.monotonic())
        fault = await self._listen(content, headers, listening)
        heard = listening.heard(fault, self.cleaned)
        if heard.fault == "unreachable" or heard.status >= 400:
            return heard
        spent = counted(heard.usage)
        self._budget.charge(worst if spent is None else spent)
        return heard

    async def _listen(self, content: bytes, headers: Mapping[str, str], listening: _Listening) -> Fault:
        fault: Fault = "silent"
        try:
            async with asyncio.timeout(self._limits.first_event) as patience:
                end = asyncio.get_running_loop().time() + self._limits.whole
                url = f"{self.base_url}/chat/completions"
                sent = {**self._headers(), "content-type": "application/json", **headers}
                async with self._client.stream("POST", url, content=content, headers=sent) as response:
                    listening.head(response)
                    if response.headers.get("content-encoding", "identity") != "identity":
                        return "packed"
                    async for data in _raw(response):
                        listening.take(data)
                        if listening.size > _MOST_BYTES:
                            return "stalled"
                        if listening.arrivals:
                            fault = "stalled"
                            patience.reschedule(min(end, asyncio.get_running_loop().time() + self._limits.silence))
        except TimeoutError:
            return fault
        except BROKEN as error:
            return "broke" if listening.status else _fault(error)
        return ""

    def _headers(self) -> dict[str, str]:
        key = {"authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        # A connection each: llama.cpp says `keep-alive` and closes after a stream, which the next request would meet.
        return {"accept-encoding": "identity", "connection": "close", **key}


def _raw(response: httpx.Response) -> httpx.AsyncByteStream:
    """As the network cut it: `aiter_raw` may join pieces, and when each came is what is asked."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return response.stream


def _reason(error: Exception) -> str:
    """What the transport writes in brackets behind the address, which is known: `[Name or service not known]`."""
    found = re.search(r"\[(.+)\]", str(error))
    return found[1] if found else ""


def _fault(error: Exception) -> Fault:
    return "unreachable" if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else "broke"


def _wishes_refused(heard: Heard, sent: Mapping[str, Any]) -> frozenset[str]:
    if heard.status not in (400, 422):
        return frozenset()
    there = [name for name in _WISHES if name in sent]
    named = frozenset(name for name in there if re.search(rf"\b{name}\b", heard.words))
    if named:
        return named
    return frozenset(set(there) - {"max_tokens"}) if _UNKNOWN_FIELD.search(heard.words) else frozenset()


@dataclass(slots=True)
class _Listening:
    """An answer as it comes."""

    streamed: bool
    begun: float
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    size: int = 0
    arrivals: list[float] = field(default_factory=list)
    _body: bytearray = field(default_factory=bytearray)
    _parts: list[Part] = field(default_factory=list)
    _decoder: SSEDecoder = field(default_factory=SSEDecoder)
    _reader: ChunkReader | CompletionReader | None = None
    _shapes: list[Mapping[str, Any]] = field(default_factory=list)

    def head(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = dict(response.headers)
        is_stream = self.headers.get("content-type", "").startswith("text/event-stream")
        self._reader = ChunkReader(_mint) if is_stream else CompletionReader(_mint)

    def take(self, data: bytes) -> None:
        self.size += len(data)
        if self.status >= 400:
            self._body += data
            return
        assert self._reader is not None
        self._more(self._reader.feed(data))
        if isinstance(self._reader, ChunkReader):
            try:
                events = self._decoder.feed(data)
            except EventTooLarge:
                return
            for event in events:
                self._shape(event.data)

    def heard(self, fault: Fault, clean: Any) -> Heard:
        seconds = time.monotonic() - self.begun
        if self.status >= 400 or self._reader is None:
            return Heard(self.status, fault, clean(error_words(bytes(self._body))), self.headers, seconds=seconds)
        self._more(self._reader.close())
        if isinstance(self._reader, CompletionReader):
            self._shapes.append(self._reader.raw)
        starts = {part.slot: part for part in self._parts if isinstance(part, ToolStart)}
        said = dict.fromkeys(starts, "")
        for part in self._parts:
            if isinstance(part, ToolArgs):
                said[part.slot] += part.text
        errors = [part.message for part in self._parts if isinstance(part, ErrorFrame)]
        usages = [part.values for part in self._parts if isinstance(part, Usage)]
        return Heard(
            status=self.status,
            fault=fault,
            headers=self.headers,
            text="".join(part.text for part in self._parts if isinstance(part, Text)),
            reasoning="".join(part.text for part in self._parts if isinstance(part, Reasoning)),
            reasoning_fields=_reasoning_fields(self._shapes),
            calls=tuple(HeardCall(start.name, said[slot], start.id) for slot, start in starts.items()),
            finishes=tuple(part.reason for part in self._parts if isinstance(part, Finish)),
            usage=usages[-1] if usages else None,
            cached=_cached(usages[-1] if usages else {}, self._shapes),
            error=clean(errors[0]) if errors else "",
            done=self._reader.clean,
            arrivals=tuple(self.arrivals),
            seconds=seconds,
            first=self._shapes[0] if self._shapes else {},
            ids=frozenset(str(shape["id"]) for shape in self._shapes if shape.get("id")),
        )

    def _more(self, parts: Any) -> None:
        self._parts += parts
        now = time.monotonic() - self.begun
        self.arrivals += [now for part in parts if isinstance(part, Text | Reasoning | ToolStart | ToolArgs)]

    def _shape(self, data: bytes) -> None:
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        if isinstance(value, dict):
            self._shapes.append(value)


def _reasoning_fields(shapes: list[Mapping[str, Any]]) -> frozenset[str]:
    found: set[str] = set()
    for shape in shapes:
        choices = shape.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            said = (choice.get("delta") or choice.get("message")) if isinstance(choice, dict) else None
            if isinstance(said, dict):
                found |= {name for name in ("reasoning", "reasoning_content") if said.get(name)}
    return frozenset(found)


def _cached(usage: Mapping[str, Any], shapes: list[Mapping[str, Any]]) -> int | None:
    """`prompt_tokens_details.cached_tokens`, DeepSeek's `prompt_cache_hit_tokens`, llama.cpp's `timings.cache_n`."""
    details = usage.get("prompt_tokens_details")
    told = details.get("cached_tokens") if isinstance(details, Mapping) else usage.get("prompt_cache_hit_tokens")
    if isinstance(told, int):
        return told
    for shape in reversed(shapes):
        timings = shape.get("timings")
        if isinstance(timings, Mapping) and isinstance(timings.get("cache_n"), int):
            return int(timings["cache_n"])
    return None


def _mint() -> str:
    return f"call_{token_hex(12)}"
