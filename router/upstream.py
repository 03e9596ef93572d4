"""Asks a brain for one completion; the only place on its side that knows HTTP."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from cache.breaker import Breaker
from router.errors import UpstreamBroken, UpstreamError, UpstreamRefused
from router.http_client import BROKEN
from router.protocol.added import added_to, as_sent
from router.protocol.profiles import PROFILES, recognise_answer
from router.protocol.refusals import REFUSING, complaint, refused_fields, refused_in_messages

_MOST_ERROR_BYTES = 64 * 1024
"""An error body beyond this is a web page, not an explanation."""

_ERROR_BODY_SECONDS = 10.0
_MODELS_SECONDS = 10.0

_THERE_SECONDS = 2.0
"""For a server that broke several times to show that it is there at all: whoever asked last waits for that."""

_MOST_LISTING_BYTES = 8 * 2**20
"""The longest lists of models, those of gateways with hundreds of them and a page about each, have one megabyte."""

_PIECE = 256 * 1024
"""Large bodies are handed to the socket in pieces, so that writing 80 MB does not stop the loop."""

_WHOLE = 16 * 1024
"""Up to here a body leaves in one write with its head, and stays in memory as long as its answer."""

_COURTESY_OVER: tuple[type[Exception], ...] = (TimeoutError, *BROKEN)

_AT_ROOT = frozenset({"/tokenize", "/detokenize"})
"""Paths that servers have beside their `/v1` and not under it."""

_KEY_HEADERS = dict.fromkeys(("/messages", "/messages/count_tokens"), "x-api-key")
"""Where Anthropic's own key header is read; servers that also know other formats want `authorization` all the same."""

_BROKEN_LIST = frozenset({405, 500, 501})
"""How a server answers that has no list of models, or a broken one: `transformers serve` says 500 as long as the
machine has no model cache.  It works for whoever knows the model's id.  Not 404, which most often means a wrong base
URL, and not 502 to 504, which mean that nobody is there."""

_THOUGHTS = frozenset(name for profile in PROFILES.values() for name in profile.history_reasoning)
"""The fields in which thoughts go back to servers."""

UNREACHED = frozenset({"upstream_unreachable", "upstream_reset"})
"""Codes of errors that say that nobody has answered."""

_PLAIN_CODE = re.compile(r"[\w.-]{1,64}")
_LONG_BASE64 = re.compile(r"[A-Za-z0-9+/]{256,}={0,2}")


@dataclass(frozen=True, slots=True)
class Answer:
    """An upstream that has begun to answer with 2xx."""

    content_type: str
    headers: Mapping[str, str]
    chunks: AsyncIterable[bytes]
    """The body as the network cuts it."""
    status: int = 200


@dataclass(frozen=True, slots=True)
class Listing:
    """A server's answer to `GET /models`."""

    ids: list[str]
    owner: str
    """`owned_by` of the first."""
    server: str
    """The header of that name."""


class _Refused(Exception):
    """`said`: all that the server said of it; `error`: for the client."""

    def __init__(self, said: str, error: UpstreamError) -> None:
        super().__init__(said)
        self.said = said
        self.error = error


