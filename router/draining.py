"""The end of a process, in the order in which those outside can follow.

On SIGTERM `/readyz` says so first.  A balancer needs a moment to see it and to send requests elsewhere, so the listener
stays open for `DELAY_SECONDS`; but only where somebody has asked `/readyz` lately, since whoever does not ask need not
be waited for.  Then nothing more is let in, and running answers have what is left of `drain_seconds`.  SIGINT, which is
Ctrl-C, knows no such delay.  Who says it twice means at once: the process ends as it is.

Under several workers a SIGTERM follows each SIGINT, from the process that watches over them; that is not a second one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import uvicorn
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from router.health import Readiness

DELAY_SECONDS = 5.0
"""What balancers need that ask every second or two; see `_delay`."""

_SHARE = 6
"""At most this part of `drain_seconds` goes into the delay."""

_LOOKS_EVERY = 0.1


@asynccontextmanager
async def draining(readiness: Readiness, *, drain_seconds: float) -> AsyncIterator[None]:
    """Within it, signals to this process end it in this order, if it is uvicorn that hears them."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if not isinstance(server, uvicorn.Server):  # a test, or a server that has its own way
        yield
        return
    end = _End(server, readiness, drain_seconds)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # The same way as uvicorn, which puts the handlers from before back when it ends.
        signal.signal(number, lambda number, _: loop.call_soon_threadsafe(end.told, number))
    parent = multiprocessing.parent_process()

    def orphaned() -> None:
        loop.remove_reader(gone)  # it stays readable
        end.orphaned()

    if parent is not None:
        # A parent that is killed tells nobody to end, and its workers would keep the address.
        gone = parent.sentinel
        loop.add_reader(gone, orphaned)
    try:
        yield
    finally:
        end.close()
        if parent is not None:
            loop.remove_reader(gone)


class _End:
    """What was told so far, and what becomes of it."""

    def __init__(self, server: uvicorn.Server, readiness: Readiness, drain_seconds: float) -> None:
        self._server = server
        self._readiness = readiness
        self._drain_seconds = drain_seconds
        self._heard: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def told(self, number: int) -> None:
        again = number in self._heard or (number == signal.SIGINT and bool(self._heard))
        self._heard.append(number)
        if again:
            self._server.force_exit = True
            self._stop_accepting(self._heard[0], 0.0)
        elif len(self._heard) == 1:
            delay = self._delay() if number == signal.SIGTERM else 0.0
            self._readiness.draining = True
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay, self._stop_accepting, number, delay)

    def orphaned(self) -> None:
        if not self._heard:
            self.told(signal.SIGINT)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _delay(self) -> float:
        return min(DELAY_SECONDS, self._drain_seconds / _SHARE) if self._readiness.is_watched() else 0.0

    def _stop_accepting(self, number: int, delay: float) -> None:
        self.close()
        # uvicorn counts whole seconds, and takes 0 for "no limit".
        self._server.config.timeout_graceful_shutdown = max(1, round(self._drain_seconds - delay))
        self._server.handle_exit(number, None)


class Workers(Multiprocess):
    """Several processes, which all end at once when this one is told so twice."""

    _at_once = False

    def handle_int(self) -> None:
        self._told()

    def handle_term(self) -> None:
        self._told()

    def _told(self) -> None:
        self._at_once = self.should_exit.is_set()
        self.should_exit.set()

    def keep_subprocess_alive(self) -> None:
        if all(self._is_well(worker) for worker in self.processes) or self._is_told():
            return
        super().keep_subprocess_alive()

    def _is_well(self, worker: Process) -> bool:
        """uvicorn waits five seconds for a word of a worker that is just ending, and hears no signal meanwhile: the
        listener would stay open with nobody behind it."""
        with suppress(OSError, EOFError):
            worker.parent_conn.send(b"ping")
            enough = time.monotonic() + self.config.timeout_worker_healthcheck
            while worker.process.is_alive() and not self._is_told() and time.monotonic() < enough:
                if worker.parent_conn.poll(_LOOKS_EVERY):
                    worker.parent_conn.recv()
                    return True
        return False

    def _is_told(self) -> bool:
        return not {signal.SIGTERM, signal.SIGINT}.isdisjoint(self.signal_queue)

    def join_all(self) -> None:
        for listening in self.sockets:
            listening.close()  # or whoever comes now is let in and never answered
        workers = [worker.process for worker in self.processes]
        while any(worker.is_alive() for worker in workers):
            if self._at_once or self._is_told():
                for worker in workers:
                    worker.kill()
            for worker in workers:
                worker.join(_LOOKS_EVERY / len(workers))
