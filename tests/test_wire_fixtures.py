"""Every fixture of `wire_fixtures.py`, whole and cut anywhere."""

from __future__ import annotations

import asyncio
import io
import random
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from router.protocol.events import Complete, Fail
from router.protocol.exchange import LAST_TURN_NOTE
from tests.brain import Asked, Script, Wire, hangs
from tests.eyes import Look
from tests.live import House, live, post, read_whole, soon
from tests.live import Line as ClientLine
from tests.playbook import owning
from tests.pure_splice import (
    Answer,
    Cut,
    Spliced,
    at,
    byte_by_byte,
    read_stream,
    somewhere,
    splice,
    whole,
)
from tests.wire_fixtures import (
    ANSWER,
    DONE,
    FIXTURES,
    LEFT,
    NUMBERS,
    SERVED,
    Fixture,
    HangUp,
    Visit,
    bash,
    data,
    end,
    look,
    numbers_of,
    start,
    words,
)
from tools.call import ToolCall

# Turns of the brain, and the one answer


def run(fixture: Fixture, *, cut: Cut = whole, include_usage: bool = False) -> Spliced:
    return splice(
        fixture.turns,
        cut=cut,
        own=owning("analyzeImage") if fixture.offered else owning(),
        request=fixture.request,
        engine=fixture.engine,
        include_usage=include_usage,
        stream=fixture.streams,
        late_thoughts=fixture.late_thoughts,
    )


def read(fixture: Fixture, client: bytes, *, include_usage: bool = False) -> Answer:
    return read_stream(client, include_usage=include_usage) if fixture.streams else read_whole(client)


def check(answer: Answer, fixture: Fixture) -> None:
    assert answer.text == fixture.text
    assert answer.reasoning == fixture.reasoning
    assert answer.calls == list(fixture.calls)
    assert answer.finish == fixture.finish
    assert (answer.error or {}).get("message") == fixture.error
    assert answer.others == list(fixture.others)
    if fixture.order is not None:
        assert answer.order == list(fixture.order)
    if fixture.usage is not None:
        assert answer.usage is not None
        assert answer.usage.items() >= fixture.usage.items()


@pytest.mark.parametrize("fixture", FIXTURES.values(), ids=FIXTURES.keys())
def test_a_conversation_ends_in_one_canonical_answer_however_it_is_cut(fixture: Fixture) -> None:
    spliced = run(fixture)
    assert [[looking.arguments for looking in calls] for calls in looked(spliced)] == [
        list(some) for some in fixture.looks
    ]
    assert [looking.arguments for looking in (spliced.deferred.calls if spliced.deferred else ())] == list(
        fixture.deferred
    )
    assert isinstance(spliced.outcome, Complete if fixture.error is None else Fail)
    if fixture.status is not None:
        assert isinstance(spliced.outcome, Fail)
        assert spliced.outcome.error.status == fixture.status
    check(read(fixture, spliced.client), fixture)
    if fixture.offered:
        assert b"analyzeImage" not in spliced.client
    for cut in (byte_by_byte, at(1), *map(somewhere, range(10))):
        assert run(fixture, cut=cut) == spliced
    check(read(fixture, run(fixture, include_usage=True).client, include_usage=True), fixture)


def looked(spliced: Spliced) -> list[tuple[ToolCall, ...]]:
    """What our tool was asked after each turn but the last; nothing where a turn was asked again instead."""
    waiting = iter(spliced.calls)
    asked_again = [earlier["messages"] == later["messages"] for earlier, later in pairwise(spliced.requests)]
    calls: list[tuple[ToolCall, ...]] = [() if again else next(waiting) for again in asked_again]
    assert next(waiting, None) is None
    return calls


LIMITS = ("max_tokens", "max_completion_tokens")
MAY_CHANGE = {*LIMITS, "messages", "stream", "stream_options"}

SEVERAL = {name: fixture for name, fixture in FIXTURES.items() if len(fixture.turns) > 1}


