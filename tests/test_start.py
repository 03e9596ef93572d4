"""A store that does not answer keeps no service from starting."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.brain import Brain, says
from tests.eyes import Eyes
from tests.live import House, Options, picture, service_process, shown, user

pytestmark = [pytest.mark.anyio, pytest.mark.live]

PASSWORD = "hunter2-correct-horse"


@pytest.fixture(params=["refuses", "never answers"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Of a server that is no good."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        if request.param == "never answers":
            reserved.listen()
        yield reserved.getsockname()[1]


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["one process", "workers"])
async def test_without_redis_it_starts_with_one_line_of_warning_and_answers(
    tmp_path: Path, port: int, workers: list[str]
) -> None:
    async with Brain() as brain, Eyes() as eyes:
        tables = Options(store={"kind": "redis", "url": f"redis://:{PASSWORD}@127.0.0.1:{port}"})
        async with (
            service_process(tmp_path, tables.tables(brain.url, eyes.url), *workers) as service,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", timeout=20, trust_env=False) as client,
        ):
            house = House(brain, eyes, service.port, client)
            (said,) = service.log.read_text().splitlines()
            assert said.startswith("chiasm: warning: [store] Redis ")
            assert said.endswith("; starting without it")
            ready = await house.get("/readyz")
            assert (ready.status, ready.json["status"]) == (503, "degraded")
            brain.will(says("A cat."))
            assert (await house.chat(user("What?", shown(picture(1))))).text == "A cat."
            service.terminate()
            await service.ended()
            assert PASSWORD not in service.log.read_text()


@pytest.mark.parametrize(("kind", "workers", "warned"), [("memory", 2, True), ("memory", 1, False), ("disk", 2, False)])
async def test_workers_without_a_store_that_they_share_are_warned_of(
    tmp_path: Path, kind: str, workers: int, warned: bool
) -> None:
    tables = Options(store={"kind": kind, "path": str(tmp_path / "store")})
    async with Brain() as brain, Eyes() as eyes:
        wanted = tables.tables(brain.url, eyes.url)
        async with service_process(tmp_path, wanted, "--workers", str(workers)) as service:
            said = service.log.read_text()
            assert said.startswith("chiasm: warning: [store] kind = 'memory' is not shared") is warned
            service.terminate()
            await service.ended()
