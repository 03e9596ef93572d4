"""The one HTTP client of the process: the httpx API on aiohttp's transport.

httpx's own transport loses connection slots for good when requests are cancelled, and cancelled requests are our
daily bread; aiohttp's does not, and costs a third less CPU (docs/decisions/0002).  No limit on connections but our own
bounds elsewhere; no proxies, cookies or `.netrc` from the environment, since an HTTP_PROXY variable would send
everybody's prompts somewhere else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy

import aiohttp
import httpx
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


@asynccontextmanager
async def http_client() -> AsyncIterator[httpx.AsyncClient]:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
    session = aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, read_bufsize=2**16
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