@pytest.mark.parametrize("fixture", SEVERAL.values(), ids=SEVERAL.keys())
def test_each_turn_is_asked_with_what_was_asked_and_said_before_to_the_byte(fixture: Fixture) -> None:
    spliced = run(fixture)
    assert spliced.requests[0] == fixture.request
    assert len(spliced.requests) == len(fixture.turns)
    calls = looked(spliced)
    for (earlier, later), made in zip(pairwise(spliced.requests), calls, strict=True):
        before, after = orjson.dumps(earlier["messages"]), orjson.dumps(later["messages"])
        assert after.startswith(before.removesuffix(b"]"))
        assert rest(earlier) == rest(later)
        added = later["messages"][len(earlier["messages"]) :]
        assert [message["role"] for message in added] == (["assistant", *["tool"] * len(made)] if made else [])
        if made:
            assert [one["id"] for one in added[0]["tool_calls"]] == [one.id for one in made]
            assert [result["tool_call_id"] for result in added[1:]] == [one.id for one in made]
            assert all(isinstance(orjson.loads(one["function"]["arguments"]), dict) for one in added[0]["tool_calls"])


def rest(request: Mapping[str, Any]) -> bytes:
    return orjson.dumps({key: value for key, value in request.items() if key not in MAY_CHANGE})


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FIXTURES)), st.lists(st.integers(0, 5000), max_size=10))
def test_a_conversation_is_the_same_at_any_cuts(name: str, places: Sequence[int]) -> None:
    assert run(FIXTURES[name], cut=at(*places)) == run(FIXTURES[name], cut=whole)


def test_usage_is_said_once_and_where_the_client_wants_it() -> None:
    """Whatever the server sends, one usage for the client that asked, one on the finish for the other."""
    turns = FIXTURES["F24 continuous usage"].turns
    asked = splice(turns, include_usage=True).client
    assert asked.count(b'"usage"') == splice(turns).client.count(b'"usage"') == 1
    usage = read_stream(asked, include_usage=True).usage
    assert usage == read_stream(splice(turns).client).usage
    assert usage is not None
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (5, 2, 7)


def test_the_whole_first_fixture_to_the_byte() -> None:
    """One answer spelled out, so that the canonical form cannot drift behind its own reader."""
    spliced = splice(FIXTURES["F14 words, a look, words"].turns, include_usage=True)
    envelope = b'data: {"id":"u1","object":"chat.completion.chunk","created":1,"model":"brain","choices":['
    tail = b',"logprobs":null,"finish_reason":null}]}\n\n'
    deltas = (
        b'{"role":"assistant","content":""}',
        b'{"content":"Let me look"}',
        b'{"content":"."}',
        b'{"content":"\\n\\nA"}',
        b'{"content":" cat"}',
        b'{"content":"."}',
    )
    usage = (
        b'{"prompt_tokens":90,"completion_tokens":4,"total_tokens":94,"chiasm":{"turns":2,"vision_calls":1,'
        b'"vision_prompt_tokens":100,"vision_completion_tokens":10,"billed_prompt_tokens":90}}'
    )
    assert spliced.client == (
        b"".join(envelope + b'{"index":0,"delta":' + delta + tail for delta in deltas)
        + envelope
        + b'{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop"}]}\n\n'
        + envelope
        + b'],"usage":'
        + usage
        + b"}\n\n"
        + DONE
    )


def test_other_choices_keep_their_stream_beside_the_first() -> None:
    """With `n` > 1 nothing is looped."""
    other = {"index": 1, "delta": {"content": "B"}, "finish_reason": None}
    finished = {"index": 1, "delta": {}, "finish_reason": "stop"}
    stream = (
        start()
        + words("A")
        + data({"id": "u1", "choices": [other]})
        + bash()
        + data({"id": "u1", "choices": [finished]})
        + end()
    )
    answer = read_stream(splice([stream], own=owning()).client)
    assert answer.others == [other, finished]
    assert (answer.text, [one.name for one in answer.calls], answer.finish) == ("A", ["bash"], "tool_calls")


