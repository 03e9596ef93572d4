"""Bodies count while somebody holds them, and no longer."""

from __future__ import annotations

import threading

import pytest

from router.bodies import Bodies, Body, Share
from router.errors import TooManyBodies


def whole(share: Share, size: int) -> Body:
    share.take(size)
    body = Body(size)
    share.until_gone(body)
    return body


def test_a_body_counts_until_nobody_holds_it_or_a_part_of_it() -> None:
    bodies = Bodies(largest=10, most=100)
    body = whole(bodies.begin("a"), 60)
    part = memoryview(body)[10:20]
    assert bodies.held == 60
    del body
    assert bodies.held == 60
    del part
    assert bodies.held == 0


def test_what_does_not_fit_is_refused_and_does_not_count() -> None:
    bodies = Bodies(largest=10, most=100)
    bodies.begin("a").take(60)
    late = bodies.begin("a")
    with pytest.raises(TooManyBodies):
        late.take(41)
    late.take(40)
    assert bodies.held == 100


def test_the_largest_body_alone_always_fits() -> None:
    bodies = Bodies(largest=1000, tenants=2, most=100)
    share = bodies.begin("a")
    share.take(1000)
    share.give_back()
    assert bodies.held == 0


def test_of_several_tenants_none_has_more_than_half() -> None:
    bodies = Bodies(largest=10, tenants=2, most=100)
    share = bodies.begin("a")
    share.take(50)
    with pytest.raises(TooManyBodies):
        share.take(1)
    bodies.begin("b").take(50)


def test_a_request_that_is_over_gives_back_once_whoever_still_holds_its_body() -> None:
    bodies = Bodies(largest=10, most=100)
    other, share = bodies.begin("a"), bodies.begin("a")
    other.take(5)
    body = whole(share, 60)
    share.give_back()
    assert bodies.held == 5
    del body
    assert bodies.held == 5


def test_a_thread_may_be_the_last_to_hold_a_body() -> None:
    bodies = Bodies(largest=10, most=10_000)
    held = [whole(bodies.begin("a"), 10) for _ in range(500)]

    def let_go() -> None:
        while True:
            try:
                held.pop()
            except IndexError:
                return

    threads = [threading.Thread(target=let_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bodies.held == 0
