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
from typing import Self

import aiohttp
import httpx
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport

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
    async with httpx.AsyncClient(
        transport=AiohttpTransport(client=session),
        timeout=NO_READ_LIMIT,
        trust_env=False,
        follow_redirects=False,
        # httpx keeps cookies of its own, for all requests: one tenant's answer would mark the next tenant's request.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    ) as client:
        yield client
