"""nginx and HAProxy with the files of deploy/, in front of running services.

They neither hold a stream back nor cut it, a hang-up reaches the brain, and a service ends without a failed request.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from PIL import Image

from tests.brain import Asked, Brain, Hangs, Script, Waits, Wire, says
from tests.eyes import Eyes
from tests.live import (
    DEADLINE,
    Line,
    Options,
    ServiceProcess,
    becomes,
    body_of,
    data_url,
    post,
    service_process,
    shown,
    soon,
    user,
)
from tests.proxies import haproxy, nginx, program
from tests.pure_splice import read_stream

pytestmark = [pytest.mark.anyio, pytest.mark.live]

PROXIES: Mapping[str, Callable[[Path, Sequence[int]], AbstractAsyncContextManager[int]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
}
behind_each = pytest.mark.parametrize("proxy", [*PROXIES])


@behind_each
async def test_the_proxies_take_their_files_without_a_word(proxy: str, tmp_path: Path) -> None:
    async with PROXIES[proxy](tmp_path, [9]):
        pass
    test = {
        "haproxy": [program("haproxy"), "-c", "-f", str(tmp_path / "haproxy.cfg")],
        "nginx": [program("nginx"), "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
    }
    ran = await asyncio.to_thread(subprocess.run, test[proxy], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert not re.search(r"warn|alert", ran.stdout + ran.stderr, re.IGNORECASE), ran.stderr


@asynccontextmanager
async def services(folder: Path, number: int) -> AsyncIterator[list[tuple[ServiceProcess, Brain]]]:
    """Each with a brain of its own, so that a test knows who answered."""
    async with AsyncExitStack() as stack:
        found = []
        for n in range(number):
            brain = await stack.enter_async_context(Brain())
            eyes = await stack.enter_async_context(Eyes())
            home = folder / f"service{n}"
            home.mkdir()
            tables = Options(server={"drain_seconds": 30}).tables(brain.url, eyes.url)
            found.append((await stack.enter_async_context(service_process(home, tables)), brain))
        yield found


def asking(port: int, *parts: Any, **fields: Any) -> Line:
    return Line(port, post(orjson.dumps(body_of([user(*parts)], fields))))


@behind_each
async def test_a_stream_arrives_event_by_event(proxy: str, tmp_path: Path) -> None:
    async with services(tmp_path, 1) as [(service, brain)], PROXIES[proxy](tmp_path, [service.port]) as port:
        gates = [asyncio.Event() for _ in range(3)]
        brain.answers = lambda asked: says("one", Waits(gates[0]), "two", Waits(gates[1]), "three", Waits(gates[2]))
        async with asking(port, "Hi.", stream=True) as line:
            # Each word is waited for while the next is held back: a proxy that collects them would wait for ever.
            for word, gate in zip((b"one", b"two", b"three"), gates, strict=True):
                await line.until(word)
                gate.set()
            assert read_stream((await line.rest()).body).text == "onetwothree"
            assert line.headers["content-type"].startswith("text/event-stream")
            assert line.headers["x-chiasm-conversation"]


@behind_each
async def test_heartbeats_arrive_while_the_brain_is_silent(proxy: str, tmp_path: Path) -> None:
    async with Brain() as brain, Eyes() as eyes:
        gate = asyncio.Event()
        brain.answers = lambda asked: says("one", Waits(gate), "two")
        tables = Options(server={"heartbeat_seconds": 0.1}).tables(brain.url, eyes.url)
        async with (
            service_process(tmp_path, tables) as service,
            PROXIES[proxy](tmp_path, [service.port]) as port,
            asking(port, "Hi.", stream=True) as line,
        ):
            await line.until(b"one")
            await becomes_longer(line, len(line.raw))
            await becomes_longer(line, len(line.raw))
            gate.set()
            assert read_stream((await line.rest()).body).text == "onetwo"


async def becomes_longer(line: Line, size: int) -> None:
    while len(line.raw) <= size:
        assert await line.more()


@behind_each
async def test_a_body_of_seventy_megabytes_passes(proxy: str, tmp_path: Path) -> None:
    # Made before brain and eyes are there: they live in this loop, and who is asked meanwhile must answer.
    body = orjson.dumps(body_of([user("Hi.", *(shown(data_url(noise(1900))) for _ in range(5)))], {}))
    assert len(body) > 70_000_000
    async with services(tmp_path, 1) as [(service, brain)], PROXIES[proxy](tmp_path, [service.port]) as port:
        brain.answers = lambda asked: says("I see five pictures.")
        async with Line(port, post(body)) as line:
            got = await soon(line.rest(), within=4 * DEADLINE)
        assert got.status == 200, got.body[:500]
        assert b"[Image #5]" in brain.asked[0].body


def noise(side: int) -> bytes:
    """A PNG that is as large as its pixels."""
    file = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(file, "PNG", compress_level=0)
    return file.getvalue()


@behind_each
async def test_a_body_that_is_too_large_is_refused_in_words_that_clients_understand(proxy: str, tmp_path: Path) -> None:
    async with Brain() as brain, Eyes() as eyes:
        tables = Options(server={"max_body_mib": 1}).tables(brain.url, eyes.url)
        async with service_process(tmp_path, tables) as service, PROXIES[proxy](tmp_path, [service.port]) as port:
            async with Line(port, post(b" " * 2_000_000)) as line:
                got = await line.rest()
            assert got.status == 413
            assert got.error["code"] == "request_too_large"


@behind_each
async def test_a_hang_up_is_noticed(proxy: str, tmp_path: Path) -> None:
    async with services(tmp_path, 1) as [(service, brain)], PROXIES[proxy](tmp_path, [service.port]) as port:
        left = asyncio.Event()
        brain.answers = lambda asked: says_and_waits(left, "one")
        async with asking(port, "Hi.", stream=True) as line:
            await line.until(b"one")
            assert not left.is_set()
            await line.hang_up()
            await soon(left.wait())


@behind_each
async def test_a_client_that_leaves_before_the_first_word_is_noticed(proxy: str, tmp_path: Path) -> None:
    async with services(tmp_path, 1) as [(service, brain)], PROXIES[proxy](tmp_path, [service.port]) as port:
        left = asyncio.Event()
        brain.answers = lambda asked: says_and_waits(left)
        async with asking(port, "Hi.", stream=True) as line:
            await becomes(lambda: bool(brain.asked))
            assert not left.is_set()
            await line.hang_up()
            await soon(left.wait())


def says_and_waits(left: asyncio.Event, *words: str) -> Script:
    """Words, then nothing, until whoever asked has gone."""

    async def script(asked: Asked, wire: Wire) -> None:
        try:
            await says(*words, Hangs())(asked, wire)
        finally:
            left.set()

    return script


@behind_each
async def test_a_service_that_ends_finishes_its_streams_and_no_request_fails(proxy: str, tmp_path: Path) -> None:
    async with services(tmp_path, 2) as pair, PROXIES[proxy](tmp_path, [s.port for s, _ in pair]) as port:
        gate = asyncio.Event()
        for _, brain in pair:
            brain.answers = lambda asked: says("Hel", Waits(gate), "lo.")
        if proxy == "haproxy":
            await ready_behind(port, pair)
        async with AsyncExitStack() as stack:
            lines = [await stack.enter_async_context(asking(port, "Hi.", stream=True)) for _ in range(8)]
            for line in lines:
                await line.until(b"Hel")
            (ending, its), (_, other) = pair
            assert its.asked, "the streams are spread over both"
            assert other.asked
            for _, brain in pair:
                brain.answers = lambda asked: says("Quick.")
            ending.terminate()
            ended = asyncio.ensure_future(ending.ended())
            answered = 0
            while answered < 50 or not await closed(ending.port):
                async with asking(port, "Hi.", stream=True) as line:
                    assert read_stream((await line.rest()).body).text == "Quick."
                answered += 1
            assert not ended.done(), "its streams are still running"
            gate.set()
            for line in lines:
                assert read_stream((await line.rest()).body).text == "Hello."
            await soon(ended)
        async with asking(port, "Hi.", stream=True) as line:
            assert read_stream((await line.rest()).body).text == "Quick."


async def closed(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False


async def ready_behind(port: int, pair: Sequence[tuple[ServiceProcess, Brain]]) -> None:
    """HAProxy believes in its servers until it has asked them."""
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE) as client:
        for service, _ in pair:
            assert (await client.get(f"http://127.0.0.1:{service.port}/readyz")).status_code == 200
        assert (await client.get(f"http://127.0.0.1:{port}/v1/models")).status_code == 200


async def test_haproxy_goes_by_readiness(tmp_path: Path) -> None:
    async with services(tmp_path, 2) as pair, haproxy(tmp_path, [s.port for s, _ in pair]) as port:
        for _, brain in pair:
            brain.answers = lambda asked: says("Hello.")
        await ready_behind(port, pair)
        (_, sick), (_, well) = pair
        await sick.stop_listening()
        for connection in list(sick.open_connections):
            connection.reset()
        (service, _), _ = pair
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE) as client:
            async with asyncio.timeout(DEADLINE):
                while (await client.get(f"http://127.0.0.1:{service.port}/readyz")).status_code == 200:
                    pass
                # And the balancer has learnt of it: as many as there are turns, all by the other.
                good = 0
                while good < 10:
                    async with asking(port, "Hi.") as line:
                        good = good + 1 if (await line.rest()).status == 200 else 0
        assert len(well.asked) >= 10


@behind_each
async def test_what_is_for_those_inside_stays_inside(proxy: str, tmp_path: Path) -> None:
    async with (
        services(tmp_path, 1) as [(service, _)],
        PROXIES[proxy](tmp_path, [service.port]) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE, trust_env=False) as client,
    ):
        for path in ("/readyz", "/metrics", "/admin", "/admin/api/conversations"):
            assert (await client.get(path)).status_code == 404
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 200
