"""Clients: one that waits for its first token, and many that read streams at once."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast

from brain import STAMP_DIGITS
from processes import Target

WAIT_SECONDS = 30.0
"""Nothing here takes this long unless it hangs."""

_STAMP = re.compile(rb" t(\d{%d}) " % STAMP_DIGITS)
_LAST = b"0\r\n\r\n"
_READ = 2**18


def post(body: bytes, path: str = "/v1/chat/completions") -> bytes:
    """The head of a request with `body`."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return f"{head}\r\n\r\n".encode()


class Client:
    """One connection, kept alive, with blocking calls: the least that can stand between a clock and a server."""

    def __init__(self, target: Target) -> None:
        self._socket = socket.create_connection(("127.0.0.1", target.port), WAIT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def first_token(self, body: bytes) -> float:
        """Ask, read to the end; seconds from the first byte sent to the first token."""
        head = post(body)
        begun = time.perf_counter()
        if len(body) < _READ:
            self._socket.sendall(head + body)
        else:
            self._socket.sendall(head)
            self._socket.sendall(body)
        seen = b""
        while _STAMP.search(seen) is None:
            seen += self._more(seen)
        taken = time.perf_counter() - begun
        while not seen.endswith(_LAST):
            seen = seen[-len(_LAST) :] + self._more(seen)
        return taken

    def _more(self, seen: bytes) -> bytes:
        data = self._socket.recv(_READ)
        if not data or (seen[:12] not in (b"", b"HTTP/1.1 200"[: len(seen[:12])]) and seen.startswith(b"HTTP/1.1 ")):
            raise RuntimeError(f"the answer broke off or was refused: {(seen + data)[:500]!r}")
        return data


def get_json(target: Target, path: str) -> dict[str, list[float]]:
    with socket.create_connection(("127.0.0.1", target.port), WAIT_SECONDS) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += line.recv(_READ)
        head, _, body = seen.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += line.recv(_READ)
    told: dict[str, list[float]] = json.loads(body)
    return told


@dataclass(slots=True)
class Delays:
    """What the readers of all streams see: for each chunk, when it came and how long it was under way, in seconds."""

    came: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    ended: int = 0

    def between(self, begin: float, end: float) -> list[float]:
        """The delays of the chunks that came in this time of the monotonic clock."""
        return [took for came, took in zip(self.came, self.took, strict=True) if begin <= came <= end]


class _Reader(asyncio.Protocol):
    def __init__(self, request: bytes, delays: Delays) -> None:
        self._request = request
        self._delays = delays
        self._rest = b""
        self.transport: asyncio.Transport | None = None
        self.begun = asyncio.get_running_loop().create_future()
        """Done with the first token."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, not the class
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        delays, position = self._delays, 0
        data = self._rest + data
        for stamp in _STAMP.finditer(data):
            delays.came.append(now / 1e9)
            delays.took.append((now - int(stamp[1])) / 1e9)
            position = stamp.end()
        self._rest = data[max(position, len(data) - 512) :]
        if position and not self.begun.done():
            self.begun.set_result(None)
        if data.endswith(_LAST):
            delays.ended += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.begun.done():
            self.begun.set_exception(RuntimeError(f"a stream ended before its first token: {self._rest!r}"))


@asynccontextmanager
async def streams(target: Target, bodies: Iterable[bytes]) -> AsyncIterator[Delays]:
    """Open a stream for each body, and go on when each has its first token; on the way out, hang up."""
    delays = Delays()
    readers: list[_Reader] = []
    loop = asyncio.get_running_loop()
    try:
        for body in bodies:
            head = post(body)
            _, reader = await loop.create_connection(
                lambda request=head + body: _Reader(request, delays),  # type: ignore[misc]
                "127.0.0.1",
                target.port,
            )
            readers.append(reader)
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.gather(*(reader.begun for reader in readers))
        yield delays
    finally:
        for reader in readers:
            if reader.transport is not None:
                reader.transport.abort()
