"""A real `redis-server` for tests: on loopback, in a folder of its own, with nothing kept after it.

with redis_server("--maxmemory", "1mb") as server:
    store = RedisStore(server.url)
    server.client.flushall()           # what somebody else does to the server
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

HANG = 30.0
"""Seconds that no answer comes near; only there so that a hang is a failure."""

_STARTS = 10
"""A port that was free a moment ago may be somebody's now."""


class RedisServer:
    """One server, which may die and come back on the same port."""

    def __init__(self, folder: Path, arguments: Sequence[str], scheme: str) -> None:
        self._folder = folder
        self._arguments = arguments
        self._scheme = scheme
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.client = redis.Redis()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def url_with(self, password: str, user: str = "") -> str:
        return self.url.replace("://", f"://{user}:{password}@")

    def start(self) -> None:
        """Start it, on the port it had before if it had one, and wait until it answers."""
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        assert program is not None, "redis-server is not installed; tests/install_redis.sh does it"
        for _ in range(_STARTS):
            port = self.port or _free_port()
            self._process = self._launched(program, port)
            if self._answers(port):
                self.port = port
                return
            self.kill()
        raise AssertionError((self._folder / "log").read_text())

    def kill(self) -> None:
        """As power loss would."""
        self.client.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait(HANG)
            self._process = None

    def admin(self, *command: str) -> None:
        """What only a command line can say."""
        self.client.execute_command(*command)  # type: ignore[no-untyped-call]

    def names(self) -> list[bytes]:
        """Every key there is, as the server knows it."""
        return list(self.client.scan_iter(count=1000))

    def freeze(self) -> None:
        """It goes on accepting connections (the kernel does), and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _launched(self, program: str, port: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                program,
                *("--bind", "127.0.0.1"),
                *(("--port", "0", "--tls-port", str(port)) if self._scheme == "rediss" else ("--port", str(port))),
                *("--unixsocket", str(self._folder / "socket")),
                *("--dir", str(self._folder)),
                *("--logfile", str(self._folder / "log")),
                *("--save", "", "--appendonly", "no"),
                *self._arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def socket(self) -> Path:
        return self._folder / "socket"

    def _answers(self, port: int) -> bool:
        """Whether this very process, and not another one's server on that port, is there."""
        assert self._process is not None
        self.client = redis.Redis(unix_socket_path=str(self.socket), socket_timeout=HANG, protocol=2)
        end = time.monotonic() + HANG
        while self._process.poll() is None and time.monotonic() < end:
            with suppress(redis.RedisError):
                info = self.client.info("server")
                return int(info["process_id"]) == self._process.pid
            time.sleep(0.01)
        return False


@contextmanager
def redis_server(*arguments: str, scheme: str = "redis") -> Iterator[RedisServer]:
    """A running server; `arguments` are added to its command line."""
    # Not below the tests' own folder, whose path can be longer than the name of a socket may be.
    with tempfile.TemporaryDirectory(prefix="chiasm-redis-") as folder:
        server = RedisServer(Path(folder), arguments, scheme)
        server.start()
        try:
            yield server
        finally:
            server.kill()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
