"""The real application between a scripted brain and scripted eyes, over real sockets on loopback.

    async with live(tmp_path) as house:                       # house.brain, house.eyes, house.service
        house.brain.will(says("Hello."))
        answer = await house.chat(user("Hi."))                # one whole answer, read as strictly as the contract is
        async with house.line(user("Hi."), stream=True) as line:
            await line.until(b"Hello")                        # byte by byte, for first bytes, hang-ups and slow readers

Inside the process the application runs as `router.server` runs it, minus the signals; `service_process` is the real
`chiasm serve` for those.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import orjson
import uvicorn

from router.app import create_app
from router.config import Settings
from router.server import configured
from tests.brain import Brain
from tests.cards import card
from tests.eyes import Eyes
from tests.speakers import CHAT, speaker_at, speaking
from tests.speakers.answer import Answer
from tests.speakers.chat import read_whole as read_whole
from tests.speakers.speaker import Speaker

DEADLINE: Final = 60.0
"""Seconds after which something hangs; nothing here takes one tenth of it, also beside five times as much other work as
there are processors."""


# What a client sends


def picture(seed: int = 1) -> bytes:
    """A PNG; the same for the same seed."""
    return card(seed, kind="word", size=(160, 96)).png()


def data_url(image: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(image).decode()}"


def shown(image: bytes | str) -> dict[str, Any]:
    """An image part, of bytes or of a URL."""
    return {"type": "image_url", "image_url": {"url": image if isinstance(image, str) else data_url(image)}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*parts: str | dict[str, Any]) -> dict[str, Any]:
    """A user message; words alone are a plain string."""
    if len(parts) == 1 and isinstance(parts[0], str):
        return {"role": "user", "content": parts[0]}
    return {"role": "user", "content": [text(part) if isinstance(part, str) else part for part in parts]}


def assistant(words: str | None = None, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": words, **({"tool_calls": list(calls)} if calls else {})}


def tool_call(id_: str, name: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_result(id_: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": content}


def function(name: str) -> dict[str, Any]:
    """A client's tool."""
    parameters = {"type": "object", "properties": {"path": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "description": f"To {name}.", "parameters": parameters}}


