"""What every address has in common: who asks, under which request id, and how errors look."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from router.bodies import Bodies, Body, Share
from router.config import is_loopback
from router.errors import (
    BadRequest,
    BodyEncoded,
    BodyTooLarge,
    BodyTooSlow,
    ChiasmError,
    Forbidden,
    NotAllowed,
    ShuttingDown,
    TooManyBodies,
    Unauthorized,
)
from router.intake.conversation import tenant_of
from router.log_lines import REQUEST_ID, Fields
from router.protocol.chat.writer import error_body
from router.response import GIVE_UP, ClientGone, Message, Receive, Send, send_json, start

log = logging.getLogger("chiasm")

LINGER_SECONDS = 2.0
"""For a client that still sends a body which is refused; it costs us reading, so it is not given for ever."""

BODY_PAUSE_SECONDS = 30.0
"""Silence allowed in the middle of a body."""

LEAST_BODY_RATE = 64 * 1024
"""Bytes a second, on average, that a body has to come with after its first `BODY_PAUSE_SECONDS`: half a megabit, what
the slowest lines in use can send.  The largest body that is allowed by default takes half an hour at that rate; whoever
sends less holds memory for nothing."""

_SHARE = "chiasm.body"
"""Where the scope holds this request's share of all bodies."""

_BODY_UNREAD = (BodyEncoded, BodyTooLarge, BodyTooSlow, TooManyBodies)
"""Refusals that come while the client may still be sending."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and under which id the request goes through logs and servers."""

    tenant: str
    request_id: str
    headers: Mapping[str, str]
    """Names in lower case."""


Endpoint = Callable[["Caller", Any, Receive, Send], Awaitable[None]]


class Door:
    """Wraps an endpoint into an ASGI application."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        methods: Sequence[str],
        api_keys: Sequence[str],
        bodies: Bodies,
        open_to_all: bool = False,
        error_body: Callable[[ChiasmError], dict[str, Any]] = error_body,
    ) -> None:
        """`error_body`: how errors look here."""
        self._endpoint = endpoint
        self._methods = frozenset(methods)
        self._api_keys = [key.encode() for key in api_keys]
        self._bodies = bodies
        self._open_to_all = open_to_all
        self._error_body = error_body

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        REQUEST_ID.set(request_id)  # of this task, and of those that it begins
        watched = _Watched(send)
        try:
            self._check_method(scope["method"])
            tenant = "" if self._open_to_all else self._tenant(headers)
            scope[_SHARE] = self._bodies.begin(tenant)
            await self._endpoint(Caller(tenant, request_id, headers), scope, receive, watched)
        except ClientGone:
            if (give_up := scope.get("extensions", {}).get(GIVE_UP)) is not None:
                give_up()  # what it did not read would keep the connection open
        except asyncio.CancelledError:
            # The server stops and the time to finish is over.  Not raised again: it would be logged as a fault.
            shutdown = ShuttingDown("this Chiasm is shutting down; send the request again", retry_after=1)
            await self._answer(scope, receive, watched, shutdown, request_id)
        except Exception as error:
            await self._answer(scope, receive, watched, told(error, request_id), request_id)
        finally:
            if (share := scope.pop(_SHARE, None)) is not None:
                share.give_back()

    async def _answer(self, scope: Any, receive: Receive, send: _Watched, error: ChiasmError, request_id: str) -> None:
        if send.started:
            return
        code = error.code or error.type
        log.info("refused %s", Fields(request_id=request_id, status=error.status, code=code))
        if (refused := scope.get("state", {}).get("refused")) is not None:
            refused(error.status)
        headers = {"x-request-id": request_id}
        if error.retry_after is not None:
            headers["retry-after"] = f"{error.retry_after:g}"
        if error.status == 504:
            headers["x-should-retry"] = "false"  # SDKs would ask twice more, each as slow as this
        if isinstance(error, NotAllowed):
            headers["allow"] = ", ".join(sorted(self._methods))
        body = orjson.dumps(self._error_body(error))
        if isinstance(error, _BODY_UNREAD):
            await _refuse_the_rest(receive, send, error.status, body, headers)
        else:
            await send_json(send, error.status, body, headers)

    def _check_method(self, method: str) -> None:
        if method not in self._methods:
            raise NotAllowed(f"{method} is not allowed here, use {' or '.join(sorted(self._methods))}")

    def _tenant(self, headers: Mapping[str, str]) -> str:
        if not self._api_keys:
            origin = headers.get("origin")
            if origin is not None and not is_loopback(_host_of(origin)):
                # Without keys whoever reaches the port may ask, and any web page that the user visits can reach it,
                # under whatever host name; browsers always say whose page asks.
                raise Forbidden("pages of other hosts may not ask here while server.api_keys is empty")
            return tenant_of("")
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        offered = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        for key in offered:
            # Every key is compared in full, so that time tells nothing.
            matches = [hmac.compare_digest(key.encode("utf-8", "replace"), known) for known in self._api_keys]
            if key and any(matches):
                return tenant_of(key)
        raise Unauthorized("the API key is missing or wrong: send one of server.api_keys as Bearer or x-api-key")


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def told(error: Exception, request_id: str) -> ChiasmError:
    """What a client is told of this: its own words if it has some for clients, else that the fault is ours."""
    if isinstance(error, ChiasmError):
        return error
    if isinstance(error, RecursionError):
        return BadRequest("the body is nested too deeply")
    log.error("a fault of ours in request %s", request_id, exc_info=error)
    return ChiasmError("an error inside Chiasm; its log has more under the x-request-id of this answer")


class _Watched:
    """Knows whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    def __call__(self, message: Message) -> Awaitable[None]:
        self.started = True
        return self._send(message)


async def _refuse_the_rest(receive: Receive, send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """Answer at once, then read on for a while and throw it away: to close while the client still writes resets the
    connection, and most clients then report that instead of our answer."""
    fields = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **headers}
    await send(start(status, fields))
    await send({"type": "http.response.body", "body": body, "more_body": True})
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def read_body(scope: Any, receive: Receive, *, most: int) -> bytearray:
    """The whole body, in one buffer that is not copied again.

    Raises `BodyEncoded`, `BodyTooLarge`, `BodyTooSlow`, `TooManyBodies`, `ClientGone`.
    """
    encoding = b", ".join(value for name, value in scope["headers"] if name == b"content-encoding")
    if encoding.strip().lower() not in (b"", b"identity"):
        raise BodyEncoded("a compressed body (content-encoding) is not read here; send it as it is")
    share: Share = scope[_SHARE]
    body = Body()
    try:
        await _fill(body, scope, receive, most, share)
    except BaseException:
        body.clear()  # whatever still holds it: the error and this frame hold each other
        share.give_back()
        raise
    share.until_gone(body)
    if not body:
        raise BadRequest("the body is empty; send JSON")
    return body


async def _fill(body: Body, scope: Any, receive: Receive, most: int, share: Share) -> None:
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(most)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while True:
        enough_by = begun + BODY_PAUSE_SECONDS + len(body) / LEAST_BODY_RATE
        try:
            async with asyncio.timeout_at(min(enough_by, loop.time() + BODY_PAUSE_SECONDS)):
                message = await receive()
        except TimeoutError:
            raise BodyTooSlow(f"the body came too slowly: {len(body)} bytes in {loop.time() - begun:.0f} s") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        if len(body) + len(piece) > most:
            raise _too_large(most)
        share.take(len(piece))
        body += piece
        if not message.get("more_body", False):
            return


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {most // 2**20} MiB (server.max_body_mib)")
