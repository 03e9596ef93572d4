"""Eyes behind an OpenAI-compatible server: one question, one completion, not streamed.

The request is one user message, pictures first and the text last, because that is the order vision models are trained
on and the one that lets a server's prefix cache keep the pictures when only the question changes.  Its body is put
together from bytes: a picture is encoded once, in a thread, and never passes through a JSON encoder.

Everything that can go wrong on the way ends in a `VisionError` with a sentence for the brain; nothing of the server's
address, its key or the picture gets into it.  Four things are tried a second time, all within the one time limit:

* a connection that failed, a 5xx and a 429: once, after a short pause; a look changes nothing, so asking again is safe;
* a refused field: without it, and it is left out from then on.  `transformers serve` answers 422 to fields it does not
  know, hosted models 400 to values they do not take;
* an answer that is empty, because all of it was spent on thinking: once, with thinking off and a larger budget;
* a model id that was asked from the server and is no longer known there: asked anew by the next look.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
import httpx
import orjson
import pybase64

from cache.image import DEFAULT_LIMITS, ImageLimits
from cache.pixels.pool import Pixels
from tools.places import LineTooLong, Places
from tools.vision.backend import VisionAnswer, VisionBusy, VisionError, VisionImage, VisionQuery
from tools.vision.question import SYSTEM, Shown, notes_for_brain, question
from tools.vision.reply import Reply, read_reply
from tools.vision.sandboxed import prepared
from tools.vision.server_words import complaint, server_words
from tools.vision.turns import places_for

CONNECT_SECONDS = 5.0
"""A server that is up accepts at once, even when it is busy."""

READY_SECONDS = 5.0
"""`ready` answers a probe, which does not wait longer."""

PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 10.0
"""A server that asks for a longer pause is not waited for: the brain decides."""

MAX_REPLY_BYTES = 8 * 1024 * 1024
"""Far above any answer; keeps a broken server from filling the memory."""

SECOND_BUDGET = 4096
"""Least budget, in tokens, of a second attempt after an empty answer."""


@dataclass(frozen=True, slots=True)
class EyesProfile:
    """What one family of vision models wants, as data."""

    family: str
    max_pixels: int
    min_side: int
    side_multiple: int
    answering: Mapping[str, object]
    """Sampling when it is to answer at once."""
    thinking: Mapping[str, object]
    """Sampling when it may think first."""
    switch: Mapping[bool, Mapping[str, object]] = field(default_factory=dict)
    """Body fields that switch thinking on and off.  They are the server's more than the model's."""

    def fields(self, *, thinking: bool) -> dict[str, object]:
        """Of a request's body."""
        return {**(self.thinking if thinking else self.answering), **self.switch.get(thinking, {})}


OPENAI = EyesProfile(
    family="openai",
    # 4096 tokens of 32x32: what Qwen reads well, llama.cpp's cap, and above what hosted models look at.
    max_pixels=4096 * 32 * 32,
    # Several preprocessors fail below 28 or 32; none minds an enlarged icon.
    min_side=32,
    side_multiple=1,
    # Reading, not writing: the same picture should give the same words.
    answering={"temperature": 0.2},
    thinking={"temperature": 0.2},
)

_Budget = Literal["max_tokens", "max_completion_tokens"]


@dataclass(frozen=True, slots=True)
class _Picture:
    part: bytes
    shown: Shown


class _Refused(Exception):
    """An HTTP status that is not an answer."""

    def __init__(self, status: int, payload: bytes, pause: float | None) -> None:
        super().__init__(status)
        self.status = status
        self.payload = payload
        self.pause = pause
        """Seconds the server asked to wait."""


