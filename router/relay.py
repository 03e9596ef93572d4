"""Runs an exchange: does what it asks for, tells it what happened.  The only loop there is.

The hot path is `_listen`: one read of the socket gives some bytes, the reader makes parts of them, the exchange
decides about each, the writer makes bytes again, and all that came of one read leaves in one write.  Nothing in it
waits but the two sockets, so a slow client slows the upstream's socket down and nothing grows in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, assert_never

from router.errors import UpstreamError, UpstreamSilent
from router.protocol.dialect import Reader, Writer
from router.protocol.events import (
    Action,
    CallTools,
    Complete,
    Fail,
    Keep,
    OpenUpstream,
    SendPart,
    ToolsCompleted,
    UpstreamEnded,
    UpstreamFailed,
)
from router.protocol.exchange import Exchange
from router.protocol.parts import Part
from router.telemetry.watch import ExchangeWatch
from router.upstream import UNREACHED, Upstream
from tools.toolbox import Toolbox

RETRY_SECONDS = 0.1
"""Before the one retry: long enough for a server's restarting worker to be replaced, short enough not to be felt."""

PATIENCE_SECONDS = 20.0
"""The longest `Retry-After` that a follow-up waits for: the client holds half an answer meanwhile."""

AFTER_FINISH_SECONDS = 5.0
"""Silence allowed after a finish reason: only usage and the end can follow, and the answer is whole without them."""


AFTER_DONE_SECONDS = 0.25
"""After `[DONE]` only the end of the body can come; waiting for it lets the connection be used again."""


class Out(Protocol):
    """Where the answer goes; `router.response.EventStream` is one."""

    async def write(self, data: bytes) -> None: ...

    async def finish(self, data: bytes) -> None:
        """Write `data`, the last of the answer."""

    async def beat(self) -> None: ...


