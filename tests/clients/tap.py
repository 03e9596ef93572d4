"""Stands between a client and the service, passes every byte on, and keeps them: what was really said on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import orjson

PICTURE_MARK = b"<picture data>"


@dataclass(frozen=True, slots=True)
class Message:
    """One HTTP request or response."""

    first_line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True, slots=True)
class Told:
    """One request with its answer; `answer` is None while there is none."""

    request: Message
    answer: Message | None


@dataclass(slots=True)
class _Line:
    """One connection, both ways."""

    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)


class Tap:
    """Listens on a port of its own while it is open; `url` is what the client is told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lines: list[_Line] = []
        self._running: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def told(self) -> list[Told]:
        """What passed so far, connection by connection."""
        pairs = []
        for line in self._lines:
            answers = _messages(bytes(line.down))
            pairs += [Told(request, next(answers, None)) for request in _messages(bytes(line.up))]
        return pairs

    @property
    def chats(self) -> list[Told]:
        return [told for told in self.told if told.request.first_line.startswith("POST /v1/chat/completions")]

    @property
    def heard(self) -> bytes:
        """All bytes that went to the client."""
        return b"".join(line.down for line in self._lines)

    def transcript(self) -> str:
        """For the reader of a failed test."""
        lines = []
        for told in self.told:
            lines.append(f">>> {told.request.first_line}\n{_shortened(told.request.body)}")
            if told.answer is not None:
                lines.append(f"<<< {told.answer.first_line}\n{told.answer.body.decode(errors='replace')}")
        return "\n".join(lines)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        line = _Line()
        self._lines.append(line)
        try:
            service, to_service = await asyncio.open_connection("127.0.0.1", self._port)
            ways = [
                asyncio.ensure_future(_pass_on(client, to_service, line.up)),
                asyncio.ensure_future(_pass_on(service, to_client, line.down)),
            ]
            try:
                # A client that has hung up wants nothing more; a service that has closed says nothing more.
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                to_service.close()
        except asyncio.CancelledError:
            pass  # the tap is closed; Python 3.11 would log a cancelled handler as an error
        finally:
            to_client.close()
            self._running.discard(task)


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, kept: bytearray) -> None:
    while data := await source.read(2**16):
        kept += data
        target.write(data)
        await target.drain()


def _messages(raw: bytes) -> Iterator[Message]:
    """HTTP messages one after the other, as far as they are whole."""
    while raw:
        head, mark, rest = raw.partition(b"\r\n\r\n")
        if not mark:
            return
        first, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = bytearray()
            while True:
                size, _, after = rest.partition(b"\r\n")
                length = int(size or b"0", 16)
                body += after[:length]
                rest = after[length + 2 :]
                if not length:
                    break
        else:
            length = int(headers.get("content-length", "0"))
            body, rest = bytearray(rest[:length]), rest[length:]
        yield Message(first, headers, bytes(body))
        raw = rest


def _shortened(body: bytes) -> str:
    pieces = body.split(b";base64,")
    shown = [pieces[0], *(PICTURE_MARK + piece.partition(b'"')[1] + piece.partition(b'"')[2] for piece in pieces[1:])]
    return b";base64,".join(shown).decode(errors="replace")
