"""How many connections a process takes follows from what the system gives it."""

from __future__ import annotations

import resource

import pytest

from router.server import MOST_CONNECTIONS, _room_for_connections


@pytest.mark.parametrize(
    ("soft", "hard", "asked_for", "connections"),
    [
        (1024, 1_048_576, 25_088, MOST_CONNECTIONS),
        (1024, resource.RLIM_INFINITY, 25_088, MOST_CONNECTIONS),
        (1024, 4096, 4096, 1194),
        (256, 256, 256, 64),
        (1_048_576, 1_048_576, None, MOST_CONNECTIONS),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, MOST_CONNECTIONS),
    ],
)
def test_connections_are_a_third_of_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, asked_for: int | None, connections: int
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert _room_for_connections() == connections
    assert asked == ([] if asked_for is None else [(asked_for, hard)])
