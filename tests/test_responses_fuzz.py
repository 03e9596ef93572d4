"""Responses as no server should send them: the client still gets one canonical answer, or an honest failure."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson
import pytest

from router.protocol.events import Complete, Fail
from tests.responses_brain import Turn
from tests.responses_reading import read_events
from tests.responses_wire import splice

TURNS = [
    Turn().thinks("I look.").says("Let me see.").calls("bash", '{"c":1}').is_whole(),
    Turn().sums_up("First.", "Second.", encrypted_content="s").searches().says("Hello.").is_whole(),
    Turn().custom("apply_patch", "*** Begin").calls("read", "{}").is_whole(),
]
STRANGE: list[Any] = [None, 1, -1, 2.5, True, "", "x", [], {}, [None], [1], {"id": 1}, {"type": "message"}, [{}], 2**70]
SEEDS = range(10)
TIMES = 40


def frames(turn: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(frame.partition(b"\ndata: ")[2]) for frame in turn.split(b"\n\n")[:-1]]


def is_honest(events: list[Any]) -> None:
    turn = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    done = splice([turn], own=())
    assert isinstance(done.outcome, Complete | Fail)
    read_events(done.client)


def changed(value: Any, chance: random.Random, depth: int = 0) -> Any:
    """Something in it is not what it should be."""
    inside = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    if not inside or (depth and chance.random() < 0.4):
        return chance.choice(STRANGE)
    key = chance.choice(list(inside))
    if chance.random() < 0.25:
        inside = {name: one for name, one in inside.items() if name != key}
    else:
        inside = {**inside, key: changed(inside[key], chance, depth + 1)}
    return inside if isinstance(value, dict) else list(inside.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_any_events_in_any_order(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(TIMES):
        events = frames(chance.choice(TURNS))
        is_honest(chance.choices(events, k=chance.randrange(1, len(events))))


@pytest.mark.parametrize("seed", SEEDS)
def test_some_events_are_missing(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(TIMES):
        is_honest([event for event in frames(chance.choice(TURNS)) if chance.random() < 0.7])


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of the referee: it is given what was changed
@pytest.mark.parametrize("seed", SEEDS)
def test_some_fields_are_not_what_they_should_be(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(TIMES):
        events: list[Any] = frames(chance.choice(TURNS))
        for at in chance.choices(range(len(events)), k=chance.randrange(1, 4)):
            events[at] = changed(events[at], chance)
        is_honest(events)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_whole_answer_is_not_what_it_should_be(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(TIMES):
        response = changed(frames(chance.choice(TURNS))[-1]["response"], chance)
        turn = json.dumps(response).encode() if isinstance(response, dict) else b"{}"
        done = splice([turn], own=(), stream=False)
        assert isinstance(done.outcome, Complete | Fail)
        if isinstance(done.outcome, Complete):
            assert orjson.loads(done.client)["object"] == "response"
