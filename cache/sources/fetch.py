"""Fetching what a client's URL names, from inside a network that the client is not in.

    URL ─▶ parts, strictly ─▶ host on the list? ─▶ resolved once ─▶ every address public? ─▶ dialled as resolved
     ▲                                                                                            │
     └──────────────────────────── a redirect, at most three, begins anew ────────────────────────┘

The check and the connection must mean the same address.  A name that is resolved for the check and again for the
connection can answer twice (DNS rebinding), so a connection is opened for each request, whose resolver knows nothing
but the addresses that were checked; and the last word is at the socket, which is made for none but these.  Host, SNI
and the certificate's name stay the URL's, because the URL itself is not rewritten.

aiohttp without the httpx API in front (docs/decisions/0002) has just these two seams, resolver and socket, and
puts no second reading of the URL in between.

Nothing is sent along: no cookies, credentials, Referer or proxies.  The answer is hostile too: compressed bodies are
refused, bytes are counted as they come whatever was announced, headers and time are bounded, and what the server says
of the content is not believed (`cache.image` looks for itself).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from cache.sources.addresses import Address, Network, dialled, may_be_dialled
from cache.sources.location import AllowedHost, Location, allows
from cache.sources.not_fetched import NotFetched

log = logging.getLogger("chiasm.sources")

MAX_REDIRECTS = 3
AT_ONCE = 8
"""Images on their way at once; each may hold as many bytes as an image may have."""

EACH = 6
"""How many of them may be one key's where there are several: slow servers that one names leave the others a place."""

_MOST_ADDRESSES = 8
_RESOLVING_THREADS = 4
_LONGEST_SHOWN = 80
_MOVED = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "Accept": "image/png, image/jpeg, image/webp, image/gif, image/bmp",  # what `cache.image` reads
    "Accept-Encoding": "identity",
    "User-Agent": "Chiasm",
}

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a name, for this port.  Raises `OSError`."""


@dataclass(frozen=True, slots=True)
class Patience:
    """In seconds."""

    place: float = 20.0
    """Waiting for others to be through."""
    connect: float = 3.0
    silence: float = 5.0
    """Up to the first byte, and between two."""
    whole: float = 10.0
    """Names, redirects and all."""


NO_PLACE = "too many images are being fetched"
"""The one reason that lies with us."""


class Turns(Protocol):
    """Places for so many at once; `tools.places.Places` are such."""

    def of(self, asker: str) -> AbstractAsyncContextManager[None]:
        """A place, as soon as it is this asker's turn."""


