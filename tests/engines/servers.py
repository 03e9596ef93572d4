"""Real engines as processes of our own: started on a free loopback port, waited for, always ended by their process id.

Run as a program it serves the brain and the eyes on one engine while a command runs, and tells the command where:

    python -m tests.engines.servers llamacpp .venv/bin/pytest tests/engines

Its exit code is the command's; a server that does not start is an error before the command begins.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import httpx

from tests.engines.engines import BRAIN_VARIABLE, ENGINE_VARIABLE, ENGINES, EYES_VARIABLE, ROOT, Engine, Model

START_SECONDS = 60.0
"""Chiasm is up in a second and llama-server in less; the rest is for a machine that is busy with other things."""

STOP_SECONDS = 30.0
"""Between asking a process to end and ending it."""


class DidNotStart(Exception):
    """A process ended, or stayed silent, before it was ready.  `str(error)` carries the end of its output."""


def logs(engine: str) -> Path:
    """Where the output of all processes of a run stays; each run begins it anew."""
    folder = ROOT / ".engines" / "logs" / engine
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def free_port() -> int:
    """A loopback port nobody listens on now.  Should another process take it first, the start fails and says so."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(
    command: Sequence[str],
    *,
    ready_url: str,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    start_seconds: float = START_SECONDS,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` while the block runs, which begins when `ready_url` answers 200.

    Output goes to `log`.  Raises `DidNotStart`.  The process is gone when the block is left, however it is left, and so
    is every process that it started.
    """
    with log.open("wb") as output:
        # A session of its own: vLLM's engine is a child of its server, and must not outlive it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, ready_url, log, start_seconds)
        yield process
    finally:
        _end(process)


@contextmanager
def serving(engine: Engine, model: Model) -> Iterator[str]:
    """Serve a model of tests/models on an engine; gives the base URL, which ends in /v1."""
    port = free_port()
    # Two servers, the service and the tests share the machine with whatever else runs on it.
    command = ["nice", "-n", "5", *engine.command(model, port)]
    with running(
        command,
        ready_url=f"http://127.0.0.1:{port}/health",
        log=logs(engine.name) / f"{model}.log",
        cwd=ROOT,
        env={**os.environ, **engine.environment},
        start_seconds=engine.start_seconds,
    ):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def brain_and_eyes(engine: Engine) -> Iterator[tuple[str, str]]:
    """Both models at once; gives their base URLs."""
    with serving(engine, "brain") as brain, serving(engine, "eyes") as eyes:
        yield brain, eyes


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    # A proxy from the environment has no business between this machine and itself.
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise DidNotStart(f"{process.args!r} ended with code {process.returncode}; it said:\n{_tail(log)}")
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    raise DidNotStart(f"{url} did not answer 200 within {seconds:.0f} s; {process.args!r} said:\n{_tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    with suppress(ProcessLookupError):  # raised when it left nothing behind
        os.killpg(process.pid, signal.SIGKILL)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def _leave(number: int, _frame: FrameType | None) -> None:
    # An exception, because that is what runs the `finally` blocks which end the servers.
    raise SystemExit(128 + number)


def main(arguments: Sequence[str]) -> int:
    """Run a command beside both models; returns its exit code, or 3 when a model does not start."""
    if len(arguments) < 2 or arguments[0] not in ENGINES:
        print(f"usage: python -m tests.engines.servers {'|'.join(ENGINES)} COMMAND [ARGUMENT...]", file=sys.stderr)
        return 2
    engine, command = ENGINES[arguments[0]], arguments[1:]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with brain_and_eyes(engine) as (brain, eyes):
            print(f"{engine.name}: brain {brain}  eyes {eyes}", flush=True)
            told = {ENGINE_VARIABLE: engine.name, BRAIN_VARIABLE: brain, EYES_VARIABLE: eyes}
            child = subprocess.Popen(command, env={**os.environ, **told})
            try:
                return child.wait()
            finally:
                if child.poll() is None:
                    child.terminate()
                    child.wait(STOP_SECONDS)
    except (DidNotStart, OSError) as error:
        print(f"{engine.name} did not start: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
