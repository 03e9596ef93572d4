"""A server that is down is left alone for a while, and tried again by one."""

from __future__ import annotations

from cache.breaker import FAILURES, OPEN_SECONDS, Breaker


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
