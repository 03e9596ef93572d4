"""The Chiasm that is measured: the one that runs where the configuration says, or one of our own.

Ours is a process, not a part of this one: with the load's client in the same loop each would wait for the other, and
what was measured would be the two together.  It has the same configuration, a free port of loopback, and a store in
memory, and it is ended by its process id however the run ends.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx
import orjson

from router.config import Flags, Settings
from router.http_client import BROKEN

_START_SECONDS = 60.0
"""It is up in two; the rest is for a machine that is busy."""

_STOP_SECONDS = 5.0
"""Between asking it to end and ending it.  Nothing runs in it any more."""

_PAGE_SECONDS = 5.0
_LISTENS = re.compile(r"Chiasm listens on (http://\S+/v1)")

_NO_PAGE: tuple[type[Exception], ...] = (*BROKEN, TimeoutError, orjson.JSONDecodeError)


class DidNotStart(Exception):
    """`str(error)` holds the end of what it said."""


@asynccontextmanager
async def some_chiasm(
    settings: Settings, source: Path | None, flags: Flags, model: str, client: httpx.AsyncClient
) -> AsyncIterator[tuple[str, str]]:
    """The base URL of a Chiasm that knows this model, and what it is, in words.  Raises `DidNotStart`.

    `source` and `flags`: where `settings` came from.
    """
    host = settings.server.host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (only compared)
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.server.port}/v1"
    if settings.server.port and await _knows(url, model, first_key(settings), client):
        yield url, f"the one that runs at {url}"
        return
    async with _of_our_own(source, flags) as address:
        yield address, "one of our own for this run (none that knows this brain runs where configured)"


def first_key(settings: Settings) -> str:
    return settings.server.api_keys[0].get_secret_value() if settings.server.api_keys else ""


async def _knows(url: str, model: str, key: str, client: httpx.AsyncClient) -> bool:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    if await _page(f"{url.removesuffix('/v1')}/healthz", client, {}) != {"status": "ok"}:
        return False
    listing = await _page(f"{url}/models", client, headers)
    rows = listing.get("data") if isinstance(listing, dict) else None
    return isinstance(rows, list) and any(isinstance(row, dict) and row.get("id") == model for row in rows)


async def _page(url: str, client: httpx.AsyncClient, headers: dict[str, str]) -> Any:
    try:
        async with asyncio.timeout(_PAGE_SECONDS):
            return orjson.loads((await client.get(url, headers=headers)).content)
    except _NO_PAGE:
        return None


@asynccontextmanager
async def _of_our_own(source: Path | None, flags: Flags) -> AsyncIterator[str]:
    command = [sys.executable, "-m", "router.cli", "serve", "--host", "127.0.0.1", "--port", "0"]
    command += ["--config", str(source)] if source else []
    for name, url, model in flags.upstreams():
        command += [f"--{name}", url] if url else []
        command += [f"--{name}-model", model] if model else []
    # Whatever their case: variables overrule the file, and ours must be the only one of its name.
    env = {name: value for name, value in os.environ.items() if name.upper() != "CHIASM_STORE__KIND"}
    env["CHIASM_STORE__KIND"] = "memory"
    with tempfile.TemporaryFile() as log:
        # A session of its own, so that Ctrl-C reaches us and not it: it is needed until the last stream is closed.
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=env,
            start_new_session=True,
        )
        try:
            yield await _address(process, log)
        finally:
            await _end(process)


async def _address(process: asyncio.subprocess.Process, log: IO[bytes]) -> str:
    assert process.stdout is not None
    said = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(_START_SECONDS):
            while line := await process.stdout.readline():
                said += line
                if found := _LISTENS.search(line.decode("utf-8", "replace")):
                    return found[1]
    log.seek(0)
    words = (said + log.read()).decode("utf-8", "replace")
    raise DidNotStart("\n".join(["a Chiasm for this run did not start:", *_last_lines(words)]))


def _last_lines(words: str) -> Iterator[str]:
    yield from words.splitlines()[-5:]


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