def test_the_brain_reads_in_the_last_results_that_its_turns_are_used_up() -> None:
    turns = [start() + look() + end("tool_calls"), ANSWER]
    spliced = splice(turns, max_turns=2)
    assert spliced.requests[1]["messages"][-1]["content"] == "seen by l1" + LAST_TURN_NOTE
    assert splice(turns, max_turns=3).requests[1]["messages"][-1]["content"] == "seen by l1"


def test_a_server_that_refuses_in_its_first_frame_is_refused_with_its_status() -> None:
    """A 429 inside a stream is a 429."""
    outcome = splice([data({"id": "g", "choices": [], "error": {"code": 429, "message": "slow down"}})]).outcome
    assert isinstance(outcome, Fail)
    assert (outcome.error.status, outcome.error.message) == (429, "slow down")


# Requests of clients, and what goes on to the brain's server

HEARTBEATS = re.compile(rb"(?m)^: keep-alive\n\n")


def cut_anywhere(body: bytes, chance: random.Random, *, stays_open: bool = False) -> Script:
    """An answer in pieces of any size."""
    content_type = "application/json" if body.startswith(b"{") else "text/event-stream"

    async def script(asked: Asked, wire: Wire) -> None:
        await wire.head(200, {"content-type": content_type})
        rest = body
        while rest:
            size = chance.choice((1, 2, 7, 40, 300, 2000))
            await wire.send(rest[:size])
            rest = rest[size:]
            await asyncio.sleep(0)
        if stays_open:
            await wire.until_hung_up()
        await wire.end()

    return script


@pytest.mark.anyio
@pytest.mark.live
@pytest.mark.parametrize("name", SERVED)
async def test_a_request_goes_on_and_its_answer_comes_back_to_the_byte(name: str) -> None:
    served = SERVED[name]
    chance = random.Random(name)
    async with live(text={"engine": served.engine}) as house:
        for visit in served.visits:
            await one_visit(house, visit, chance)
        looks = house.eyes.looks
        assert [colour_of(one) for one in looks] == [colour for colour, _ in served.looks]
        for one, (_, asked_for) in zip(looks, served.looks, strict=True):
            assert asked_for in one.words


async def one_visit(house: House, visit: Visit, chance: random.Random) -> None:
    before = len(house.brain.asked)
    house.brain.will(*(cut_anywhere(turn, chance) for turn in visit.turns))
    got = await house.send(visit.body, headers=visit.headers)
    assert [asked.body for asked in house.brain.asked[before:]] == list(visit.asked)
    assert got.status == visit.status
    assert HEARTBEATS.sub(b"", got.body) == visit.answer


def colour_of(look_: Look) -> str:
    (picture,) = look_.pictures
    red, _, blue = Image.open(io.BytesIO(picture)).convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    return "red" if red > blue else "blue"


@pytest.mark.anyio
@pytest.mark.live
@pytest.mark.parametrize("hang_up", LEFT.values(), ids=LEFT.keys())
async def test_nobody_works_for_a_client_that_has_left(hang_up: HangUp) -> None:
    *ended, last = hang_up.turns
    async with live() as house:
        chance = random.Random(hang_up.body)
        stays_open = hang_up.during == "answer"
        house.brain.will(
            *(cut_anywhere(turn, chance) for turn in ended), cut_anywhere(last, chance, stays_open=stays_open)
        )
        if hang_up.during == "look":
            house.eyes.will(hangs)
        async with ClientLine(house.port, post(hang_up.body)) as line:
            while HEARTBEATS.sub(b"", line.body) != hang_up.had:
                assert await line.more(), line.raw
            asked = await soon(house.eyes.came() if hang_up.during == "look" else house.brain.came(len(hang_up.turns)))
            assert not asked.gone.is_set()
        await soon(asked.gone.wait())
        assert len(house.brain.asked) == len(hang_up.turns)


def test_every_number_has_a_fixture() -> None:
    shown = {number for name in (*FIXTURES, *SERVED, *LEFT) for number in numbers_of(name)}
    assert shown == set(NUMBERS)
