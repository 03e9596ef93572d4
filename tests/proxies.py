"""nginx and HAProxy, as real processes on loopback, with the files of deploy/ and no others.

async with nginx(folder, [service.port]) as port:
    ...

Of the files only addresses are changed: where they listen, and where Chiasm is.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.live import becomes, soon

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"

_NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log stderr info;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/chiasm.conf;
}}
"""


def program(name: str) -> str:
    """Where it is.  Debian keeps such programs where only root's PATH looks."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    assert found is not None, f"{name} is not installed; tests/install_proxies.sh does it"
    return found


@asynccontextmanager
async def nginx(folder: Path, services: Sequence[int]) -> AsyncIterator[int]:
    """The port of an nginx in front of these ports."""
    port = _free_port()
    servers = "".join(f"server 127.0.0.1:{service} max_fails=1 fail_timeout=2s;\n" for service in services)
    text = (DEPLOY / "nginx" / "chiasm.conf").read_text()
    text = _once(text, "server 127.0.0.1:8090 max_fails=1 fail_timeout=2s;", servers)
    text = _once(text, "listen 8080;", f"listen 127.0.0.1:{port};")
    (folder / "chiasm.conf").write_text(text)
    main = folder / "nginx.conf"
    main.write_text(_NGINX.format(folder=folder))
    async with _running(folder / "nginx.log", port, program("nginx"), "-p", str(folder), "-c", str(main)):
        yield port


@asynccontextmanager
async def haproxy(folder: Path, services: Sequence[int]) -> AsyncIterator[int]:
    """The port of an HAProxy in front of these ports."""
    port = _free_port()
    servers = "".join(f"    server s{service} 127.0.0.1:{service}\n" for service in services)
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    text = _once(text, "    server one 127.0.0.1:8090\n", servers)
    text = _once(text, "bind :8080", f"bind 127.0.0.1:{port}")
    file = folder / "haproxy.cfg"
    file.write_text(text)
    async with _running(folder / "haproxy.log", port, program("haproxy"), "-db", "-f", str(file)):
        yield port


@asynccontextmanager
async def _running(log: Path, port: int, *command: str) -> AsyncIterator[None]:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env={"PATH": os.environ["PATH"]}
        )
    try:
        await becomes(lambda: process.returncode is not None or _answers(port))
        said = log.read_bytes()  # noqa: ASYNC240 (a few lines)
        assert process.returncode is None, said
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            await soon(process.wait())


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _once(text: str, old: str, new: str) -> str:
    """`text` with its only `old` replaced: the file in deploy/ is tested, and not a memory of it."""
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the file"
    return text.replace(old, new)


def _free_port() -> int:
    """Below those that Linux gives to connections, one of which could have it before the proxy does."""
    while True:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
