"""The client's side of an exchange: one event stream that stays alive, starts late and ends honestly.

Written against ASGI itself, because a finished byte string per read is all we ever send and three things must hold
that response classes get in the way of (docs/decisions/0003): the status is decided by the upstream's first word,
heartbeats stand between whole events, and a shutdown lets running answers end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

Message: TypeAlias = Any
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

STALLED_SECONDS = 60.0
"""A client that takes next to nothing for this long while we have something for it is gone in all but name:
`router.connection` sees how much of an answer the system still holds, and ends it."""

GIVE_UP = "chiasm.give_up"
"""Under this name a scope's extensions hold what closes the connection at once, with all that waits to be written."""


class ClientGone(Exception):
    """The client hung up, or stopped reading."""


class EventStream:
    """Bytes out, with a heartbeat whenever nothing was written for `interval` seconds.

    Nothing is sent before the first `write` or heartbeat, so that an error until then can still be a status.
    """

    def __init__(
        self,
        send: Send,
        headers: Mapping[str, str],
        *,
        heartbeat: Callable[[], bytes] | None,
        interval: float,
    ) -> None:
        self._send = send
        self._headers = headers
        self._heartbeat = heartbeat
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._writing_since: float | None = None
        self._waking: asyncio.TimerHandle | None = None
        self._beating: asyncio.Task[None] | None = None
        self.started = False
        self.finished = False

    async def write(self, data: bytes) -> None:
        """Whole events only.  Waits while the client reads slowly, and so does whoever feeds us."""
        if not self.started:
            await self._start()
        self._writing_since = self._last = self._loop.time()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._writing_since = None

    async def beat(self) -> None:
        """A heartbeat now: something slow is about to begin."""
        if self._heartbeat is not None and self._writing_since is None and not self.finished:
            await self.write(self._heartbeat())

    async def finish(self, data: bytes) -> None:
        """The last events and the end of the body, in one write."""
        if not self.started:
            await self._start()
        self.finished = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Heartbeats while the body runs."""
        self._wake_in(self._interval)
        try:
            yield
        finally:
            if self._waking is not None:
                self._waking.cancel()
            if self._beating is not None:
                self._beating.cancel()
                await asyncio.gather(self._beating, return_exceptions=True)

    def _wake_in(self, seconds: float) -> None:
        """A timer: a task that sleeps is memory that each stream holds."""
        self._waking = self._loop.call_later(seconds, self._wake)

    def _wake(self) -> None:
        silent = self._loop.time() - self._last
        if self._writing_since is not None:
            self._wake_in(self._interval)
        elif silent < self._interval:
            self._wake_in(self._interval - silent)
        else:
            self._last = self._loop.time()
            self._beating = self._loop.create_task(self.beat())
            self._wake_in(self._interval)

    async def _start(self) -> None:
        self.started = True
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store",
            "x-accel-buffering": "no",  # nginx would hold the stream back
            **self._headers,
        }
        await self._send(start(200, headers))


def start(status: int, headers: Mapping[str, str]) -> Message:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


async def send_json(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """A whole answer."""
    fields = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    await send(start(status, fields))
    await send({"type": "http.response.body", "body": body})


async def gone(receive: Receive) -> None:
    """Returns when the client hangs up.  Call it after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Awaitable[None]) -> None:
    """Do `work`; when the client hangs up first, cancel it at once and raise `ClientGone`.

    The work stays in the task that asked, and only the watch has one of its own: a held stream is mostly its tasks.
    """
    owner = asyncio.current_task()
    assert owner is not None
    left = False

    async def watch() -> None:
        nonlocal left
        await gone(receive)
        left = True
        owner.cancel()

    watching = asyncio.create_task(watch())
    try:
        await work
    except asyncio.CancelledError:
        if left and owner.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
