"""The processes that a run compares, each a child of this one, and what the kernel knows of them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 30.0
STOP_SECONDS = 5.0

NO_NGINX = (
    "nginx was not found: apt-get install nginx-light\n"
    "Going on without it: ratios are against the brain alone, where there is one."
)

_NGINX = """\
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 0;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream brain {{ server 127.0.0.1:{brain}; keepalive 256; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_buffering off;
    proxy_read_timeout 600s;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://brain; proxy_request_buffering off; }}
    }}
    server {{
        listen 127.0.0.1:{storing_port};
        location / {{ proxy_pass http://brain; proxy_request_buffering on; }}
    }}
}}
"""

_CHIASM = """\
[server]
host = "127.0.0.1"
port = 0

[[text]]
base_url = "http://127.0.0.1:{brain}/v1"

[[vision]]
base_url = "http://127.0.0.1:{brain}/eyes/v1"

[store]
kind = "{store}"
path = "{folder}/store"
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers Chat Completions on a port of loopback; `pid` is what stands in the middle, if any."""

    name: str
    port: int
    pid: int | None = None


@contextmanager
def brain() -> Iterator[Target]:
    script = Path(__file__).with_name("brain.py")
    with _child([sys.executable, str(script)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        yield Target("alone", int(child.stdout.readline()))


def find_nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(program: str, brain_port: int, folder: Path) -> Iterator[tuple[Target, Target]]:
    """The floor, and the same process on a port where it keeps a request's body until it is whole, as it does unless
    told otherwise."""
    port, storing_port = _free_port(), _free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, brain=brain_port, port=port, storing_port=storing_port))
    with _child([program, "-e", str(folder / "nginx-error.log"), "-p", str(folder), "-c", str(config)]) as child:
        _wait_for(port, child)
        yield Target("nginx", port, child.pid), Target("nginx, storing", storing_port, child.pid)


@contextmanager
def chiasm(brain_port: int, folder: Path, *, store: str = "disk", name: str = "chiasm") -> Iterator[Target]:
    """`chiasm serve` with one worker in tool mode, all of its path switched on."""
    home = folder / name
    home.mkdir(exist_ok=True)
    config = home / "config.toml"
    config.write_text(_CHIASM.format(brain=brain_port, store=store, folder=home))
    environ = {key: value for key, value in os.environ.items() if not key.startswith("CHIASM_")}
    command = [sys.executable, "-m", "router.cli", "serve", "--config", str(config)]
    with (
        (home / "log").open("ab") as log,
        _child(command, stdout=subprocess.PIPE, stderr=log, cwd=home, env=environ) as child,
    ):
        assert child.stdout is not None
        greeting = child.stdout.readline().decode()
        if "listens on" not in greeting:
            raise RuntimeError(f"chiasm did not start, it said {greeting!r} and {(home / 'log').read_text()!r}")
        port = int(greeting.rsplit(":", 1)[1].split("/")[0])
        _wait_for(port, child)
        yield Target(name, port, child.pid)


@contextmanager
def _child(command: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise RuntimeError(f"{child.args!r} ended with status {child.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{child.args!r} does not listen on port {port} after {START_SECONDS:g} s")


# What the kernel knows


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process that still run."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def resident_bytes(pid: int) -> int:
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most that was resident since `forget_peak`."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no {field}")
