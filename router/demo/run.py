"""The flow of `chiasm demo`: two servers on loopback, one request through both, every step shown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from cache.image import DEFAULT_LIMITS, BadImage, inspect
from router.app import create_app
from router.config import ServerSettings, Settings, StoreSettings, TextSettings, VisionSettings
from router.demo.brain import StandIn
from router.demo.draw_sample import SAMPLE
from router.demo.show import Answered, Heard, OutputClosed, Picture, Sent, Show, Step, open_console
from router.http_client import http_client
from router.protocol.chat.reader import ChunkReader
from router.protocol.parts import ErrorFrame, Finish, Part, Reasoning, Text, ToolStart
from tools.vision.ocr import OcrEyes

SAMPLE_QUESTION = "What went wrong, and what now?"
QUESTION = "What does this image say?"

_GOOD, _NOT_AS_PROMISED = 0, 1
_OUTPUT_CLOSED = 141
"""What a shell reports for a program that wrote into a closed pipe."""


class CannotRun(Exception):
    """There is nothing to demonstrate with.  `str(error)` is one line that says what to do."""


def demo(image: Path | None, question: str | None, *, serve: bool) -> int:
    """Run the demo and return the exit code: 0 only if words that stand in the image stand in the answer.

    `image` and `question` default to the sample and a question that fits.  With `serve` it stays until SIGINT or
    SIGTERM.  Raises `CannotRun`.
    """
    picture = _picture(image or SAMPLE)
    words = " ".join((question or "").split()) or (QUESTION if image else SAMPLE_QUESTION)
    show = Show(open_console(), picture, words)
    try:
        code, told = asyncio.run(_until_told(_demo(show, picture, words, serve=serve)))
    except OutputClosed:
        return _OUTPUT_CLOSED
    finally:
        show.close()
    if told:
        os._exit(code)  # `sys.exit` waits for threads, and one that is recognising text takes seconds to end
    return code


def _picture(path: Path) -> Picture:
    if path.is_dir():
        raise CannotRun(f"{str(path)!r} is a folder; give the path of an image")
    if not path.exists():
        raise CannotRun(f"there is no file {str(path)!r}; usage: chiasm demo [IMAGE] [QUESTION]")
    if not path.is_file():
        raise CannotRun(f"{str(path)!r} is not a file; give the path of an image")
    try:
        if path.stat().st_size > DEFAULT_LIMITS.max_bytes:
            raise CannotRun(
                f"{str(path)!r} is larger than {DEFAULT_LIMITS.max_bytes // 2**20} MiB; take a smaller image"
            )
        data = path.read_bytes()
        info = inspect(data)
    except OSError as error:
        raise CannotRun(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    except BadImage as bad:
        raise CannotRun(f"{str(path)!r} cannot be used: {bad}; take a PNG, JPEG, WEBP, GIF or BMP file") from None
    return Picture(path.name, info.media_type, info.width, info.height, data, b64encode(data).decode())


async def _until_told(work: Coroutine[Any, Any, int]) -> tuple[int, bool]:
    """Do `work`, and end it in good order when the process is told to stop: the exit code, and whether it was told."""
    task = asyncio.ensure_future(work)
    told: list[int] = []

    def stop(number: int) -> None:
        told.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows, where Ctrl-C raises KeyboardInterrupt instead
            loop.add_signal_handler(number, stop, number)
    try:
        return await task, bool(told)
    except asyncio.CancelledError:
        if not told:
            raise
        return 128 + told[0], True


async def _demo(show: Show, picture: Picture, question: str, *, serve: bool) -> int:
    await _check_eyes()
    steps: asyncio.Queue[tuple[float, Step]] = asyncio.Queue()
    clock = asyncio.get_running_loop().time

    def tell(step: Step) -> None:
        steps.put_nowait((clock(), step))

    with loopback_socket() as brain_socket, loopback_socket() as router_socket:
        brain_url, router_url = _url(brain_socket), _url(router_socket)
        async with (
            running(StandIn(tell).app, brain_socket),
            running(create_app(_settings(brain_url)), router_socket),
            http_client() as client,
        ):
            show.opening(brain_url, router_url)
            model = await _first_model(client, router_url)
            asking = asyncio.create_task(_ask(client, router_url, model, picture, question, tell))
            try:
                answered = await _follow(show, steps)
                await asking
            finally:
                asking.cancel()
            good = show.verdict(answered)
            code = _GOOD if good else _NOT_AS_PROMISED
            if not serve:
                if good:
                    show.next_steps()
                return code
            show.serving(router_url, model, _curl(router_url, model))
            with contextlib.suppress(asyncio.CancelledError):
                await _follow(show, steps)
            return code


async def _check_eyes() -> None:
    eyes = OcrEyes()
    try:
        problem = await eyes.ready()
    finally:
        await eyes.close()
    if problem is not None:
        raise CannotRun(problem)


async def _follow(show: Show, steps: asyncio.Queue[tuple[float, Step]]) -> Answered:
    """Show steps until the demo's own request is answered.  The queue keeps everything that prints in one task."""
    while True:
        now, step = await steps.get()
        show.tell(now, step)
        if isinstance(step, Answered):
            return step


