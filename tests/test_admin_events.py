"""What changes is told to those who listen, and a slow or absent listener costs nobody anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.admin import events
from router.admin.api import BASE
from router.admin.events import MOST_LISTENERS, MOST_WAITING, Bus
from router.errors import Overloaded
from tests.brain import Brain, looks, says
from tests.eyes import Eyes
from tests.live import DEADLINE, Footprint, House, Line, Options, becomes, live, picture, running, shown, soon, user

pytestmark = pytest.mark.anyio


# The bus


async def test_nobody_is_told_while_nobody_listens() -> None:
    bus = Bus()
    bus.publish("image", "c", image=1)
    with bus.listen() as listener:
        assert await listener.next(0) is None


async def test_a_listener_is_told_of_all_or_of_one_conversation() -> None:
    bus = Bus()
    with bus.listen() as every, bus.listen("d") as one:
        bus.publish("image", "c", image=1)
        bus.publish("image", "d", image=2)
        told = [await every.next(1), await every.next(1)]
        assert [event and event.data for event in told] == [
            {"conversation": "c", "image": 1},
            {"conversation": "d", "image": 2},
        ]
        only = await one.next(1)
        assert only is not None
        assert only.encoded() == b'id: 2\nevent: image\ndata: {"conversation":"d","image":2}\n\n'
        assert await one.next(0) is None


async def test_a_listener_that_is_too_far_behind_is_let_go() -> None:
    bus = Bus()
    with bus.listen() as slow, bus.listen() as quick:
        for number in range(MOST_WAITING + 50):
            bus.publish("image", "c", image=number)
            assert await quick.next(1) is not None
        assert slow.dropped
        assert not quick.dropped
        bus.publish("image", "c", image=0)


async def test_there_are_only_so_many_listeners() -> None:
    bus = Bus()
    async with AsyncExitStack() as stack:
        for _ in range(MOST_LISTENERS):
            stack.enter_context(bus.listen())
        with pytest.raises(Overloaded), bus.listen():
            pass
        assert bus.listeners == MOST_LISTENERS
    assert bus.listeners == 0


# Over sockets


def told(line: Line) -> list[tuple[str, dict[str, Any]]]:
    """Kind and data of what has come."""
    found = []
    for event in line.body.decode().split("\n\n")[:-1]:
        fields = dict(part.split(": ", 1) for part in event.split("\n") if not part.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


@asynccontextmanager
async def listening(house: House, query: str = "", **headers: str) -> AsyncIterator[Line]:
    head = f"GET {BASE}/events{query} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    async with Line(house.port, head.encode() + b"\r\n") as line:
        await line.until(b"event: ready")
        yield line


async def one_image(house: House) -> str:
    house.brain.will(says(looks(1, "What?")), says("Seen."))
    await house.chat(user("Look.", shown(picture(1))), headers={"x-session-id": "one"})
    (one,) = (await house.get(f"{BASE}/conversations")).json["data"]
    return str(one["id"])


@pytest.mark.live
async def test_what_a_request_and_an_admin_change_is_told_as_it_happens() -> None:
    async with live() as house, listening(house) as line:
        assert line.headers["content-type"].startswith("text/event-stream")
        assert line.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in line.headers["content-security-policy"]
        id_ = await one_image(house)
        await line.until(b'"images":1')
        await house.send(None, path=f"{BASE}/conversations/{id_}/images/1/forget")
        await line.until(b'"action":"forget"')
        await house.send(None, path=f"{BASE}/conversations/{id_}", method="DELETE")
        await line.until(b'"deleted"')
        kinds = told(line)
        assert kinds[0] == ("ready", {})
        assert ("image", {"conversation": id_, "image": 1, "action": "forget"}) in kinds
        assert kinds[-1] == ("conversation", {"conversation": id_, "change": "deleted"})
        assert all(data["conversation"] == id_ for kind, data in kinds if kind != "ready")
        assert b"Look." not in line.raw
        assert b"What look" not in line.raw


@pytest.mark.live
async def test_a_silent_stream_has_a_heartbeat() -> None:
    async with live(server={"heartbeat_seconds": 0.05}) as house, listening(house) as line:
        while line.raw.count(b": heartbeat\n\n") < 2:
            assert await line.more()


@pytest.mark.live
async def test_a_listener_that_hangs_up_is_forgotten() -> None:
    async with live() as house:
        before = Footprint.now()
        for _ in range(3):
            async with listening(house):
                pass
        await before.returns()
        assert (await house.get(f"{BASE}/stats")).json["listeners"] == 0


@pytest.mark.live
async def test_one_who_is_let_go_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events.Listener, "tell", lambda self, event: setattr(self, "dropped", True))
    async with live() as house, listening(house) as line:
        await one_image(house)
        await line.until(b"event: dropped")
        await line.rest()


@pytest.mark.live
async def test_events_need_the_key_and_a_conversation_that_there_is() -> None:
    async with live(server={"admin_key": "k"}) as house:
        assert (await house.get(f"{BASE}/events")).status == 401
        assert (await house.get(f"{BASE}/events?conversation=none", x_api_key="k")).status == 404
        assert (await house.send(None, path=f"{BASE}/events", method="HEAD", headers={"x-api-key": "k"})).status == 200
        async with listening(house, x_api_key="k"):
            assert (await house.get(f"{BASE}/stats", x_api_key="k")).json["listeners"] == 1


@pytest.mark.live
async def test_what_another_process_does_to_a_conversation_is_told_to_who_listens_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.admin.stream.POLL_SECONDS", 0.05)
    options = Options(store={"kind": "disk", "path": str(tmp_path / "store")})
    async with Brain() as brain, Eyes() as eyes, AsyncExitStack() as stack:
        houses = []
        for _ in range(2):
            port = await stack.enter_async_context(running(options.settings(brain.url, eyes.url)))
            client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE, trust_env=False)
            houses.append(House(brain, eyes, port, await stack.enter_async_context(client)))
        id_ = await one_image(houses[0])
        async with listening(houses[0], f"?conversation={id_}") as line:
            await houses[1].send(None, path=f"{BASE}/conversations/{id_}/images/1/forget")
            await line.until(b'"changed"')
            await houses[1].send(None, path=f"{BASE}/conversations/{id_}", method="DELETE")
            await line.until(b'"deleted"')


@pytest.mark.live
async def test_an_open_stream_does_not_hold_up_the_end_of_the_process(tmp_path: Path) -> None:
    from tests.live import service_process

    async with Brain() as brain, Eyes() as eyes:
        tables = Options(server={"drain_seconds": 60}).tables(brain.url, eyes.url)
        async with service_process(tmp_path, tables) as service:
            head = f"GET {BASE}/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()
            async with Line(service.port, head) as line:
                await line.until(b"event: ready")
                service.terminate()
                await soon(line.rest())
                await becomes(lambda: service.process.returncode is not None)
            await asyncio.sleep(0)
