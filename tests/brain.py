"""A scripted brain: a server on loopback that answers to the byte, the millisecond and the fault as it is told.

    async with Brain() as brain:
        brain.will(says("Let me look.", looks(1, "What is it?")), says("It is a cat."))
        ...                                   # the service asks brain.url
        assert brain.asked[0].json["messages"][0]["content"] == ...

`will` lines up one *script* for each request that comes; `answers` (a function from a request to a script) serves
those beyond the line.  A request without either is a fault of the test, found at the end by `Brain.__aexit__`.  What
was asked is kept whole, with the moment at which the other side hung up.

The server is written against `asyncio.Protocol`, because a test of faults must decide itself which bytes leave in
which piece, see what the other side has taken, and close in every way there is.  It knows as much of HTTP as that
takes: requests with a length or in chunks, answers in chunks, connections that are used again.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, cast

import orjson

from tests.speakers import speaker_at
from tests.speakers.chat import chunk as chunk
from tests.speakers.chat import event as event
from tests.speakers.pieces import Begins as Begins
from tests.speakers.pieces import Breaks as Breaks
from tests.speakers.pieces import Calls as Calls
from tests.speakers.pieces import Closes as Closes
from tests.speakers.pieces import Continues as Continues
from tests.speakers.pieces import Ends as Ends
from tests.speakers.pieces import Fails as Fails
from tests.speakers.pieces import Finishes as Finishes
from tests.speakers.pieces import Hangs as Hangs
from tests.speakers.pieces import Opens as Opens
from tests.speakers.pieces import Piece as Piece
from tests.speakers.pieces import Saying
from tests.speakers.pieces import Sends as Sends
from tests.speakers.pieces import Thinks as Thinks
from tests.speakers.pieces import Waits as Waits
from tests.speakers.speaker import Speaker, Voice

PICTURE: Final = re.compile(rb"data:image/|iVBORw0KGgo|/9j/4|R0lGOD|UklGR|[A-Za-z0-9+/]{200}")
"""Picture data in a request, whatever it is wrapped in; a long run of base64 letters is enough."""


# The server


@dataclass(slots=True, eq=False)
class Asked:
    """One request, and what became of it."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    sent: int = 0
    """Bytes of the answer that the other side's socket has taken."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the other side hung up before the answer was over."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the script has ended, however that was."""

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def speaker(self) -> Speaker:
        """Of the wire format in which it was asked."""
        return speaker_at(self.path)

    @property
    def chat(self) -> dict[str, Any]:
        """The request in the words of Chat Completions."""
        return self.speaker.understood(self.json)

    @property
    def messages(self) -> list[Any]:
        messages = self.chat["messages"]
        assert isinstance(messages, list)
        return messages

    @property
    def tools(self) -> list[str]:
        return [tool["function"]["name"] for tool in self.chat.get("tools") or []]


class HungUp(Exception):
    """The other side closed the connection; ends a script quietly."""