class Relay:
    def __init__(
        self,
        *,
        exchange: Exchange,
        upstream: Upstream,
        path: str,
        headers: Mapping[str, str],
        reader: Callable[[str], Reader],
        writer: Writer,
        out: Out,
        toolbox: Toolbox,
        keep: Callable[[Keep], Awaitable[None]],
        fill: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]],
        as_sent: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        first_byte_seconds: float,
        idle_seconds: float,
        watch: ExchangeWatch,
    ) -> None:
        """`reader`: makes the reader for an answer of the given content type.  `fill`: makes a request what the brain
        gets, in outline; `as_sent`: gives that the form of the wire."""
        self._exchange = exchange
        self._upstream = upstream
        self._path = path
        self._headers = headers
        self._reader = reader
        self._writer = writer
        self._out = out
        self._toolbox = toolbox
        self._keep = keep
        self._fill = fill
        self._as_sent = as_sent
        self._first_byte_seconds = first_byte_seconds
        self._idle_seconds = idle_seconds
        self._watch = watch

    async def run(self) -> Complete:
        """Returns when the answer is complete and written.  Raises the `ChiasmError` that ended it otherwise; nothing
        of that has been written then."""
        actions: Sequence[Action] = self._exchange.start()
        while True:
            match waiting := await self._perform(actions):
                case OpenUpstream(request):
                    with self._watch.turn(self._exchange.turn, request) as turn:
                        actions = await self._read_turn(self._as_sent(await self._fill(request)))
                        turn.ended(actions)
                case CallTools(calls):
                    await self._out.beat()
                    actions = self._exchange.handle(ToolsCompleted(await self._toolbox.call_all(calls)))
                case Complete(reason, usage):
                    await self._out.finish(self._writer.complete(reason, usage))
                    return waiting
                case Fail(error):
                    raise self._upstream.redacted(error) if isinstance(error, UpstreamError) else error
                case None:
                    raise AssertionError(f"{self._exchange!r} waits for nothing")
                case _:
                    assert_never(waiting)

    async def _perform(self, actions: Sequence[Action]) -> OpenUpstream | CallTools | Complete | Fail | None:
        """Write what is to be written; the action that makes the exchange wait or end is the answer."""
        frames: list[bytes] = []
        last: OpenUpstream | CallTools | Complete | Fail | None = None
        kept: Keep | None = None
        for action in actions:
            match action:
                case SendPart(part):
                    frames.append(self._writer.write(part))
                case Keep():
                    kept = action
                case OpenUpstream() | CallTools() | Complete() | Fail():
                    last = action
                case _:
                    assert_never(action)
        if data := b"".join(frames):
            self._watch.wrote(len(frames))
            await self._out.write(data)
        if kept is not None:
            await self._keep(kept)  # before the answer ends: the client's next request is to find it
        return last

    async def _read_turn(self, request: Mapping[str, Any]) -> Sequence[Action]:
        """One turn, asked again at most once, and only while it has said nothing: nobody has seen anything of it, and
        nothing of it was billed."""
        try:
            return await self._hear(request)
        except UpstreamError as error:
            pause = self._pause(error)
            if pause is None:
                return self._exchange.handle(UpstreamFailed(error))
        await asyncio.sleep(pause)
        try:
            return await self._hear(request)
        except UpstreamError as error:
            return self._exchange.handle(UpstreamFailed(error))

    def _pause(self, error: UpstreamError) -> float | None:
        """How long to wait before asking again; `None`: do not."""
        if self._exchange.heard:
            return None
        if error.code in UNREACHED:
            return RETRY_SECONDS
        if self._exchange.turns > 1 and error.retry_after is not None and error.retry_after <= PATIENCE_SECONDS:
            return error.retry_after  # on the first turn the client is told and decides; now it cannot be any more
        return None

    async def _hear(self, request: Mapping[str, Any]) -> Sequence[Action]:
        exchange = self._exchange
        reader: Reader | None = None
        try:
            async with (
                silence_limit(self._first_byte_seconds) as silence,
                self._upstream.complete(self._path, request, self._headers) as answer,
            ):
                reader = self._reader(answer.content_type)
                try:
                    # A task of its own: whatever wakes a task goes through each coroutine between it and what it waits
                    # for, and from the server's task to here there are more than from here to the socket.
                    if end := await asyncio.create_task(self._listen(answer.chunks, reader, silence)):
                        return end
                finally:
                    self._upstream.heard(answer.headers, reader.first)
        except UpstreamError:
            # Out here, because only on the way out do a broken connection and silence become one of these.
            if reader is None or not reader.clean:
                raise
        return exchange.handle(UpstreamEnded(reader.clean))

    async def _listen(self, chunks: AsyncIterable[bytes], reader: Reader, silence: Silence) -> list[Action]:
        """All of a turn's body.  Answers what is to be done when that ended the turn: an error does."""
        exchange, out = self._exchange, self._out
        heard = False
        async for data in chunks:
            silence.pause()
            if not heard:
                heard = True
                self._watch.heard()
            told, end = self._told(reader.feed(data))
            if told:
                await out.write(told)
            if end:
                return end
            if reader.clean:
                silence.listen(AFTER_DONE_SECONDS)
            else:
                silence.listen(AFTER_FINISH_SECONDS if exchange.finished else self._idle_seconds)
        silence.pause()
        told, end = self._told(reader.close())
        if told:
            await out.write(told)
        return end

    def _told(self, parts: Sequence[Part]) -> tuple[bytes, list[Action]]:
        """What one read said, for one write; and what is to be done when that ended the turn."""
        handle, write = self._exchange.handle, self._writer.write
        frames: list[bytes] = []
        end: list[Action] = []
        for part in parts:
            for action in handle(part):
                if isinstance(action, SendPart):
                    frames.append(write(action.part))
                else:
                    end.append(action)
            if end:
                break
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        if data:
            self._watch.wrote(len(frames))
        return data, end


class Silence:
    """The time an upstream may say nothing.  Counts only while we listen: when the client reads slowly, the silence
    is ours.  Costs a clock reading per chunk and no timer."""

    def __init__(self, seconds: float, expire: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._expire = expire
        self.seconds = seconds
        self._since: float | None = self._loop.time()
        self._timer = self._loop.call_later(seconds, self._check)

    def pause(self) -> None:
        self._since = None

    def listen(self, seconds: float) -> None:
        """From now on, at most so long."""
        if seconds < self.seconds:
            self._timer.cancel()
            self._timer = self._loop.call_later(seconds, self._check)
        self.seconds = seconds
        self._since = self._loop.time()

    def close(self) -> None:
        self._timer.cancel()

    def _check(self) -> None:
        quiet = 0.0 if self._since is None else self._loop.time() - self._since
        if quiet >= self.seconds:
            self._expire()
        else:
            self._timer = self._loop.call_later(self.seconds - quiet, self._check)


@asynccontextmanager
async def silence_limit(seconds: float) -> AsyncIterator[Silence]:
    """Raises `UpstreamSilent` into the body when nobody said anything for too long."""
    try:
        async with asyncio.timeout(None) as limit:
            silence = Silence(seconds, lambda: limit.reschedule(asyncio.get_running_loop().time()))
            try:
                yield silence
            finally:
                silence.close()
    except TimeoutError:
        raise UpstreamSilent(f"the text model's server said nothing for {silence.seconds:g} seconds") from None