def body_of(messages: Sequence[Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": list(messages), **fields}


# What a client gets


@dataclass(frozen=True, slots=True)
class Got:
    """A whole response."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    speaker: Speaker = CHAT
    """Of the address that was asked."""

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.speaker.error(self.json, self.status)


def read_stream(stream: bytes, *, include_usage: bool = False) -> Answer:
    """What the running test's speaker reads."""
    return speaking().read_stream(stream, include_usage=include_usage)


class Line:
    """One request over a socket of its own, and its answer as it comes."""

    def __init__(self, port: int, request: bytes, *, receive_buffer: int = 0) -> None:
        self._port = port
        self._request = request
        self._speaker = speaker_at(request.split(b" ", 2)[1].decode("latin-1") if b" " in request else "")
        self._receive_buffer = receive_buffer
        self.raw = bytearray()
        """All that has arrived: head, framing and body."""
        self.ended = False

    async def __aenter__(self) -> Self:
        sock = socket.socket()
        sock.setblocking(False)
        if self._receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        except BaseException:
            sock.close()
            raise
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=2**12)
        self._writer.write(self._request)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.hang_up()

    def write(self, data: bytes) -> None:
        """More than the request that was given."""
        self._writer.write(data)

    def close_writing(self) -> None:
        """Says that no more will come (FIN), and goes on being there."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Ends as a process does that is killed (RST)."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def hang_up(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def until(self, mark: bytes) -> None:
        """Read on until this has arrived.  Raises AssertionError when the answer ends without it."""
        while mark not in self.raw:
            assert await self.more(), f"no {mark!r} in {bytes(self.raw)!r}"

    async def rest(self) -> Got:
        """The whole answer.  Raises EOFError where the connection ended in the middle of it."""
        while not self._complete():
            if not await self.more():
                raise EOFError(bytes(self.raw))
        body = self.body if self._chunked else bytes(self.raw[self._head + 4 :])
        return Got(int(self.raw[: self._head].split()[1]), self.headers, body, self._speaker)

    @property
    def _head(self) -> int:
        """Its length, -1 while it is not whole."""
        return self.raw.find(b"\r\n\r\n")

    @property
    def headers(self) -> dict[str, str]:
        head = self.raw[: self._head].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in head)}

    @property
    def body(self) -> bytes:
        """What has come of the body so far, in whole chunks."""
        return _dechunked(bytes(self.raw), self._head + 4)

    @property
    def _chunked(self) -> bool:
        return self.headers.get("transfer-encoding") == "chunked"

    def _complete(self) -> bool:
        end = self._head
        if end < 0:
            return False
        if self._chunked:
            return self.raw.endswith(b"0\r\n\r\n", end + 4)
        return len(self.raw) - end - 4 >= int(self.headers.get("content-length", "0"))

    async def more(self) -> bool:
        """Read on a little; false where the connection has ended."""
        async with asyncio.timeout(DEADLINE):
            data = await self._reader.read(2**16)
        self.raw += data
        self.ended = not data
        return bool(data)


def _dechunked(raw: bytes, start: int) -> bytes:
    body = bytearray()
    while (line_end := raw.find(b"\r\n", start)) > start:
        begin = line_end + 2
        end = begin + int(raw[start:line_end], 16)
        if len(raw) < end + 2:
            break
        body += raw[begin:end]
        start = end + 2
    return bytes(body)


def post(body: bytes, *, path: str = "/v1/chat/completions", headers: Mapping[str, str] | None = None) -> bytes:
    """A request on the wire."""
    fields = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **(headers or {}),
    }
    head = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


# The house


@dataclass(slots=True)
class Options:
    """What a test sets otherwise than here; each is a table of the configuration."""

    server: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    store: dict[str, Any] = field(default_factory=dict)

    def settings(self, brain_url: str, eyes_url: str) -> Settings:
        return Settings.model_validate(self.tables(brain_url, eyes_url))

    def tables(self, brain_url: str, eyes_url: str) -> dict[str, Any]:
        return {
            "server": {"port": 0, **self.server},
            "text": [{"name": "brain", "base_url": brain_url, **self.text}],
            "vision": [{"name": "eyes", "base_url": eyes_url, **self.vision}],
            "images": self.images,
            "store": {"kind": "memory", **self.store},
        }


@asynccontextmanager
async def running(settings: Settings, *, connections: int | None = None) -> AsyncIterator[int]:
    """The application in this loop, listening; the port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = configured(create_app(settings), drain_seconds=1, connections=connections)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listening])
        assert server.started, "the application did not start"
        try:
            yield listening.getsockname()[1]
        finally:
            await server.shutdown(sockets=[listening])


