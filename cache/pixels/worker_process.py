"""One worker seen from outside: started, asked, and at the end of its time killed.

Reading and writing block, in a thread of the caller's; what ends them is the worker's death, and a timer sees to that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event, Timer
from typing import Any

from cache.pixels.frames import HEAD, BadFrame, head_and_facts, lengths, parsed

_WORKER = Path(__file__).with_name("worker.py")

_START_SECONDS = 30.0
"""It takes a tenth of a second; on a machine that is out of breath, some."""

_END_SECONDS = 1.0

_PIPE_BYTES = 1024 * 1024
"""What Linux lets anybody have instead of 64 KiB: a screenshot goes through in one piece."""

_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}
"""Nothing of ours.  glibc reserves 64 MiB of address space for each thread's heap, and address space is what is
limited."""


class WorkerDied(Exception):
    """In the middle of a picture, or before."""


class OutOfTime(Exception):
    """It was killed because a picture took too long, by us or by the system."""


class CannotStart(Exception):
    """This machine lets no worker begin."""


class WorkerProcess:
    """For one caller at a time.  Sizes in bytes; `seconds` are of wall time, and of processor time, for each picture.
    `most` is the size of the largest picture or answer."""

    def __init__(self, *, memory: int, seconds: float, most: int) -> None:
        """Raises `CannotStart`."""
        self._seconds = seconds
        self._most = most
        self.done = 0
        command = [sys.executable, "-I", "-B", str(_WORKER)]
        told = [str(os.getpid()), str(memory), str(seconds), str(most)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own file, in our own interpreter)
                [*command, *told],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=os.path.abspath(os.sep),
                env=_environment(),
                start_new_session=True,  # else Ctrl-C ends it before the answers that still run
            )
        except OSError as error:
            raise CannotStart(str(error)) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        _widen(self._in.fileno())
        _widen(self._out.fileno())
        try:
            self._within(_START_SECONDS, self._heard)
        except (WorkerDied, OutOfTime) as error:
            self.kill()
            raise CannotStart("a worker for pictures ended before it was ready") from error

    def __repr__(self) -> str:
        return f"<WorkerProcess {self._process.pid}, {self.done} pictures>"

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, work: str, data: bytes, how: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """What it says about `data`.  Raises `WorkerDied` or `OutOfTime`, and is of no use afterwards."""
        self.done += 1

        def talk() -> tuple[dict[str, Any], bytes]:
            self._in.write(head_and_facts({"work": work, "how": dict(how)}, len(data)))
            self._in.write(data)
            self._in.flush()
            return self._heard()

        return self._within(self._seconds, talk)

    def kill(self) -> None:
        """At once, and nothing of it remains."""
        self._process.kill()
        self._let_go()

    def interrupt(self) -> None:
        """Killed while another thread asks it, which notices."""
        self._process.kill()

    def end(self) -> None:
        """As `kill`, but politely."""
        try:
            self._in.close()
            self._process.wait(_END_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
        self._let_go()

    def _within(self, seconds: float, talk: Callable[[], tuple[dict[str, Any], bytes]]) -> tuple[dict[str, Any], bytes]:
        late = Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            return talk()
        except (OSError, ValueError, EOFError, BadFrame) as error:
            self.kill()
            if late.is_set() or self._process.returncode == -_SIGXCPU:
                raise OutOfTime from error
            raise WorkerDied from error
        finally:
            timer.cancel()

    def _heard(self) -> tuple[dict[str, Any], bytes]:
        facts, data = lengths(self._exactly(HEAD.size), self._most)
        return parsed(self._exactly(facts)), self._exactly(data)

    def _exactly(self, size: int) -> bytes:
        found = self._out.read(size)
        if len(found) < size:
            raise EOFError
        return found

    def _let_go(self) -> None:
        self._process.wait()
        for pipe in (self._in, self._out):
            with suppress(OSError):  # what was not yet written cannot be any more
                pipe.close()


_SIGXCPU = 24


def _environment() -> dict[str, str]:
    if sys.platform == "win32":
        return {**_ENVIRONMENT, "SYSTEMROOT": os.environ.get("SYSTEMROOT", "")}  # nothing starts without it
    return _ENVIRONMENT


def _widen(pipe: int) -> None:
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):  # the user has as much of it as one may have
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
