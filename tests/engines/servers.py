"""Real engines as processes of our own: started on a free loopback port, waited for, always ended by their process id.

Run as a program it serves the brain and the eyes while a command runs, and tells the command where they are:

    python -m tests.engines.servers .venv/bin/pytest tests/engines

Its exit code is the command's; a server that does not start is an error before the command begins.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx

BRAIN_VARIABLE = "CHIASM_TEST_BRAIN"
EYES_VARIABLE = "CHIASM_TEST_EYES"
"""Where the command finds the base URLs, both ending in /v1."""

START_SECONDS = 60.0
"""llama-server is up in 0.2 s; the rest is for a machine that is busy with other things."""

STOP_SECONDS = 20.0
"""Between asking a process to end and ending it."""

_ROOT = Path(__file__).resolve().parents[2]
_BINARY = _ROOT / ".engines" / "llama-server"
_MODELS = _ROOT / "tests" / "models"


class DidNotStart(Exception):
    """A process ended, or stayed silent, before it was ready.  `str(error)` carries the end of its output."""


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

    Output goes to `log`.  Raises `DidNotStart`.  The process is gone when the block is left, however it is left.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env=env
        )
    try:
        _wait_until_ready(process, ready_url, log, start_seconds)
        yield process
    finally:
        _end(process)


@contextmanager
def llama_server(name: str, log: Path, *files: str) -> Iterator[str]:
    """Serve a model of tests/models; gives the base URL, which ends in /v1.

    `files` are llama-server's own options ("-m", "brain.gguf" and so on); a name that ends in .gguf is looked up.
    """
    port = free_port()
    models = [str(_MODELS / word) if word.endswith(".gguf") else word for word in files]
    # One thread is as fast as two for models this small, and leaves the other core to the service under test.
    command = [str(_BINARY), "--host", "127.0.0.1", "--port", str(port), "--alias", name, "--jinja"]
    command += ["-t", "1", "-c", "8192", "-np", "2", "--no-warmup", *models]
    with running(command, ready_url=f"http://127.0.0.1:{port}/health", log=log):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def brain_and_eyes(logs: Path) -> Iterator[tuple[str, str]]:
    """Both models at once; gives their base URLs."""
    with (
        llama_server("brain", logs / "brain.log", "-m", "brain.gguf") as brain,
        llama_server("eyes", logs / "eyes.log", "-m", "eyes.gguf", "--mmproj", "eyes-mmproj.gguf") as eyes,
    ):
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


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def _leave(number: int, _frame: FrameType | None) -> None:
    # An exception, because that is what runs the `finally` blocks which end the servers.
    raise SystemExit(128 + number)


def main(command: Sequence[str]) -> int:
    """Run `command` beside both models; returns its exit code, or 3 when a model does not start."""
    if not command:
        print("usage: python -m tests.engines.servers COMMAND [ARGUMENT...]", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="chiasm-engines-") as logs,
            brain_and_eyes(Path(logs)) as (brain, eyes),
        ):
            print(f"brain {brain}  eyes {eyes}", flush=True)
            child = subprocess.Popen(command, env={**os.environ, BRAIN_VARIABLE: brain, EYES_VARIABLE: eyes})
            try:
                return child.wait()
            finally:
                _end(child)
    except (DidNotStart, OSError) as error:
        print(f"the engines did not start: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