@dataclass(slots=True)
class House:
    brain: Brain
    eyes: Eyes
    port: int
    client: httpx.AsyncClient
    speaker: Speaker = field(default_factory=speaking)
    """In whose words clients ask."""

    async def send(
        self,
        body: Any,
        *,
        path: str | None = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> Got:
        """One request, one whole response.  Without a `path`, `body` is put into the speaker's words; as bytes it goes
        out as it is."""
        if path is None:
            path = self.speaker.path
            body = self.speaker.request(body) if isinstance(body, dict) else body
        content = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        async with asyncio.timeout(DEADLINE):
            response = await self.client.request(
                method, path, content=content, headers={"content-type": "application/json", **(headers or {})}
            )
        return Got(response.status_code, response.headers, response.content, speaker_at(path))

    async def get(self, path: str, **headers: str) -> Got:
        return await self.send(
            None, path=path, method="GET", headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    async def chat(self, *messages: Any, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
        """A good answer, or the `error` of a stream that broke.  A status other than 200 is an AssertionError."""
        got = await self.send(body_of(messages, fields), headers=headers)
        assert got.status == 200, (got.status, got.body)
        return self.read(got, fields)

    @staticmethod
    def read(got: Got, fields: Mapping[str, Any]) -> Answer:
        if fields.get("stream"):
            assert got.headers["content-type"].startswith("text/event-stream")
            wants_usage = (fields.get("stream_options") or {}).get("include_usage", False)
            answer = got.speaker.read_stream(got.body, include_usage=wants_usage)
        else:
            assert got.headers["content-type"] == "application/json"
            answer = got.speaker.read_whole(got.body)
        theirs = {tool["function"]["name"] for tool in fields.get("tools") or ()}
        assert not {"analyzeImage", "recallImage"} & {call.name for call in answer.calls} - theirs, "a tool of ours"
        return answer

    def line(
        self, *messages: Any, headers: Mapping[str, str] | None = None, receive_buffer: int = 0, **fields: Any
    ) -> Line:
        return Line(self.port, self.posted(*messages, headers=headers, **fields), receive_buffer=receive_buffer)

    def posted(self, *messages: Any, headers: Mapping[str, str] | None = None, **fields: Any) -> bytes:
        """A request on the wire."""
        body = self.speaker.request(body_of(messages, fields))
        return post(orjson.dumps(body), path=self.speaker.path, headers=headers)


@contextmanager
def no_errors_in_the_log(but: str = "") -> Iterator[None]:
    """A fault of ours that reaches nobody but the log, such as an exception in a task that nobody awaits, is one all
    the same."""
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not but or not re.fullmatch(but, record.getMessage()):
                found.append(self.format(record))

    listener = Listener(logging.ERROR)
    logging.getLogger().addHandler(listener)
    try:
        yield
        assert not found, "\n\n".join(found)
    finally:
        logging.getLogger().removeHandler(listener)


@asynccontextmanager
async def live(
    *,
    server: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    images: dict[str, Any] | None = None,
    store: dict[str, Any] | None = None,
    log_may_say: str = "",
    connections: int | None = None,
) -> AsyncIterator[House]:
    """Brain, application and eyes.

    At the end: no fault of a script, no picture that reached the brain, and no error in the log.
    """
    options = Options(server or {}, text or {}, vision or {}, images or {}, store or {})
    # A connection each time: a client's pool is not what is tested here.
    limits = httpx.Limits(max_keepalive_connections=0)
    with no_errors_in_the_log(but=log_may_say):
        async with (
            Brain() as brain,
            Eyes() as eyes,
            running(options.settings(brain.url, eyes.url), connections=connections) as port,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE, limits=limits, trust_env=False
            ) as client,
        ):
            yield House(brain, eyes, port, client)


# What is left behind


@dataclass(frozen=True, slots=True)
class Footprint:
    tasks: int
    descriptors: int

    @classmethod
    def now(cls) -> Footprint:
        return cls(len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")))

    async def returns(self, *, within: float = DEADLINE) -> None:
        """Wait until no more is there than was then.  Idle connections are kept for two seconds by intent."""
        await becomes(
            lambda: Footprint.now().tasks <= self.tasks and Footprint.now().descriptors <= self.descriptors,
            within=within,
        )


async def becomes(condition: Callable[[], bool], *, within: float = DEADLINE) -> None:
    """Wait until this holds; AssertionError when it never does."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not condition():
        if loop.time() > end:
            tasks = "\n".join(map(repr, asyncio.all_tasks()))
            raise AssertionError(f"still not so after {within} s; {Footprint.now()}\n{tasks}")
        await asyncio.sleep(0.01)


async def soon(work: Awaitable[Any], within: float = DEADLINE) -> Any:
    async with asyncio.timeout(within):
        return await work


# The real command


@dataclass(slots=True)
class ServiceProcess:
    process: asyncio.subprocess.Process
    port: int
    log: Path

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Its status, as soon as it is over."""
        return int(await soon(self.process.wait()))


@asynccontextmanager
async def service_process(
    folder: Path, tables: Mapping[str, Any], *arguments: str, environ: Mapping[str, str] | None = None
) -> AsyncIterator[ServiceProcess]:
    """`chiasm serve` with this configuration and hardly an environment; killed at the end where it still runs."""
    config = folder / "config.toml"
    config.write_text(_toml(tables))
    log = folder / "stderr.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "router.cli",
            "serve",
            "--config",
            str(config),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **(environ or {})},
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        greeting = (await soon(process.stdout.readline())).decode()
        assert greeting.startswith("Chiasm listens on "), (greeting, log.read_text())
        port = int(greeting.split()[3].split(":")[2].partition("/")[0])
        yield ServiceProcess(process, port, log)
    finally:
        # With its workers, if it has any: they hold its output open for as long as they live.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # To the end of its output, or the pipe stays open.
        await soon(process.communicate())


def _toml(tables: Mapping[str, Any]) -> str:
    """Tables of plain values; JSON's strings, numbers and booleans are TOML's."""
    lines: list[str] = []
    for name, value in tables.items():
        for table in value if isinstance(value, list) else [value]:
            lines.append(f"[[{name}]]" if isinstance(value, list) else f"[{name}]")
            lines += [f"{key} = {orjson.dumps(item).decode()}" for key, item in table.items()]
    return "\n".join(lines) + "\n"


def children_of(pid: int) -> list[int]:
    """Processes that this one has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