class Connection(asyncio.Protocol):
    """One accepted connection.  Reads requests and runs the server's answer to each, one after the other."""

    def __init__(self, server: LoopbackServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self.lost = asyncio.Event()
        self.closed_by_script = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self.transport.set_write_buffer_limits(0)  # so that `flushed` means the kernel has it
        self._server.open_connections.add(self)
        self._server.start(self._serve())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.open_connections.discard(self)
        self.lost.set()
        self._arrived.set()
        self._may_write.set()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def write(self, data: bytes) -> None:
        # A transport that has met an error says so one turn of the loop later, and swallows what it is given till then:
        # without waiting, so that a script would run through to its end first, with nobody there.
        if self.lost.is_set() or self.transport.is_closing():
            raise HungUp
        self.transport.write(data)

    async def flushed(self) -> None:
        await self._may_write.wait()
        if self.lost.is_set():
            raise HungUp

    def reset(self) -> None:
        """Close so that the other side's kernel reports an error instead of an end."""
        self.closed_by_script = True
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def _serve(self) -> None:
        try:
            while True:
                asked = await self._request()
                answer = asyncio.ensure_future(self._server.answer(asked, Wire(self, asked)))
                watch = asyncio.ensure_future(self.lost.wait())
                try:
                    await asyncio.wait({answer, watch}, return_when=asyncio.FIRST_COMPLETED)
                    answer.cancel()
                    (error,) = await asyncio.gather(answer, return_exceptions=True)
                    if isinstance(error, HungUp | asyncio.CancelledError):
                        if not self.closed_by_script:
                            asked.gone.set()
                    elif error is not None:
                        self._server.faults.append(repr(error))
                finally:
                    watch.cancel()
                    answer.cancel()
                    asked.over.set()
        except HungUp:
            pass
        finally:
            self.transport.close()

    async def _request(self) -> Asked:
        head = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {}
        for line in head[1:]:
            if line:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = bytearray()
            while size := int((await self._until(b"\r\n")).split(b";")[0], 16):
                body += (await self._exactly(size + 2))[:-2]
            await self._until(b"\r\n")
        else:
            body = await self._exactly(int(headers.get("content-length", "0")))
        return Asked(method, path, headers, bytes(body))

    async def _until(self, mark: bytes) -> bytearray:
        while (end := self._buffer.find(mark)) < 0:
            await self._more()
        return await self._exactly(end + len(mark))

    async def _exactly(self, size: int) -> bytearray:
        while len(self._buffer) < size:
            await self._more()
        taken = self._buffer[:size]
        del self._buffer[:size]
        return taken

    async def _more(self) -> None:
        if self.lost.is_set():
            raise HungUp
        self._arrived.clear()
        await self._arrived.wait()


class Wire:
    """What a script says its answer with."""

    def __init__(self, connection: Connection, asked: Asked) -> None:
        self._connection = connection
        self._asked = asked
        self._chunked = False

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        self._chunked = "content-length" not in headers
        framing = {"transfer-encoding": "chunked"} if self._chunked else {}
        lines = [f"HTTP/1.1 {status} As Scripted", *(f"{k}: {v}" for k, v in {**headers, **framing}.items())]
        await self.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def send(self, data: bytes) -> None:
        """One piece of the body; returns when the socket has taken it."""
        if data:
            await self.raw(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)
            self._asked.sent += len(data)

    async def end(self) -> None:
        if self._chunked:
            await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        """These bytes and no framing."""
        self._connection.write(data)
        await self._connection.flushed()

    async def until_hung_up(self) -> None:
        await self._connection.lost.wait()
        raise HungUp

    def reset(self) -> None:
        self._connection.reset()

    def close(self) -> None:
        """The end of the connection without the end of the answer."""
        self._connection.closed_by_script = True
        self._connection.transport.close()


Script: TypeAlias = Callable[[Asked, Wire], Awaitable[None]]


class LoopbackServer:
    """Listens on a port of its own, answers `GET /v1/models`, and leaves all else to scripts."""

    model = "served-model"

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        """Requests for completions, in order of arrival."""
        self.models: Script | None = None
        """Answers `GET /v1/models` instead of the list."""
        self.answers: Callable[[Asked], Script] | None = None
        self.faults: list[str] = []
        """What went wrong in the test itself."""
        self.open_connections: set[Connection] = set()
        self.port = 0
        self._line: deque[Script] = deque()
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._came = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def will(self, *scripts: Script) -> None:
        self._line.extend(scripts)

    async def came(self, number: int = 1) -> Asked:
        """The request of this number, counted from 1, as soon as it is here."""
        while len(self.asked) < number:
            self._came.clear()
            await self._came.wait()
        return self.asked[number - 1]

    def start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def answer(self, asked: Asked, wire: Wire) -> None:
        if asked.method == "GET" and asked.path == "/v1/models":
            await (self.models or whole({"object": "list", "data": [{"id": self.model, "object": "model"}]}))(
                asked, wire
            )
            return
        if asked.method == "GET":  # what a server can be recognised by; this one is nothing in particular
            await refuses(404, "nothing here")(asked, wire)
            return
        self.asked.append(asked)
        self._came.set()
        self.note(asked)
        if self._line:
            script = self._line.popleft()
        elif self.answers is not None:
            script = self.answers(asked)
        else:
            self.faults.append(f"request {len(self.asked)} has no script: {asked.body[:300]!r}")
            script = refuses(500, "the test has no script for this")
        await script(asked, wire)

    def note(self, asked: Asked) -> None:
        """Look at a request before it is answered."""

    async def stop_listening(self) -> None:
        """From now on connections are refused; those that are open stay."""
        assert self._server is not None
        self._server.close()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.open_connections):
            connection.transport.abort()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if error is None:
            assert not self.faults, self.faults
            assert not self._line, f"{len(self._line)} scripts were never asked for"


class Brain(LoopbackServer):
    """The text model's server."""

    model = "brain-7b"

    def __init__(self) -> None:
        super().__init__()
        self.may_see_pictures = False
        """Only where the configuration says so may picture data come here."""

    def note(self, asked: Asked) -> None:
        if not self.may_see_pictures and (found := PICTURE.search(asked.body)):
            self.faults.append(f"picture data reached the brain: {asked.body[max(0, found.start() - 80) :][:200]!r}")


