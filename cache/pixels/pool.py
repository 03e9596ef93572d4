"""A few workers, shared by all who need pixels.

A worker is started when all others are busy, and then kept; after some hundred pictures it is replaced, so that what
decoders leak or hostile files leave behind does not stay.  A picture whose time is up, or that two workers died of, is
not given to a third: it is remembered, and refused at once for a while.  Twice, because a worker may also die of what
the picture has nothing to do with, such as a system that is short of memory.

Everything here blocks and is for threads.  The order in which waiting callers are served is theirs to settle.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from threading import BoundedSemaphore, Lock
from typing import Any, Literal

from cache.image import DEFAULT_LIMITS, BadImage, ImageLimits
from cache.pixels.worker_process import CannotStart, OutOfTime, WorkerDied, WorkerProcess
from cache.remembered import Remembered

log = logging.getLogger("chiasm.pixels")

Work = Literal["prepare", "search", "likeness"]

MEMORY = 1024 * 1024 * 1024
"""Address space of a worker, in bytes: enough for every picture up to 50 megapixels."""

BYTES_PER_PIXEL = 21
"""For larger limits: pixels as decoded, turned and laid on white stand in memory at once, at four bytes each, and WEBP
keeps two canvases besides."""

SECONDS = 10.0
"""For one picture.  The slowest that the door lets in takes about as long, see `cache.image.MAX_SCANNED_PIXELS`."""

_PICTURES_PER_WORKER = 500

_ATTEMPTS = 2

_ANSWER_BYTES = 64 * 1024 * 1024
"""Pictures for the eyes stay below a quarter of it."""

_WAIT_SECONDS = 60.0
"""For a free worker.  Who waits longer stands behind a crowd of slow pictures, and is told so."""

_REMEMBERED = 1000
_REFUSED_SECONDS = 600.0

TOO_COSTLY = "too costly to decode"
DAMAGED = "damaged, its decoder failed"


class Refused(Exception):
    """The picture cannot be used.  `words` are those of the work that was asked for."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class NoWorker(Exception):
    """None could be started, or none came free in time: nothing is known about the picture."""


class Pixels:
    """`size`: how many workers at most; as many as there are processors, but two at least, so that one picture that
    takes its whole time does not hold up everybody, and four at most, because of their memory."""

    def __init__(
        self,
        limits: ImageLimits = DEFAULT_LIMITS,
        *,
        size: int | None = None,
        memory: int | None = None,
        seconds: float = SECONDS,
        pictures_per_worker: int = _PICTURES_PER_WORKER,
    ) -> None:
        self.size = max(2, min(4, os.cpu_count() or 1)) if size is None else size
        self._memory = max(MEMORY, BYTES_PER_PIXEL * limits.max_pixels) if memory is None else memory
        self._seconds = seconds
        self._most = max(_ANSWER_BYTES, limits.max_bytes)
        self._pictures_per_worker = pictures_per_worker
        self._free = BoundedSemaphore(self.size)
        self._lock = Lock()
        self._idle: list[WorkerProcess] = []
        self._busy: set[WorkerProcess] = set()
        self._closed = False
        # Linux ends a worker with the thread that started it, so that thread has to stay.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="chiasm-pixels")
        self._bad: Remembered[tuple[str, float]] = Remembered(_REMEMBERED)

    def __repr__(self) -> str:
        return f"<Pixels {len(self._busy)} of {self.size} busy, {len(self._idle)} idle>"

    @property
    def pids(self) -> set[int]:
        """Of the workers there are now."""
        with self._lock:
            return {worker.pid for worker in (*self._idle, *self._busy)}

    def run(
        self, work: Work, data: bytes, how: Mapping[str, Any] | None = None, *, tenant: str = ""
    ) -> tuple[dict[str, Any], bytes]:
        """Have `work` done on `data`: facts and pixels, which are as trustworthy as the picture.

        Raises `Refused` in the work's own words, `BadImage` where a worker was lost on it, `NoWorker`.  `tenant`: for
        whom; what is remembered of a picture is so for him alone.
        """
        self._refuse_known(tenant, data)
        if not self._free.acquire(timeout=_WAIT_SECONDS):
            raise NoWorker("all workers for pictures are busy")
        try:
            answer, pixels = self._run(work, data, how or {})
        except BadImage as bad:
            log.warning("a worker was lost on a picture of %d bytes: %s", len(data), bad.reason)
            self._bad_put(tenant, data, bad.reason)
            raise
        finally:
            self._free.release()
        match answer:
            case {"done": dict(facts)}:
                return facts, pixels
            case {"refused": str(words)}:
                raise Refused(words)
            case _:
                self._bad_put(tenant, data, TOO_COSTLY)
                raise BadImage(TOO_COSTLY)

    def close(self) -> None:
        """End all workers, also those at work, whose callers get `NoWorker`."""
        with self._lock:
            self._closed = True
            idle, busy = self._idle, list(self._busy)
            self._idle = []
        for worker in idle:
            worker.end()
        for worker in busy:
            worker.interrupt()
        self._starter.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Work, data: bytes, how: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        for _ in range(_ATTEMPTS):
            worker = self._take()
            try:
                answer = worker.ask(work, data, how)
            except OutOfTime:
                self._lost(worker)
                raise BadImage(TOO_COSTLY) from None
            except WorkerDied:
                self._lost(worker)
            except BaseException:
                self._lost(worker)
                raise
            else:
                self._give_back(worker, tired="too_costly" in answer[0])
                return answer
        raise BadImage(DAMAGED)

    def _take(self) -> WorkerProcess:
        with self._lock:
            self._check_open()
            if self._idle:
                worker = self._idle.pop()
                self._busy.add(worker)
                return worker
        try:
            worker = self._starter.submit(
                WorkerProcess, memory=self._memory, seconds=self._seconds, most=self._most
            ).result()
        except (CannotStart, CancelledError, RuntimeError) as error:  # the last two: closed meanwhile
            raise NoWorker(str(error)) from error
        with self._lock:
            if not self._closed:
                self._busy.add(worker)
                return worker
        worker.kill()
        raise NoWorker("closed")

    def _give_back(self, worker: WorkerProcess, *, tired: bool) -> None:
        with self._lock:
            self._busy.discard(worker)
            keep = not self._closed and not tired and worker.done < self._pictures_per_worker
            if keep:
                self._idle.append(worker)
        if not keep:
            worker.end()

    def _lost(self, worker: WorkerProcess) -> None:
        worker.kill()
        with self._lock:
            self._busy.discard(worker)
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise NoWorker("closed") from None

    def _refuse_known(self, tenant: str, data: bytes) -> None:
        with self._lock:
            if not len(self._bad):
                return
        key = _key(tenant, data)
        with self._lock:
            known = self._bad.get(key)
            if known is not None and time.monotonic() < known[1]:
                raise BadImage(known[0])

    def _bad_put(self, tenant: str, data: bytes, reason: str) -> None:
        with self._lock:
            self._bad.put(_key(tenant, data), (reason, time.monotonic() + _REFUSED_SECONDS))


def _key(tenant: str, data: bytes) -> str:
    return f"{tenant}/{hashlib.sha256(data).hexdigest()}"
