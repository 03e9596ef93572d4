"""The one HTTP client of the process: the httpx API on aiohttp's transport.

httpx's own transport loses connection slots for good when requests are cancelled, and cancelled requests are our
daily bread; aiohttp's does not, and costs a third less CPU (docs/decisions/0002).  No limit on connections but our own
bounds elsewhere; no proxies, cookies or `.netrc` from the environment, since an HTTP_PROXY variable would send
everybody's prompts somewhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Self

import aiohttp
import httpx
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import map_aiohttp_exceptions
from yarl import URL

CONNECT_SECONDS = 5.0
"""A server that does not accept in this time is down; prefill and queues come after accepting."""

WRITE_SECONDS = 30.0

_KEEPALIVE_SECONDS = 2.0
"""uvicorn closes idle connections after 5 s; a pool that keeps them as long sends requests into closing ones."""

NO_READ_LIMIT = httpx.Timeout(connect=CONNECT_SECONDS, read=None, write=WRITE_SECONDS, pool=None)
"""Silence is limited by whoever reads, who knows what is normal: a long prefill is silent for minutes."""


BROKEN: tuple[type[Exception], ...] = (httpx.HTTPError, aiohttp.ClientError, HttpProcessingError)
"""What a connection that breaks or talks garbage can raise: the transport hands on what it has no httpx name for, such
as a status line or a chunk that is none."""


class _Response(aiohttp.ClientResponse):
    """A response whose reader learns of the end of its connection in every case.

    A body that cannot be parsed any further (a chunk that is none) makes aiohttp 3.14 close the connection and forget
    who reads the body: the error is kept for whoever waits for the headers, and he has them.  The reader would wait
    until its own patience is at an end.
    """

    async def start(self, connection: Connection) -> Self:
        await super().start(connection)
        protocol, body = connection.protocol, self.content
        if protocol is None or body.is_eof():
            return self
        closed = protocol.closed
        if closed is None:
            _break_off(body)
            return self

        def over(_: asyncio.Future[None]) -> None:
            _break_off(body)

        # Once for the connection, or an error that nobody asks for is logged; and once for each body.
        closed.remove_done_callback(_noted)
        closed.add_done_callback(_noted)
        closed.add_done_callback(over)

        def whole() -> None:
            closed.remove_done_callback(over)

        body.on_eof(whole)
        return self


def _noted(closed: asyncio.Future[None]) -> None:
    if not closed.cancelled():
        closed.exception()


def _break_off(body: aiohttp.StreamReader) -> None:
    if not body.is_eof() and body.exception() is None:
        body.set_exception(aiohttp.ClientPayloadError("the connection was closed in the middle of a body"))


class _Stream(httpx.AsyncByteStream):
    """A body as it comes, with as little as can be between its reader and its socket."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._read = response.content.readany

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            data = await self._read()
        except Exception:
            with map_aiohttp_exceptions():
                raise
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        with map_aiohttp_exceptions():
            await self._response.__aexit__(None, None, None)


class _Transport(AiohttpTransport):
    """As the transport does it, without what is the same for every request of ours: half the way to the session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        super().__init__(client=session)
        self._session = session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        limits = request.extensions.get("timeout", {})
        body: object = request.stream
        if isinstance(body, httpx.ByteStream):
            body = b"".join(body) or None
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
        with map_aiohttp_exceptions():
            response = await self._session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=[header for header in headers if header[0].lower() != "transfer-encoding"],  # its own affair
                data=body,
                allow_redirects=False,
                auto_decompress=False,
                compress=False,
                timeout=aiohttp.ClientTimeout(
                    sock_connect=limits.get("connect"), sock_read=limits.get("read"), connect=limits.get("pool")
                ),
            )
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Stream(response),
            request=request,
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": (response.reason or "").encode()},
        )


class _Client(httpx.AsyncClient):
    """Streams go straight to the transport.  Of what httpx does on the way there (redirects, authentication, cookies,
    hooks, a line of log, a clock) nothing is asked for, and it takes as long as all that the transport does."""

    def __init__(self, transport: _Transport, **options: Any) -> None:
        super().__init__(transport=transport, **options)
        self._straight = transport

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        if not stream or self.is_closed:
            return await super().send(request, stream=stream, **options)
        return await self._straight.handle_async_request(request)


@asynccontextmanager
async def http_client() -> AsyncIterator[httpx.AsyncClient]:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        read_bufsize=2**16,
        response_class=_Response,
    )
    async with _Client(
        _Transport(session),
        timeout=NO_READ_LIMIT,
        trust_env=False,
        follow_redirects=False,
        # httpx keeps cookies of its own, for all requests: one tenant's answer would mark the next tenant's request.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    ) as client:
        yield client
