"""A process that is told to end lets those outside follow, and whoever insists is obeyed."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn

from router.draining import Workers
from tests.brain import Brain, Hangs, Waits, says
from tests.eyes import Eyes
from tests.live import (
    DEADLINE,
    House,
    Options,
    ServiceProcess,
    alive,
    becomes,
    children_of,
    service_process,
    soon,
    user,
)
from tests.pure_splice import read_stream

pytestmark = [pytest.mark.anyio, pytest.mark.live]

DRAIN: dict[str, Any] = {"drain_seconds": 60}
"""Of which five seconds are for those who ask `/readyz`, where there are any."""


@asynccontextmanager
async def serving(
    folder: Path, *arguments: str, server: dict[str, Any] | None = None
) -> AsyncIterator[tuple[ServiceProcess, House]]:
    async with Brain() as brain, Eyes() as eyes:
        tables = Options(server=server or DRAIN).tables(brain.url, eyes.url)
        limits = httpx.Limits(max_keepalive_connections=0)
        async with (
            service_process(folder, tables, *arguments) as service,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{service.port}", timeout=DEADLINE, limits=limits, trust_env=False
            ) as client,
        ):
            brain.answers = lambda asked: says("Hello.")
            yield service, House(brain, eyes, service.port, client)


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def refused_soon(port: int) -> bool:
    await becomes(lambda: refused(port))
    return True


async def told(house: House) -> None:
    """Until `/readyz` says that the service has heard a signal, or nobody is there any more to say so."""
    with suppress(httpx.TransportError):
        async with asyncio.timeout(DEADLINE):
            while (await house.get("/readyz")).json["status"] != "draining":
                pass


async def test_readyz_says_so_before_the_door_is_closed_and_answers_go_on_meanwhile(tmp_path: Path) -> None:
    async with serving(tmp_path) as (service, house), AsyncExitStack() as open_lines:
        gate = asyncio.Event()
        house.brain.answers = lambda asked: says("Hel", Waits(gate), "lo.")
        lines = [await open_lines.enter_async_context(house.line(user("Hi."), stream=True)) for _ in range(20)]
        for line in lines:
            await line.until(b"Hel")
        house.brain.answers = lambda asked: says("Hello.")
        assert (await house.get("/readyz")).status == 200
        service.terminate()

        async with asyncio.timeout(DEADLINE):
            while (got := await house.get("/readyz")).status == 200:
                pass
        assert (got.status, got.json["status"]) == (503, "draining")
        assert (await house.chat(user("Hi."))).text == "Hello."
        assert (await house.get("/healthz")).status == 200
        assert await refused_soon(service.port)
        gate.set()
        for line in lines:
            assert read_stream((await line.rest()).body).text == "Hello."
        assert await service.ended() == -signal.SIGTERM
        assert "Traceback" not in service.log.read_text()


async def test_where_nobody_asks_readyz_nobody_is_waited_for(tmp_path: Path) -> None:
    async with serving(tmp_path, server={"drain_seconds": 1000}) as (service, house):
        await house.chat(user("Hi."))
        await house.get("/healthz")
        service.terminate()
        assert await service.ended() == -signal.SIGTERM


async def test_ctrl_c_waits_for_nobody_outside(tmp_path: Path) -> None:
    async with serving(tmp_path, server={"drain_seconds": 1000}) as (service, house):
        assert (await house.get("/readyz")).status == 200
        service.process.send_signal(signal.SIGINT)
        await service.ended()


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["one process", "workers"])
@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGINT)],
    ids=lambda numbers: " and ".join(number.name for number in numbers),
)
@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
async def test_who_says_it_twice_means_at_once(
    tmp_path: Path, numbers: Sequence[signal.Signals], workers: list[str], watched: bool
) -> None:
    async with serving(tmp_path, *workers, server={"drain_seconds": 1000}) as (service, house):
        house.brain.answers = lambda asked: says("Hello", Hangs())
        async with house.line(user("Hi."), stream=True) as line:
            await line.until(b"Hello")
            if watched:
                await house.get("/readyz")
            below = children_of(service.process.pid)
            first, second = numbers
            service.process.send_signal(first)
            # Else the two would become one, and under workers the first might not have reached them.
            await (told(house) if watched else refused_soon(service.port))
            service.process.send_signal(second)
            await service.ended()
            await becomes(lambda: not any(map(alive, below)))
            with suppress(EOFError, ConnectionError):
                assert read_stream((await line.rest()).body).error is not None


async def test_under_workers_ctrl_c_lets_answers_finish(tmp_path: Path) -> None:
    """A terminal tells all processes of the group, and the one that watches over the workers tells them again."""
    async with serving(tmp_path, "--workers", "2") as (service, house):
        gate = asyncio.Event()
        house.brain.answers = lambda asked: says("Hel", Waits(gate), "lo.")
        async with house.line(user("Hi."), stream=True) as line:
            await line.until(b"Hel")
            for pid in (*children_of(service.process.pid), service.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
            assert await refused_soon(service.port)
            await asyncio.sleep(1.0)  # the second telling
            gate.set()
            assert read_stream((await line.rest()).body).text == "Hello."
        await service.ended()


async def test_workers_whose_parent_was_killed_let_answers_finish_and_leave(tmp_path: Path) -> None:
    """Or they would keep the address, and whoever starts the service again could not have it."""
    async with serving(tmp_path, "--workers", "2") as (service, house):
        gate = asyncio.Event()
        house.brain.answers = lambda asked: says("Hel", Waits(gate), "lo.")
        async with house.line(user("Hi."), stream=True) as line:
            await line.until(b"Hel")
            below = children_of(service.process.pid)
            service.process.kill()
            assert await refused_soon(service.port)
            gate.set()
            assert read_stream((await line.rest()).body).text == "Hello."
        await becomes(lambda: not any(map(alive, below)))


async def test_a_worker_that_is_ending_and_says_nothing_does_not_keep_the_others_from_being_told() -> None:
    here, there = multiprocessing.Pipe()
    silent: Any = SimpleNamespace(parent_conn=here, process=SimpleNamespace(is_alive=lambda: True))
    workers = Workers.__new__(Workers)  # without the signal handlers
    workers.config = uvicorn.Config("unused", timeout_worker_healthcheck=600)
    workers.processes, workers.signal_queue, workers.should_exit = [silent], [], threading.Event()
    looking = asyncio.ensure_future(asyncio.to_thread(workers.keep_subprocess_alive))
    await asyncio.to_thread(there.recv)
    assert not looking.done()
    workers.signal_queue.append(signal.SIGINT)
    await soon(looking)
    assert not workers.should_exit.is_set()
    here.close()
    there.close()
