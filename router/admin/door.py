"""What every address of the room has in common: who asks, how errors look, and the headers of every answer.

An endpoint takes a `Call` and gives a `Reply`; one that streams writes its answer itself and gives none.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, ValidationError

from cache.store import StoreError
from router.admin import audit
from router.admin.auth import Asking, Auth, Who
from router.admin.errors import StoreFailed
from router.admin.models import Error, ErrorBody
from router.admin.service import Admin
from router.errors import (
    BadRequest,
    BodyTooLarge,
    BodyTooSlow,
    ChiasmError,
    Forbidden,
    NotAllowed,
    ShuttingDown,
    Unauthorized,
)
from router.log_lines import REQUEST_ID
from router.response import GIVE_UP, ClientGone, Receive, Send, start

log = logging.getLogger("chiasm.admin")

MOST_BODY_BYTES = 64 * 1024
"""A task, or a form."""

BODY_SECONDS = 10.0

SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer.  What the answers hold was written by strangers: nothing of it may run, be framed, or be kept."""

PAGE_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    # A form that is sent without a referrer has the origin `null`, which could be anybody's.
    "referrer-policy": "same-origin",
}
"""Of a page for people, on top: our own files and forms, nothing inline, nobody else's."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer.  `headers` come on top of `SECURITY_HEADERS`."""

    body: bytes = b""
    status: int = 200
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: BaseModel | Mapping[str, Any], status: int = 200) -> Reply:
        given = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        return cls(orjson.dumps(given), status)


@dataclass(frozen=True, slots=True)
class Call:
    """One request by somebody who may ask.  `who` is nobody where everybody may."""

    admin: Admin
    auth: Auth
    asking: Asking
    who: Who
    request_id: str
    scope: Any
    receive: Receive
    send: Send

    @property
    def path(self) -> Mapping[str, str]:
        params: Mapping[str, str] = self.scope.get("path_params", {})
        return params

    @property
    def query(self) -> dict[str, str]:
        """Raises `BadRequest`."""
        try:
            return dict(parse_qsl(self.scope.get("query_string", b"").decode("latin-1"), max_num_fields=50))
        except ValueError:
            raise BadRequest("the query could not be read") from None

    def audit(self, action: str, outcome: str, *, conversation: str | None = None, number: int | None = None) -> None:
        audit.note(self.who.name, action, outcome, request_id=self.request_id, conversation=conversation, number=number)

    async def body(self) -> bytes:
        """Raises `BodyTooLarge`, `BodyTooSlow`, `ClientGone`."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    body += message.get("body", b"")
                    if len(body) > MOST_BODY_BYTES:
                        raise BodyTooLarge(f"the body is larger than {MOST_BODY_BYTES // 1024} KiB")
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise BodyTooSlow("the body came too slowly") from None

    async def form(self) -> dict[str, str]:
        """Raises `BadRequest` and as `body`."""
        if self.asking.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            raise BadRequest("a form is wanted (application/x-www-form-urlencoded)")
        try:
            return dict(parse_qsl((await self.body()).decode(), keep_blank_values=True, max_num_fields=50))
        except ValueError:
            raise BadRequest("the form could not be read") from None


Handler: TypeAlias = Callable[[Call], Awaitable[Reply | None]]

ShowError: TypeAlias = Callable[[ChiasmError, Any], bytes]
"""A refusal as a page, for who asks for one; given the request's scope."""


