"""A server that is down is left alone for a while, and tried again by one."""

from __future__ import annotations

import asyncio

import pytest

import router.upstream
from cache.breaker import FAILURES, OPEN_SECONDS, Breaker
from tests.brain import Asked, Script, Wire, hangs, refuses, resets, says
from tests.live import becomes, live, soon, user


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def broken(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        assert breaker.wait() is None
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = broken(Clock())
    assert breaker.state == "open"
    assert breaker.wait() == OPEN_SECONDS


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = Breaker(Clock())
    for _ in range(3 * FAILURES):
        breaker.failed()
        breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.wait() is None


def test_one_may_try_when_the_time_is_over() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now += OPEN_SECONDS
    assert breaker.state == "half open"
    assert breaker.wait() is None
    assert breaker.wait() == 1.0
    breaker.succeeded()
    assert breaker.state == "closed"


def test_a_failed_try_opens_it_anew() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now += OPEN_SECONDS
    assert breaker.wait() is None
    breaker.failed()
    assert breaker.state == "open"


def test_a_try_that_was_given_up_lets_the_next_one_try() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now += OPEN_SECONDS
    assert breaker.wait() is None
    breaker.given_up()
    assert breaker.wait() is None


# Whose fault it is


@pytest.mark.anyio
@pytest.mark.live
@pytest.mark.parametrize("breaks", [resets, refuses(502, "too large for this gateway")], ids=["reset", "502"])
async def test_requests_that_a_brain_breaks_on_lock_nobody_else_out(breaks: Script) -> None:
    async with live(server={"api_keys": ["one", "two"]}) as house:
        house.brain.answers = lambda asked: breaks if len(asked.body) > 20_000 else says("Hello.")
        for _ in range(2 * FAILURES):
            large = {"messages": [user("Say it again. " * 2_000)]}
            assert (await house.send(large, headers={"authorization": "Bearer one"})).status == 502
        small = {"messages": [user("Hi.")]}
        assert (await house.send(small, headers={"authorization": "Bearer two"})).status == 200


@pytest.mark.anyio
@pytest.mark.live
@pytest.mark.parametrize("models", [resets, refuses(503, "no upstream")], ids=["reset", "503"])
async def test_a_brain_that_breaks_on_every_question_is_left_alone(models: Script) -> None:
    async with live() as house:
        house.brain.answers, house.brain.models = (lambda asked: resets), models
        got = [(await house.send({"messages": [user("Hi.")]})).status for _ in range(FAILURES + 1)]
        assert got[-1] == 503


@pytest.mark.anyio
@pytest.mark.live
async def test_only_one_request_waits_to_hear_whether_a_brain_that_broke_is_there_at_all() -> None:
    asked_for_models = 0
    gate = asyncio.Event()

    async def models(asked: Asked, wire: Wire) -> None:
        nonlocal asked_for_models
        asked_for_models += 1
        await gate.wait()
        wire.reset()

    async with live() as house:
        house.brain.will(says("Hello."))
        assert (await house.send({"messages": [user("Hi.")]})).status == 200  # which has asked what it is
        house.brain.models = models
        house.brain.answers = lambda asked: says("Well.") if b"How" in asked.body else refuses(503, "no upstream")
        many = [asyncio.ensure_future(house.send({"messages": [user("Hi.")]})) for _ in range(3 * FAILURES)]
        await becomes(lambda: sum(one.done() for one in many) == len(many) - 1)
        assert asked_for_models == 1
        assert (await house.send({"messages": [user("How are you?")]})).status == 200
        gate.set()
        assert {got.status for got in await soon(asyncio.gather(*many))} <= {502, 503}


@pytest.mark.anyio
@pytest.mark.live
async def test_a_brain_that_does_not_say_whether_it_is_there_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.upstream, "_THERE_SECONDS", 0.05)
    async with live() as house:
        house.brain.will(says("Hello."))
        assert (await house.send({"messages": [user("Hi.")]})).status == 200  # which has asked what it is
        house.brain.answers, house.brain.models = (lambda asked: refuses(503, "no upstream")), hangs
        got = [(await house.send({"messages": [user("Hi.")]})).error["code"] for _ in range(FAILURES + 1)]
        assert got == ["upstream_error"] * FAILURES + ["upstream_unavailable"]