@dataclass(frozen=True, slots=True)
class _Without:
    """What a server seems not to take."""

    ours: frozenset[str]
    """Fields that we added."""
    thoughts: frozenset[str]
    """Fields of assistant messages."""

    def and_what(self, said: str, request: Mapping[str, Any]) -> _Without:
        """Also without what a refusal names."""
        thoughts = refused_in_messages(said, _thoughts_in(request), at_top=request.keys())
        return _Without(self.ours | refused_fields(said, added_to(request)), self.thoughts | thoughts)

    def leaves(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request as it leaves."""
        sent = as_sent(request, self.ours)
        if self.thoughts and not self.thoughts.isdisjoint(_thoughts_in(request)):
            sent["messages"] = [
                {name: value for name, value in message.items() if name not in self.thoughts}
                if _is_answer(message)
                else message
                for message in sent["messages"]
            ]
        return sent


class Upstream:
    """One server and the model on it, with what was learnt of it since the process began."""

    def __init__(self, client: httpx.AsyncClient, *, base_url: str, model: str | None, api_key: str) -> None:
        self._client = client
        self._base_url = base_url
        self._model = model
        self._api_key = api_key
        self._urls: dict[str, httpx.URL] = {}
        self._listing: Listing | None = None
        self.refused: frozenset[str] = frozenset()
        """Fields that we added to a request and that it does not take.  There are not many that we could add."""
        self.refused_thoughts: frozenset[str] = frozenset()
        """Fields of an assistant message in which it does not take thoughts back."""
        self.engine = "auto"
        """Which one it is by the signs of its answers."""
        self.breaker = Breaker(time.monotonic)
        self._looking = False

    @property
    def host(self) -> str:
        return httpx.URL(self._base_url).host

    def _url(self, path: str) -> httpx.URL:
        """Read once: there are as many paths as addresses of ours."""
        if path not in self._urls:
            self._urls[path] = httpx.URL(f"{self.root if path in _AT_ROOT else self._base_url}{path}")
        return self._urls[path]

    @property
    def root(self) -> str:
        """The server's, without the `/v1` at the end of its base URL."""
        return self._base_url.removesuffix("/v1")

    async def model(self) -> str:
        """The id that the server knows the model by: as configured, or the first that it lists."""
        if self._model is None:
            ids = (await self.listing()).ids
            if not ids:
                raise UpstreamBroken("the text model's server lists no model; set model in [[text]]")
            self._model = ids[0]
        return self._model

    @property
    def listed(self) -> Listing | None:
        """The last listing, if there was one."""
        return self._listing

    async def listing(self, *, fresh: bool = False) -> Listing:
        """What the server says of itself and its models; kept from the first time on unless `fresh`.

        A list of nothing is not kept: the server may have a better one later.  Nor is the one that stands for it where
        the server has no list at all and we know the model's id.  Raises `UpstreamError`.
        """
        if self._listing is not None and not fresh:
            return self._listing
        listing = await self._ask_for_models()
        if listing.ids:
            self._listing = listing
        return listing

    def heard(self, headers: Mapping[str, str], first: Mapping[str, Any]) -> None:
        """An answer came.  Until the server is known by one, each is looked at for what only one engine says."""
        if self.engine == "auto":
            self.engine = recognise_answer(headers, first)

    async def _ask_for_models(self) -> Listing:
        try:
            async with asyncio.timeout(_MODELS_SECONDS):
                url = f"{self._base_url}/models"
                async with self._client.stream("GET", url, headers=self._headers({})) as response:
                    content = await _listing_body(response)
        except TimeoutError:
            raise UpstreamBroken(
                "the text model's server did not answer when asked for its models; does it run?"
            ) from None
        except BROKEN as error:
            raise _unreachable(error) from None
        if self._model is not None and response.status_code in _BROKEN_LIST:
            return Listing([], "", response.headers.get("server", ""))
        if response.status_code >= 400:
            raise self._refusal(response.status_code, response.headers, content[:_MOST_ERROR_BYTES])
        try:
            rows = [row for row in orjson.loads(content)["data"] if isinstance(row["id"], str)]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise UpstreamBroken(
                "the text model's server answered something that is not a list of models; does base_url end in /v1?"
            ) from None
        owner = rows[0].get("owned_by") if rows else None
        server = response.headers.get("server", "")
        return Listing([row["id"] for row in rows], owner if isinstance(owner, str) else "", server)

    @asynccontextmanager
    async def complete(
        self, path: str, request: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncIterator[Answer]:
        """Post `request`, yield the answer once its headers are here, close the connection on the way out however that
        happens.

        A server that refuses something that we added, or thoughts in the history, is asked again without.  It gets them
        never again if that helped, and only then: its words may repeat what anybody wrote into a request.

        Raises `UpstreamRefused` for 4xx, `UpstreamBroken` otherwise; so does what breaks while `chunks` is read.
        """
        response = await self._answered(path, request, headers)
        try:
            kind = response.headers.get("content-type", "")
            yield Answer(kind, response.headers, _stream(response), response.status_code)
        except BROKEN:
            raise UpstreamBroken(
                "the connection to the text model's server broke in the middle of its answer; its own log says why",
                code="upstream_reset",
            ) from None
        finally:
            await response.aclose()

    async def _answered(self, path: str, request: Mapping[str, Any], headers: Mapping[str, str]) -> httpx.Response:
        """The server's answer, its body still to come."""
        without = _Without(self.refused, self.refused_thoughts)
        while True:
            try:
                response = await self._asked(path, without.leaves(request), headers)
            except _Refused as refusal:
                less = without.and_what(refusal.said, request)
                if less == without:
                    raise refusal.error from None
                without = less
            else:
                self.refused, self.refused_thoughts = (
                    self.refused | without.ours,
                    self.refused_thoughts | without.thoughts,
                )
                return response

    async def _asked(self, path: str, request: Mapping[str, Any], headers: Mapping[str, str]) -> httpx.Response:
        """Raises `_Refused` for a refusal that speaks of the request itself."""
        body = orjson.dumps({**request, "model": await self.model()})
        # Not by the client's `build_request`: it adds defaults that we replace, and the cookies of earlier answers.
        outgoing = httpx.Request(
            "POST",
            self._url(path),
            # Copied, because bytes of orjson hold 4 KiB at least, and more than they are, as long as they live.
            stream=httpx.ByteStream(bytes(bytearray(body))) if len(body) <= _WHOLE else _Pieces(body),
            headers=self._headers(headers, path)
            | {"content-type": "application/json", "content-length": str(len(body))},
            extensions={"timeout": self._client.timeout.as_dict()},
        )
        del body
        response = await self._send(outgoing)
        if response.status_code < 400:
            return response
        try:
            words = await _error_body(response)
        finally:
            await response.aclose()
        error = self._refusal(response.status_code, response.headers, words)
        if response.status_code in REFUSING:
            raise _Refused(complaint(words), error)
        raise error

    async def _send(self, outgoing: httpx.Request) -> httpx.Response:
        """Past the breaker, which learns from it: a server that cannot be had, or says itself that it is not there."""
        wait = self.breaker.wait()
        if wait is not None:
            raise UpstreamBroken(
                "the text model's server was out of reach several times in a row and is left alone for some seconds",
                status=503,
                code="upstream_unavailable",
                retry_after=math.ceil(wait),
            )
        try:
            response = await self._client.send(outgoing, stream=True)
        except BROKEN as error:
            await self._failed()
            raise _unreachable(error) from None
        except BaseException:
            self.breaker.given_up()
            raise
        if response.status_code in (502, 503, 504):
            await self._failed()
        else:  # a 500 may be the answer to one bad request (llama.cpp), and must not lock the others out
            self.breaker.succeeded()
        return response

    async def _failed(self) -> None:
        """A request that the server breaks on, one that is too large for a gateway perhaps, must not lock all others
        out: a server that is still there for a smaller question is not left alone."""
        if not self.breaker.on_the_brink:
            self.breaker.failed()
            return
        if self._looking:  # another one is finding out
            self.breaker.given_up()
            return
        self._looking, there = True, False
        try:
            there = await self._is_there()
        finally:
            self._looking = False
            if there:
                self.breaker.succeeded()
            else:
                self.breaker.failed()

    async def _is_there(self) -> bool:
        try:
            async with asyncio.timeout(_THERE_SECONDS):
                await self._ask_for_models()
        except UpstreamRefused:
            return True
        except (UpstreamError, TimeoutError):
            return False
        return True

    def _headers(self, extra: Mapping[str, str], path: str = "") -> dict[str, str]:
        headers = {"accept-encoding": "identity", **extra}
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
            if path in _KEY_HEADERS:
                headers[_KEY_HEADERS[path]] = self._api_key
        return headers

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        words = (
            _words(self._redacted(body.decode("utf-8", "replace")).encode())
            or f"the text model's server answered with status {status} and no words"
        )
        retry_after = headers.get("retry-after", "")
        wait = float(retry_after) if re.fullmatch(r"\d{1,6}(\.\d+)?", retry_after) else None
        if status >= 500:
            # Anthropic's "overloaded"; by its name in the body clients count these, and soon give up or go elsewhere.
            return UpstreamBroken(words, code="529" if status == 529 else None, retry_after=wait)
        return UpstreamRefused(words, status=status, code=_code(body), retry_after=wait)

    def redacted(self, error: UpstreamError) -> UpstreamError:
        """The error without our key and without picture data, in words and code, wherever the server said it."""
        code = error.code if error.code and _PLAIN_CODE.fullmatch(self._redacted(error.code)) else type(error).code
        clean = type(error)(self._redacted(error.message), status=error.status, retry_after=error.retry_after)
        clean.code = code
        return clean

    def _redacted(self, text: str) -> str:
        """Before anything is cut off, or half a key remains."""
        for key in {self._api_key, orjson.dumps(self._api_key).decode()[1:-1]} - {""}:
            text = text.replace(key, "[key]")
        return _LONG_BASE64.sub("[data]", text)


class _Pieces(httpx.AsyncByteStream):
    """A body that is let go of when it was sent: the request lives as long as its answer, which may be minutes."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body, self._body = self._body, b""
        for start in range(0, len(body), _PIECE):
            yield body[start : start + _PIECE]


def _stream(response: httpx.Response) -> httpx.AsyncByteStream:
    """The stream itself rather than `aiter_raw()`, which is two more generators around each chunk."""
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    return stream


async def _listing_body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in _stream(response):  # as it came: what we did not ask to be packed is not unpacked
        body += chunk
        if len(body) > _MOST_LISTING_BYTES:
            raise UpstreamBroken(
                f"the text model's server lists its models in more than {_MOST_LISTING_BYTES // 2**20} MiB"
            )
    return bytes(body)


async def _error_body(response: httpx.Response) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_ERROR_BODY_SECONDS):
            async for chunk in _stream(response):
                body += chunk
                if len(body) >= _MOST_ERROR_BYTES:
                    break
    except _COURTESY_OVER:
        pass  # its status is known; the words are a courtesy
    return bytes(body[:_MOST_ERROR_BYTES])


def _unreachable(error: Exception) -> UpstreamBroken:
    # The transport reports a connection closed before any answer as a connect time-out, too.
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return UpstreamBroken(
            "the text model's server cannot be reached or closed the connection: it may not run, or still load its "
            "model, or base_url is wrong (`chiasm doctor` tells)",
            code="upstream_unreachable",
        )
    return UpstreamBroken(
        "the connection to the text model's server broke before it answered; its own log says why",
        code="upstream_reset",
    )


def _words(body: bytes) -> str:
    """A server's own words: `{"error": {"message"}}`, `{"error": "…"}`, `{"detail": …}`, `{"message"}`, plain text."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body.decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else text[:2000]
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(key):
            value = value[key]
    if isinstance(value, str):
        return value[:8000]
    return orjson.dumps(value).decode()[:2000] if value else ""


def _code(body: bytes) -> str | None:
    try:
        error = orjson.loads(body)["error"]
        code = error.get("code") or error.get("type")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    return str(code) if isinstance(code, str | int) else None


def _is_answer(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "assistant"


def _thoughts_in(request: Mapping[str, Any]) -> frozenset[str]:
    """The fields in which assistant messages of the request hold thoughts."""
    messages = request.get("messages")
    answers = filter(_is_answer, messages if isinstance(messages, list) else ())
    return frozenset(name for message in answers for name in _THOUGHTS if name in message)