class AdminDoor:
    """Wraps the endpoints of one address, by method, into an ASGI application."""

    def __init__(
        self,
        auth: Auth,
        handlers: Mapping[str, Handler],
        *,
        open_to_all: bool = False,
        page: bool = False,
        checks_forms: bool = False,
        show_error: ShowError | None = None,
    ) -> None:
        """`page`: for people, who may follow links to it.  `checks_forms`: the endpoint itself checks the token of its
        form (`Auth.check_change`).  `show_error`: how a browser is shown what went wrong; scripts get JSON."""
        self._auth = auth
        self._handlers = {**handlers, **({"HEAD": handlers["GET"]} if "GET" in handlers else {})}
        self._open_to_all = open_to_all
        self._page = page
        self._checks_forms = checks_forms
        self._show_error = show_error

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        REQUEST_ID.set(request_id)
        try:
            reply = await self._reply(scope, receive, watched, request_id)
        except ClientGone:
            if (give_up := scope.get("extensions", {}).get(GIVE_UP)) is not None:
                give_up()
            return
        except asyncio.CancelledError:
            reply = self._refused(ShuttingDown("the server is shutting down", retry_after=1), scope)
        except Exception as error:
            reply = self._failed(error, scope, request_id)
        if reply is not None and not started:
            await _send(watched, reply, request_id, body=scope["method"] != "HEAD")

    async def _reply(self, scope: Any, receive: Receive, send: Send, request_id: str) -> Reply | None:
        method = scope["method"]
        handler = self._handlers.get(method)
        if handler is None:
            raise NotAllowed(f"{method} is not allowed here, use {' or '.join(sorted(self._handlers))}")
        asking = Asking.of(scope)
        try:
            who = Who("nobody") if self._open_to_all else self._auth.check(asking, page=self._page)
            if not self._open_to_all and not self._checks_forms:
                self._auth.check_change(asking, who)
        except (Unauthorized, Forbidden) as error:
            audit.note("nobody", "ask", error.code or error.type, request_id=request_id)
            raise
        admin = scope["state"]["admin"]
        assert isinstance(admin, Admin)
        return await handler(Call(admin, self._auth, asking, who, request_id, scope, receive, send))

    def _failed(self, error: Exception, scope: Any, request_id: str) -> Reply:
        if isinstance(error, StoreError):
            log.warning("%s the store failed: %s", request_id, error)
            error = store_failed()
        elif isinstance(error, ValidationError):
            error = bad_request(error)
        refused = error if isinstance(error, ChiasmError) else _fault(error, request_id)
        log.info("%s refused status=%d code=%s", request_id, refused.status, refused.code or refused.type)
        headers: dict[str, str] = {}
        if isinstance(refused, NotAllowed):
            headers["allow"] = ", ".join(sorted(self._handlers))
        if isinstance(refused, BodyTooLarge | BodyTooSlow) or scope["method"] not in self._handlers:
            headers["connection"] = "close"
        return self._refused(refused, scope, headers)

    def _refused(self, error: ChiasmError, scope: Any, headers: Mapping[str, str] | None = None) -> Reply:
        reply = _refusal(error, headers)
        if self._show_error is None or b"text/html" not in dict(scope["headers"]).get(b"accept", b""):
            return reply
        fields = {**reply.headers, **PAGE_HEADERS}
        return Reply(self._show_error(error, scope), reply.status, "text/html; charset=utf-8", fields)


def _fault(error: Exception, request_id: str) -> ChiasmError:
    log.error("a fault of ours in request %s", request_id, exc_info=error)
    return ChiasmError("an internal error; the log has more under this request id")


def store_failed() -> StoreFailed:
    return StoreFailed("the store cannot be used just now", retry_after=5)


def bad_request(error: ValidationError) -> BadRequest:
    """What is wrong with what came, without repeating it."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    name = ".".join(map(str, first["loc"]))
    return BadRequest(f"{name}: {first['msg']}" if name else first["msg"], param=name or None)


def _refusal(error: ChiasmError, headers: Mapping[str, str] | None = None) -> Reply:
    fields = dict(headers or {})
    if error.retry_after is not None:
        fields["retry-after"] = f"{error.retry_after:g}"
    said = Error(message=error.message, type=error.type, param=getattr(error, "param", None), code=error.code)
    return Reply(orjson.dumps(ErrorBody(error=said).model_dump()), error.status, headers=fields)


async def _send(send: Send, reply: Reply, request_id: str, *, body: bool) -> None:
    headers = {
        **SECURITY_HEADERS,
        "content-type": reply.media_type,
        "content-length": str(len(reply.body)),
        "x-request-id": request_id,
        **reply.headers,
    }
    await send(start(reply.status, headers))
    await send({"type": "http.response.body", "body": reply.body if body else b""})