# The client


async def _first_model(client: httpx.AsyncClient, url: str) -> str:
    listed = await client.get(f"{url}/models")
    return str(listed.raise_for_status().json()["data"][0]["id"])


async def _ask(
    client: httpx.AsyncClient, url: str, model: str, picture: Picture, question: str, tell: Callable[[Step], None]
) -> None:
    """The demo's own client: posts the image and the question like any other, and tells what comes back."""
    request_id = f"demo-{secrets.token_hex(8)}"
    body = json.dumps(_request(model, question, f"data:{picture.media_type};base64,{picture.base64}")).encode()
    pieces = calls = 0
    reason = problem = ""
    tell(Sent(request_id, len(body)))
    try:
        async with aclosing(_parts(client, f"{url}/chat/completions", body, request_id)) as parts:
            async for part in parts:
                match part:
                    case Text(text) | Reasoning(text):
                        pieces += 1
                        tell(Heard(text, reasoning=isinstance(part, Reasoning)))
                    case ToolStart():
                        calls += 1
                    case Finish(said):
                        reason = said
                    case _:
                        pass
    except _Failed as failed:
        problem = str(failed)
    except httpx.HTTPError as error:
        problem = f"the connection broke ({type(error).__name__})"
    tell(Answered(pieces, calls, reason, problem))


async def _parts(client: httpx.AsyncClient, url: str, body: bytes, request_id: str) -> AsyncGenerator[Part, None]:
    """The answer's stream in the parts that a client tells apart.  Raises `_Failed`."""
    headers = {"content-type": "application/json", "x-request-id": request_id}
    reader = ChunkReader(lambda: f"call_{secrets.token_hex(12)}")
    async with client.stream("POST", url, content=body, headers=headers) as response:
        if response.status_code != 200:
            raise _Failed(_words(await response.aread()))
        async for data in response.aiter_raw():
            for part in reader.feed(data):
                if isinstance(part, ErrorFrame):
                    raise _Failed(part.message)
                yield part
    if not reader.clean:
        raise _Failed("the stream ended without [DONE]")


class _Failed(Exception):
    """An answer that is none."""


def _request(model: str, question: str, data_url: str) -> dict[str, Any]:
    content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": data_url}}]
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": content}]}


def _words(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")


def _curl(url: str, model: str) -> str:
    """A command for any POSIX shell; the image is read when it runs, so that another can be put in its place."""
    body = json.dumps(_request(model, SAMPLE_QUESTION, "data:image/png;base64,\0"), ensure_ascii=False)
    before, after = (part.replace("'", "'\\''") for part in body.split("\\u0000"))
    image = f"\"$(base64 < {shlex.quote(str(SAMPLE))} | tr -d '\\n')\""
    return f"  curl -N {url}/chat/completions -H 'content-type: application/json' -d '{before}'{image}'{after}'"


# The servers


def _settings(brain_url: str) -> Settings:
    return Settings(
        server=ServerSettings(port=0),
        text=(TextSettings(base_url=brain_url),),
        vision=(VisionSettings(kind="ocr"),),
        store=StoreSettings(kind="memory"),
    )


def _url(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


@contextlib.contextmanager
def loopback_socket() -> Iterator[socket.socket]:
    """A socket that listens on a free port, for this machine only."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


class _Server(uvicorn.Server):
    """Leaves signals alone: there are two of these, and `_until_told` ends both."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def running(app: Any, listening: socket.socket) -> AsyncIterator[None]:
    """Serve `app` meanwhile.  The socket listens already, so whoever comes too early waits in its queue."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="auto",
        log_config=None,
        log_level="critical",  # on Ctrl-C it would report every stream that it cuts
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