class OpenAIEyes:
    """A `VisionBackend` over Chat Completions.

    `client` is lent: its owner closes it.  `base_url` ends in `/v1`; without a `model`, the first that the server lists
    is taken, asked on first use.  Limits: `max_tokens` per answer, `max_concurrency` looks at once, given to `askers`
    in turn, and `timeout_seconds` for a look in all, waiting for a place included.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        base_url: str,
        *,
        name: str,
        model: str | None = None,
        api_key: str = "",
        thinking: bool = False,
        max_tokens: int = 2048,
        max_concurrency: int = 8,
        timeout_seconds: float = 120.0,
        limits: ImageLimits = DEFAULT_LIMITS,
        profile: EyesProfile = OPENAI,
        askers: int = 1,
        pixels: Pixels | None = None,
    ) -> None:
        self.name = name
        self._client = client
        self._base_url = base_url.rstrip("/")
        self._model = model
        self._listed: str | None = None
        self._api_key = api_key
        self._thinking = thinking
        self._max_tokens = max_tokens
        self._places = places_for(max_concurrency, askers)
        self._timeout = timeout_seconds
        self._limits = limits
        self._profile = profile
        self._pixels = pixels or Pixels(limits)
        self._own_pixels = pixels is None
        self._refused_fields: frozenset[str] = frozenset()
        self._budget: _Budget = "max_tokens"
        # They wait for the workers that decode, strip what needs no decoding, and encode base64.
        self._threads = ThreadPoolExecutor(self._pixels.size, thread_name_prefix=f"eyes-{name}")
        # Where there are several askers, pictures that take their whole time never hold all of them.
        self._preparing = Places(self._pixels.size, each=max(1, self._pixels.size - (askers > 1)))

    def __repr__(self) -> str:
        model = self._model or self._listed or "first listed"
        return f"<{type(self).__name__} {self.name!r}, {self._profile.family}, model {model!r}>"

    async def look(self, query: VisionQuery) -> VisionAnswer:
        """Answer `query`.  Raises `VisionError` only; a cancelled look closes its connection and frees its place."""
        placed = False
        try:
            async with asyncio.timeout(self._timeout), self._places.of(query.asker):
                placed = True
                return await self._answer(query)
        except VisionError:
            raise
        except LineTooLong:
            raise VisionBusy from None
        except TimeoutError as error:
            what = "did not answer" if placed else "was busy and had no place free"
            raise VisionError(f"The vision model {what} within {self._timeout:g} s.", retryable=True) from error
        except Exception as error:
            # The last resort that makes the promise above true; its text could hold anything, its type cannot.
            raise VisionError(f"Looking failed unexpectedly ({type(error).__name__}).", retryable=False) from error

    async def identity(self) -> str:
        """Name, model, and what is asked of it.  Where a server stands and what it charges for changes no answer."""
        try:
            async with asyncio.timeout(min(READY_SECONDS, self._timeout)):
                model = self._model or self._listed or await self._first_listed()
        except VisionError:
            raise
        except Exception as error:
            raise VisionError(f"The vision model is not known ({type(error).__name__}).", retryable=True) from error
        profile = self._profile
        seen = [profile.max_pixels, profile.min_side, profile.side_multiple]
        # Thoughts that used up the budget are followed by an answer without them, so both modes count where one thinks.
        modes = [profile.fields(thinking=False), profile.fields(thinking=True) if self._thinking else None]
        told = [profile.family, self.name, model, self._thinking, self._max_tokens, seen, modes]
        return json.dumps(told, sort_keys=True)

    async def ready(self) -> str | None:
        """`None` when the server answers and has a model, else why not.  Asks for the list of models only."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                listed = await self._list_models()
        except _Refused as refused:
            if refused.status in {401, 403}:
                return f"the vision server refuses the key (HTTP {refused.status})"
            # Servers without such a list, or with a broken one (`transformers serve` without a model cache: 500), work
            # nevertheless; 502 to 504 come from a gateway in front of nothing, or while the model loads.
            if self._model is not None and refused.status not in {502, 503, 504}:
                return None
            words = self._words(refused.payload)
            return f"the vision server answers HTTP {refused.status}{f': {words}' if words else ''}"
        except TimeoutError:
            return f"the vision server did not answer within {READY_SECONDS:g} s"
        except VisionError as error:
            return str(error)
        except Exception as error:
            return f"the vision server cannot be asked ({type(error).__name__})"
        return None if listed or self._model else "the vision server lists no models"

    async def close(self) -> None:
        """End the threads; the client, and workers that were given, belong to who made them."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._own_pixels:
            await asyncio.to_thread(self._pixels.close)

    async def _answer(self, query: VisionQuery) -> VisionAnswer:
        # One after the other, so that a cancelled look leaves at most one picture in work.
        pictures = [await self._prepared(image, query.asker) for image in query.images]
        shown = [picture.shown for picture in pictures]
        parts = [*(picture.part for picture in pictures), _json({"type": "text", "text": question(query, shown)})]
        model = self._model or self._listed or await self._first_listed()
        reply = await self._complete(model, parts, thinking=self._thinking, budget=self._max_tokens)
        usage = reply.usage
        if not reply.text and not reply.refusal:
            larger = max(2 * self._max_tokens, SECOND_BUDGET)
            reply = await self._complete(model, parts, thinking=False, budget=larger)
            usage += reply.usage
        if not reply.text:
            raise _nothing_said(reply)
        whole = reply.ended and not reply.refusal
        return VisionAnswer(_with_notes(reply, notes_for_brain(shown)), usage, whole)

    async def _prepared(self, image: VisionImage, asker: str) -> _Picture:
        try:
            async with self._preparing.of(asker):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._prepare, image, asker)
        except VisionError as error:
            raise VisionError(f"[Image #{image.number}]: {error}", retryable=error.retryable) from error

    def _prepare(self, image: VisionImage, asker: str) -> _Picture:
        ready = prepared(
            self._pixels,
            image.data,
            image.region,
            max_pixels=self._profile.max_pixels,
            min_side=self._profile.min_side,
            side_multiple=self._profile.side_multiple,
            limits=self._limits,
            tenant=asker,
        )
        url = b"data:" + ready.media_type.encode() + b";base64," + pybase64.b64encode(ready.data)
        part = b'{"type":"image_url","image_url":{"url":"' + url + b'"}}'
        return _Picture(part, Shown(image.number, ready.width, ready.height, ready.note))

    async def _complete(self, model: str, parts: list[bytes], *, thinking: bool, budget: int) -> Reply:
        wanted = self._profile.fields(thinking=thinking)
        without, limit = self._refused_fields, self._budget
        while True:
            fields = {key: value for key, value in wanted.items() if key not in without}
            body = _body(model, parts, {limit: budget, **fields})
            try:
                payload, media_type = await self._send("POST", "/chat/completions", body)
            except _Refused as refused:
                if _wants_other_budget(refused, limit):
                    limit = "max_completion_tokens"
                    continue
                if named := _named(refused, fields):
                    without |= named
                    continue
                if refused.status == 404:
                    self._listed = None
                raise self._failure(refused) from refused
            # Kept for all only now that it has helped: words of a refusal may repeat what one asker wrote.
            self._refused_fields |= without
            self._budget = limit
            reply = read_reply(payload, media_type)
            if reply is None:
                words = self._words(payload)
                raise VisionError(f"The vision model sent no answer{f': {words}' if words else '.'}", retryable=True)
            return reply

    async def _first_listed(self) -> str:
        try:
            listed = await self._list_models()
        except _Refused as refused:
            raise self._failure(refused) from refused
        if listed is None:
            raise VisionError("The vision server lists no models; one has to be configured.", retryable=False)
        self._listed = listed
        return listed

    async def _list_models(self) -> str | None:
        payload, _ = await self._send("GET", "/models", None)
        try:
            body = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise VisionError("The vision server's list of models is not JSON.", retryable=True) from error
        entries = body.get("data") if isinstance(body, dict) else None
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]:
                return str(entry["id"])
        return None

    async def _send(self, method: str, path: str, body: bytes | None) -> tuple[bytes, str]:
        """The body and media type of a 200.  Raises `_Refused` for another status, `VisionError` for none."""
        second = False
        while True:
            pause: float | None
            try:
                return await self._exchange(method, path, body)
            except _Refused as refused:
                pause = PAUSE_SECONDS if refused.pause is None else refused.pause
                again = refused.status == 429 or refused.status >= 500
                if second or not again or pause > MAX_PAUSE_SECONDS:
                    raise
            except (httpx.TransportError, aiohttp.ClientError) as error:  # the transport has no name for garbage
                # A silent server has used up its time; a failed or dropped connection may have been a stale one.
                if second or isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
                    raise _unreached(error) from error
                pause = PAUSE_SECONDS
            second = True
            await asyncio.sleep(pause)

    async def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[bytes, str]:
        headers = {"accept": "application/json"}
        if body is not None:
            headers["content-type"] = "application/json"
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        async with self._client.stream(
            method,
            self._base_url + path,
            content=body,
            headers=headers,
            timeout=httpx.Timeout(self._timeout, connect=CONNECT_SECONDS),
        ) as response:
            payload = bytearray()
            async for piece in response.aiter_bytes():
                payload += piece
                if len(payload) > MAX_REPLY_BYTES:
                    raise VisionError("The vision model's answer is too long to be one.", retryable=False)
            if response.status_code != 200:
                raise _Refused(response.status_code, bytes(payload), _pause(response.headers.get("retry-after")))
            return bytes(payload), response.headers.get("content-type", "").partition(";")[0].strip().lower()

    def _failure(self, refused: _Refused) -> VisionError:
        words = self._words(refused.payload)
        said = f": {words}" if words else "."
        return VisionError(
            f"The vision server answered HTTP {refused.status}{said}",
            retryable=refused.status in {404, 408, 409, 429} or refused.status >= 500,
        )

    def _words(self, payload: bytes) -> str:
        url = httpx.URL(self._base_url)
        # A bare name such as "vision" is a common word first, and tells nothing.
        hosts = [host for host in (url.netloc.decode("ascii"), url.host) if "." in host or ":" in host]
        return server_words(payload, secrets=(self._api_key, *hosts))


_UNKNOWN_FIELD = re.compile(
    r"(?i)(?:unexpected|unknown|unrecogni[sz]ed|unsupported|extra|additional)[\s_]+(?:\w+\s+){0,2}?"
    r"(?:field|parameter|argument|input|key|propert|forbidden)"
)
_WANTS_OTHER_BUDGET = re.compile(r"(?i)\buse\W+max_completion_tokens")
_REFUSING = frozenset({400, 422})


def _wants_other_budget(refused: _Refused, limit: _Budget) -> bool:
    wants = refused.status in _REFUSING and _WANTS_OTHER_BUDGET.search(complaint(refused.payload)) is not None
    return wants and limit == "max_tokens"


def _named(refused: _Refused, fields: Mapping[str, object]) -> frozenset[str]:
    """Which of these fields the refusal names, and so can be left out.  Each time at least one fewer is sent, so asking
    again ends."""
    if refused.status not in _REFUSING:
        return frozenset()
    words = complaint(refused.payload)
    named = frozenset(name for name in fields if re.search(rf"(?i)\b{name}\b", words))
    return named or frozenset(fields if _UNKNOWN_FIELD.search(words) else ())


def _json(value: object) -> bytes:
    return orjson.dumps(value)


def _body(model: str, parts: list[bytes], fields: Mapping[str, object]) -> bytes:
    head = _json({"model": model, "stream": False, **fields})
    system = _json({"role": "system", "content": SYSTEM})
    return b"".join([head[:-1], b',"messages":[', system, b',{"role":"user","content":[', b",".join(parts), b"]}]}"])


def _pause(header: str | None) -> float | None:
    try:
        seconds = float(header) if header is not None else None
    except ValueError:
        # A date: whoever sends one means longer than we wait anyway, but the usual pause is tried.
        return None
    return seconds if seconds is not None and seconds >= 0 else None


def _unreached(error: Exception) -> VisionError:
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
        return VisionError("The vision model took too long to answer.", retryable=True)
    # One sentence for all the rest: the aiohttp transport reports a refused and a dropped connection alike.
    return VisionError("The connection to the vision model failed: its server is down or dropped it.", retryable=True)


def _nothing_said(reply: Reply) -> VisionError:
    if reply.refusal:
        return VisionError(f"The vision model declined: {server_words(_json(reply.refusal))}", retryable=False)
    if reply.cut:
        return VisionError(
            "The vision model used up its whole budget twice without a word of answer (it only thought). "
            "Ask for less at once.",
            retryable=False,
        )
    return VisionError("The vision model gave an empty answer twice.", retryable=True)


def _with_notes(reply: Reply, notes: list[str]) -> str:
    if reply.looped:
        notes = [*notes, "the answer began to repeat itself and was cut there"]
    elif reply.cut:
        notes = [*notes, "the answer was cut off at its token limit"]
    return f"{reply.text}\n\n(Note: {'; '.join(notes)}.)" if notes else reply.text