# Scripts for whole answers


def whole(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Script:
    """One JSON body, or bytes as they are."""

    async def script(asked: Asked, wire: Wire) -> None:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        await wire.head(
            status, {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        )
        await wire.send(data)

    return script


def refuses(status: int, words: str, *, headers: Mapping[str, str] | None = None, code: str | None = None) -> Script:
    """An error, in the form of the address that was asked."""

    async def script(asked: Asked, wire: Wire) -> None:
        await whole(asked.speaker.refusal(words, status, code), status=status, headers=headers)(asked, wire)

    return script


async def hangs(asked: Asked, wire: Wire) -> None:
    """Takes the request and never says a word."""
    await wire.until_hung_up()


async def resets(asked: Asked, wire: Wire) -> None:
    """Takes the request and breaks the connection."""
    wire.reset()


async def closes(asked: Asked, wire: Wire) -> None:
    """Takes the request and closes the connection."""
    wire.close()


def bytes_of(data: bytes, *, content_type: str = "text/event-stream", size: int = 0, pause: float = 0) -> Script:
    """A body to the byte, in pieces of `size` bytes with pauses (seconds) between them."""

    async def script(asked: Asked, wire: Wire) -> None:
        await wire.head(200, {"content-type": content_type})
        for start in range(0, len(data), size or len(data) or 1):
            await wire.send(data[start : start + (size or len(data))])
            await asyncio.sleep(pause)
        await wire.end()

    return script


# What a brain says, piece by piece

_numbers = count(1)


def looks(image: int | str, task: str, *, name: str = "analyzeImage", id: str = "") -> Calls:
    return Calls(name, orjson.dumps({"image": str(image), "task": task}).decode(), id)


def says(
    *pieces: Piece,
    finish: str | None = None,
    usage: tuple[int, int] | None = (100, 10),
    done: bool = True,
    stream: bool | None = None,
    headers: Mapping[str, str] | None = None,
) -> Script:
    """A good completion unless a piece says otherwise: streamed if asked for so (or as `stream` says), else one object,
    in the wire format of the address that was asked.

    `usage`: prompt and completion tokens.
    """
    ids = {piece: piece.id or f"call_{next(_numbers):08}" for piece in pieces if isinstance(piece, Calls)}
    saying = Saying(next(_numbers), pieces, ids, finish or ("tool_calls" if ids else "stop"), usage, done)

    async def script(asked: Asked, wire: Wire) -> None:
        voice = asked.speaker.voice(saying, asked.json)
        if asked.json.get("stream") if stream is None else stream:
            await streamed(voice, wire)
        else:
            await at_once(voice, asked, wire)

    async def streamed(voice: Voice, wire: Wire) -> None:
        await wire.head(200, {"content-type": "text/event-stream", **(headers or {})})
        async for data in _events(pieces, voice, wire):
            await wire.send(data)
        for data in voice.closes():
            await wire.send(data)
        await wire.end()

    async def at_once(voice: Voice, asked: Asked, wire: Wire) -> None:
        for piece in pieces:
            if isinstance(piece, Waits):
                await _waited(piece)
            elif isinstance(piece, Hangs):
                await wire.until_hung_up()
            elif isinstance(piece, Breaks):
                wire.reset()
                raise HungUp
            elif isinstance(piece, Fails):
                await refuses(piece.code, piece.words)(asked, wire)
                return
        await whole(voice.whole(), headers=headers)(asked, wire)

    return script


async def _events(pieces: tuple[Piece, ...], voice: Voice, wire: Wire) -> AsyncIterator[bytes]:
    if pieces and isinstance(pieces[0], str | Thinks | Calls | Finishes):
        for data in voice.says(Opens()):
            yield data
    for piece in pieces:
        match piece:
            case Sends(data):
                yield data
            case Closes():
                for data in voice.closes():
                    yield data
            case Waits():
                await _waited(piece)
            case Hangs():
                await wire.until_hung_up()
            case Breaks():
                wire.reset()
                raise HungUp
            case Ends():
                await wire.end()
                wire.close()
                raise HungUp
            case _:
                for data in voice.says(piece):
                    yield data


async def _waited(piece: Waits) -> None:
    if isinstance(piece.until, asyncio.Event):
        await piece.until.wait()
    else:
        await asyncio.sleep(piece.until)


@asynccontextmanager
async def nobody() -> AsyncIterator[str]:
    """A base URL where nothing listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"
