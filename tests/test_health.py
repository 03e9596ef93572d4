"""`/readyz` says how things are, costs little however often it is asked, and tells nothing that a server said."""

from __future__ import annotations

import asyncio
import logging
import time

import httpx
import pytest

import router.health
from cache.memory import MemoryStore
from cache.store import StoreError
from router.health import Pulse
from tests.brain import Asked, Brain, Wire, nobody, refuses, says
from tests.eyes import Eyes
from tests.live import DEADLINE, House, Options, becomes, live, running, soon, user

pytestmark = [pytest.mark.anyio, pytest.mark.live]


async def test_however_often_it_is_asked_the_servers_are_asked_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.health, "FRESH_SECONDS", 10 * DEADLINE)
    async with live() as house:
        asked = 0

        async def list_models(request: Asked, wire: Wire) -> None:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0.05)
            await refuses(404, "nothing here")(request, wire)

        house.brain.models = list_models
        got = await asyncio.gather(*(house.get("/readyz") for _ in range(30)))
        got += [await house.get("/readyz") for _ in range(5)]
        assert asked == 1
        assert len({one.body for one in got}) == 1


async def test_after_a_while_they_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.health, "FRESH_SECONDS", 0.0)
    async with live() as house:
        assert (await house.get("/readyz")).status == 200
        house.brain.models = refuses(502, "gone")
        assert (await house.get("/readyz")).status == 503
        house.brain.models = None
        assert (await house.get("/readyz")).status == 200


async def test_nothing_that_a_server_says_is_shown_and_the_log_has_it_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(router.health, "FRESH_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "chiasm.health")
    async with live(text={"model": "other-model"}) as house:
        house.brain.models = refuses(503, "node-17.internal:8000 is down")
        house.eyes.models = refuses(503, "10.1.2.3 is down, too")
        for _ in range(3):
            ready = await house.get("/readyz")
        assert ready.status == 503
        assert ready.json == {
            "status": "not ready",
            "checks": {"store": "ok", "text brain": "broken", "vision eyes": "not usable"},
            "breakers": {"text brain": "closed"},
            "notes": [],
        }
    assert caplog.text.count("node-17.internal:8000 is down") == 1


async def test_a_model_that_the_server_does_not_list_is_noted_without_an_address() -> None:
    async with live(text={"model": "other-model"}) as house:
        ready = await house.get("/readyz")
        assert ready.json["notes"] == ["the server of text brain does not list the model that is configured"]
        assert str(house.brain.port) not in ready.body.decode()


async def test_a_key_that_is_refused_is_named_as_such() -> None:
    async with live() as house:
        house.brain.models = refuses(401, "who are you?")
        assert (await house.get("/readyz")).json["checks"]["text brain"] == "refuses the key"


async def test_an_open_breaker_is_visible() -> None:
    async with (
        nobody() as nowhere,
        Eyes() as eyes,
        Brain() as brain,
        running(Options().settings(nowhere, eyes.url)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE) as client,
    ):
        house = House(brain, eyes, port, client)
        for _ in range(4):
            await house.send({"messages": [user("Hi.")]})
        ready = await house.get("/readyz")
        assert ready.json["checks"]["text brain"] == "unreachable"
        assert ready.json["breakers"] == {"text brain": "open"}


async def test_without_a_store_it_is_degraded_and_answers_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StoreError("no space left on /secret/place")

    async with live() as house:
        monkeypatch.setattr(MemoryStore, "put", fail)
        ready = await house.get("/readyz")
        assert (ready.status, ready.json["status"]) == (503, "degraded")
        assert ready.json["checks"]["store"] == "not usable"
        assert "secret" not in ready.body.decode()
        house.brain.will(says("Hello."))
        assert (await house.chat(user("Hi."))).text == "Hello."


async def test_a_server_that_never_answers_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.health, "PROBE_SECONDS", 0.2)
    async with live() as house:

        async def hang(asked: Asked, wire: Wire) -> None:
            await wire.until_hung_up()

        house.brain.models = hang
        ready = await soon(house.get("/readyz"))
        assert (ready.status, ready.json["checks"]["text brain"]) == (503, "no answer")


# Alive


async def test_the_pulse_notices_a_loop_that_stood_still_and_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.health, "_BEAT_SECONDS", 0.01)
    pulse = Pulse()
    await asyncio.sleep(0.02)
    time.sleep(0.5)  # noqa: ASYNC251 (this is what it is to notice)
    assert pulse.lag > 0.4
    await becomes(lambda: pulse.lag < 0.4)
    pulse.stop()


async def test_a_process_whose_loop_stands_still_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    async with live(log_may_say="the event loop stood still for .* s") as house:
        assert (await house.get("/healthz")).status == 200
        with monkeypatch.context() as stalled:
            stalled.setattr(Pulse, "lag", router.health.MOST_LAG_SECONDS)
            got = await house.get("/healthz")
            assert (got.status, got.json) == (503, {"status": "stalled"})
        assert (await house.get("/healthz")).status == 200