class Fetch:
    """Shared by all requests."""

    def __init__(
        self,
        *,
        hosts: Sequence[AllowedHost],
        networks: Sequence[Network] = (),
        max_bytes: int,
        places: Turns,
        patience: Patience | None = None,
        resolve: Resolve | None = None,
        trusted: ssl.SSLContext | None = None,
    ) -> None:
        """`networks`: what may be dialled although it is not public.  `trusted`: authorities other than the
        system's."""
        self._hosts = tuple(hosts)
        self._networks = tuple(networks)
        self._max_bytes = max_bytes
        self._patience = patience or Patience()
        self._places = places
        self._threads = ThreadPoolExecutor(_RESOLVING_THREADS, thread_name_prefix="chiasm-resolve")
        self._resolve = resolve or self._resolved_by_system
        self._trusted: ssl.SSLContext | bool = True if trusted is None else trusted

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def permitted(self, url: str) -> Location:
        """Whether it would be asked at all.  Raises `NotFetched`."""
        location = Location.of(url)
        if not allows(self._hosts, location):
            host = location.host if len(location.host) <= _LONGEST_SHOWN else "its host"
            port = "" if location.port in (80, 443) else f", port {location.port}"
            raise NotFetched(f"images are not fetched from {host}{port}")
        return location

    async def fetch(self, url: str, asker: str = "") -> bytes:
        """The bytes, which may be anything.  Askers take turns.  Raises `NotFetched`."""
        location = self.permitted(url)
        began = time.monotonic()
        try:
            data = await self._in_turn(location, asker)
        except NotFetched as error:
            log.info("an image of %s was not fetched: %s", location.host, error.reason)
            raise
        log.info("an image of %s was fetched: %d bytes in %.1f s", location.host, len(data), time.monotonic() - began)
        return data

    async def _in_turn(self, location: Location, asker: str) -> bytes:
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._patience.place):
                    await held.enter_async_context(self._places.of(asker))
            except TimeoutError:
                raise NotFetched(NO_PLACE) from None
            try:
                async with asyncio.timeout(self._patience.whole):
                    return await self._followed(location)
            except TimeoutError:
                raise NotFetched("its server took too long") from None

    async def _followed(self, location: Location) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._answer(location)
            if isinstance(answer, bytes):
                return answer
            location = answer
        raise NotFetched(f"it redirects more than {MAX_REDIRECTS} times")

    async def _answer(self, location: Location) -> bytes | Location:
        """The content, or where it is instead."""
        addresses = await self._addresses(location)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=self._connector(addresses),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    trust_env=False,
                    auto_decompress=False,
                    read_bufsize=2**16,
                    max_headers=128,
                    timeout=aiohttp.ClientTimeout(
                        total=None, sock_connect=self._patience.connect, sock_read=self._patience.silence
                    ),
                ) as session,
                session.get(URL(location.url, encoded=True), headers=_HEADERS, allow_redirects=False) as response,
            ):
                if response.status in _MOVED:
                    return self._moved(location, response)
                return await self._content(response)
        except TimeoutError:
            raise NotFetched("its server took too long") from None
        except aiohttp.ClientSSLError:
            raise NotFetched("its server has no valid certificate") from None
        except aiohttp.ClientConnectorError:
            raise NotFetched("its server cannot be reached") from None
        except aiohttp.ClientPayloadError:
            raise NotFetched("the connection ended before it was whole") from None
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError):
            raise NotFetched("its server's answer cannot be understood") from None

    def _connector(self, addresses: Sequence[Address]) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(
            resolver=_Pinned(addresses),
            socket_factory=_sockets_for(addresses),
            ssl=self._trusted,
            use_dns_cache=False,
            force_close=True,
            limit=1,
        )

    async def _addresses(self, location: Location) -> list[Address]:
        """All of them must be fit to be dialled: of a mixture, chance would decide."""
        if dialled(location.host) is not None:
            found: Sequence[str] = [location.host]
        else:
            try:
                found = await self._resolve(location.host, location.port)
            except (OSError, UnicodeError):
                raise NotFetched("its host cannot be found") from None
        if not found:
            raise NotFetched("its host cannot be found")
        addresses = [dialled(one) for one in found]
        fit = [one for one in addresses if one is not None and may_be_dialled(one, self._networks)]
        if len(fit) < len(addresses):
            raise NotFetched("its host is in a network that images are not fetched from")
        return list(dict.fromkeys(fit))[:_MOST_ADDRESSES]

    async def _resolved_by_system(self, host: str, port: int) -> Sequence[str]:
        # In threads of our own: a name server that is silent would hold up everybody else's.
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(sockaddr[0]) for _, _, _, _, sockaddr in found]

    def _moved(self, location: Location, response: aiohttp.ClientResponse) -> Location:
        there = response.headers.get("Location")
        if not there:
            raise NotFetched("its server's answer cannot be understood")
        moved = location.moved_to(there)
        if not allows(self._hosts, moved):
            raise NotFetched("it redirects to a host that images are not fetched from")
        return moved

    async def _content(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            raise NotFetched(f"its server answered {response.status}")
        if any(
            value.strip().lower() not in ("", "identity") for value in response.headers.getall("Content-Encoding", [])
        ):
            raise NotFetched("its server sends it compressed")
        if (response.content_length or 0) > self._max_bytes:
            raise self._too_large()
        data = bytearray()
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > self._max_bytes:
                raise self._too_large()
        return bytes(data)

    def _too_large(self) -> NotFetched:
        return NotFetched(f"larger than {self._max_bytes / 2**20:.3g} MiB")


class _Pinned(AbstractResolver):
    """Answers one question, and that one beforehand."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET6 if address.version == 6 else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """It holds nothing."""


def _sockets_for(addresses: Sequence[Address]) -> Callable[[aiohttp.AddrInfoType], socket.socket]:
    def made(info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        if dialled(str(sockaddr[0])) not in addresses:
            raise OSError("not an address that was checked")
        return socket.socket(family, kind, protocol)

    return made
