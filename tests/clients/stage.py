"""The service with a scripted brain and eyes, a tap on its line, and clients as processes of their own before it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from router.print_config import VARIABLE, Service, find, snippet
from tests.clients.environment import environment
from tests.clients.library import Libraries
from tests.clients.tap import Tap
from tests.live import House, live

CLIENT_SECONDS: Final = 90.0
"""The slowest client takes six; the rest is for a machine that is busy with other things."""


KEY: Final = "chiasm-secret"
"""In the clients' environment, for those that take it from there."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a client's process left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Of its last line."""
        assert self.code == 0, self
        return orjson.loads(self.out.strip().splitlines()[-1])


@dataclass(slots=True)
class Stage:
    house: House
    tap: Tap
    home: Path
    """Empty at first; the client's HOME and working folder."""
    libraries: Libraries

    @property
    def url(self) -> str:
        """The base URL for clients, ending in /v1."""
        return self.tap.url

    def printed(self, client: str) -> str:
        """What `chiasm print-config` says for this client, with the key in a variable."""
        service = Service(self.url.removesuffix("/v1"), ["brain"], asks_for_a_key=True, context=32_768)
        return snippet(find(client), service)

    async def run(
        self, command: Sequence[str | Path], *, stdin: bytes = b"", cwd: Path | None = None, **env: str
    ) -> Ran:
        """A client from its start to its end.  Raises TimeoutError, and ends it, where it does not end itself."""
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=cwd or self.home,
            env=environment(self.home, **{VARIABLE: KEY, **env}),
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                out, err = await process.communicate(stdin)
        finally:
            await end(process)
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process that leads a session of its own, and whatever it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


@asynccontextmanager
async def stage(home: Path, libraries: Libraries, **tables: Any) -> AsyncIterator[Stage]:
    """`tables`: of the configuration, as `tests.live.live` takes them.  A failed test shows what passed on the wire."""
    async with live(**tables) as house, Tap(house.port) as tap:
        try:
            yield Stage(house, tap, home, libraries)
        except BaseException:
            print(f"--- on the wire\n{tap.transcript()}")
            raise
