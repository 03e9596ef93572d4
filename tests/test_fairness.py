"""One who asks for much keeps nobody else waiting, and is told when it is too much."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

import router.intake.admission
import tools.vision.turns
from cache.blobs import Blobs
from cache.image import ImageLimits
from cache.memory import MemoryStore
from router.intake.admission import Admission
from router.protocol.image_parts import Base64Image, FoundImage
from tests.brain import Asked, Script, looks, says
from tests.eyes import sees
from tests.live import DEADLINE, House, becomes, live, picture, shown, soon, user
from tests.metrics_reading import scraped_until
from tools.call import ToolCall, ToolResult
from tools.definition import ToolDefinition
from tools.places import Places
from tools.toolbox import LOOKS_AT_ONCE, MOST_CALLS, Toolbox

pytestmark = [pytest.mark.anyio]

KEYS = ["many", "one"]


def key(name: str) -> dict[str, str]:
    return {"x-api-key": name}


def looks_once(asked: Asked) -> Script:
    if asked.messages[-1]["role"] == "tool":
        return says("So.")
    return says(looks(1, f"Look for {asked.messages[0]['content'][0]['text']}."))


async def ask(house: House, who: str, seed: int) -> None:
    answer = await house.chat(user(f"{who} {seed}", shown(picture(seed))), headers=key(who), stream=True)
    assert answer.text == "So."


@pytest.mark.live
async def test_who_asks_one_thing_is_looked_for_before_the_rest_of_him_who_asks_many() -> None:
    async with live(server={"api_keys": KEYS}, vision={"max_concurrency": 1}) as house:
        house.brain.answers = looks_once
        gate = asyncio.Event()
        house.eyes.answers = lambda asked: sees("A cat.", after=gate)
        many = [asyncio.ensure_future(ask(house, "many", seed)) for seed in range(6)]
        await soon(house.eyes.came())
        one = asyncio.ensure_future(ask(house, "one", 99))
        await soon(house.brain.came(7))
        await scraped_until(house, lambda got: got("chiasm_looks_waiting") == 6)
        gate.set()
        await soon(asyncio.gather(one, *many))
        assert house.eyes.at_once == 1
        asked_for = [look.words for look in house.eyes.looks]
        assert [position for position, words in enumerate(asked_for) if "for one" in words] in ([1], [2])


@pytest.mark.live
async def test_a_place_is_free_for_another_however_many_looks_one_has_under_way() -> None:
    async with live(server={"api_keys": KEYS}, vision={"max_concurrency": 4}) as house:
        house.brain.answers = looks_once
        gate = asyncio.Event()
        house.eyes.answers = lambda asked: sees("A cat.", after=gate)
        many = [asyncio.ensure_future(ask(house, "many", seed)) for seed in range(6)]
        await soon(house.eyes.came(3))
        house.eyes.will(sees("A dog."))
        await soon(ask(house, "one", 99))
        assert len(house.eyes.looks) == 4
        gate.set()
        await soon(asyncio.gather(*many))


@pytest.mark.live
async def test_too_many_looks_are_told_to_the_brain_as_busy_and_the_answer_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tools.vision.turns, "WAITING_PER_PLACE", 1)
    async with live(vision={"max_concurrency": 1}) as house:
        gate = asyncio.Event()
        house.eyes.answers = lambda asked: sees("A cat.", after=gate)
        house.brain.will(says(*[looks(1, f"Question {number}?") for number in range(5)]), says("So."))
        asking = asyncio.ensure_future(house.chat(user(shown(picture(1))), stream=True))
        await soon(house.eyes.came())
        await scraped_until(house, lambda got: got("chiasm_looks_total", outcome="busy") == 3)
        gate.set()
        assert (await soon(asking)).text == "So."
        results = [message["content"] for message in house.brain.asked[1].messages if message["role"] == "tool"]
        assert sum("The vision model is busy" in result for result in results) == 3
        assert sum("A cat." in result for result in results) == 2
        assert len(house.eyes.looks) == 2


@pytest.mark.live
async def test_too_many_captions_are_a_503_that_says_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.vision.turns, "WAITING_PER_PLACE", 0)
    async with live(text={"images": "caption"}, vision={"max_concurrency": 1}) as house:
        gate = asyncio.Event()
        house.eyes.answers = lambda asked: sees("A cat.", after=gate)
        house.brain.will(says("So."), says("So."))
        first = asyncio.ensure_future(house.chat(user("First", shown(picture(1)))))
        await soon(house.eyes.came())
        messages = [user("Second", shown(picture(2)))]
        got = await house.send({"messages": messages})
        assert (got.status, got.error["code"], got.headers["retry-after"]) == (503, "overloaded", "5")
        gate.set()
        assert (await soon(first)).text == "So."
        assert (await house.send({"messages": messages})).status == 200


@pytest.mark.live
async def test_a_request_of_forty_images_in_caption_mode_has_them_all_described_some_at_a_time() -> None:
    async with live(text={"images": "caption"}, vision={"max_concurrency": 20}) as house:
        house.eyes.answers = lambda asked: sees("A cat.", after=0.02)
        house.brain.will(says("So."))
        await house.chat(user(*(shown(picture(seed)) for seed in range(40))))
        assert str(house.brain.asked[0].messages).count("A cat.") == 40
        assert 1 < house.eyes.at_once <= LOOKS_AT_ONCE


class Slow(MemoryStore):
    """Takes nothing of one tenant's until the gate opens."""

    def __init__(self) -> None:
        super().__init__(max_bytes=2**20)
        self.gate = asyncio.Event()
        self.waiting = 0

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        if key.startswith("blob/many/"):
            self.waiting += 1
            await self.gate.wait()
        return await super().add(key, value, ttl=ttl)


async def test_nobody_waits_for_a_store_that_is_slow_to_take_the_images_of_another_tenant() -> None:
    store = Slow()
    admission = Admission(blobs=Blobs(store), limits=ImageLimits())

    def found(seed: int) -> FoundImage:
        return FoundImage(Base64Image(base64.b64encode(picture(seed)).decode(), ""), "user", 0, False)

    many = asyncio.ensure_future(admission.admit("many", [found(seed) for seed in range(20)], None))
    await becomes(lambda: store.waiting >= 2)
    (seen,) = await soon(admission.admit("one", [found(99)], None))
    assert not seen.facts.problem
    assert not many.done()
    assert store.waiting < 20, "the bytes of all images of a request are in memory at once"
    store.gate.set()
    assert len(await soon(many)) == 20
    admission.close()


@pytest.mark.live
async def test_one_image_is_admitted_between_those_of_another_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bytes] = []
    askers: set[str] = set()
    gate = threading.Event()
    really, place = router.intake.admission._open, Places.of

    def gated(payload: memoryview, *rest: Any) -> Any:
        opened.append(bytes(payload))
        assert gate.wait(DEADLINE)
        return really(payload, *rest)

    def noted(self: Places, who: str) -> Any:
        askers.add(who)
        return place(self, who)

    monkeypatch.setattr(router.intake.admission, "_open", gated)
    monkeypatch.setattr(Places, "of", noted)
    mine = picture(500)
    async with live(server={"api_keys": KEYS}) as house:
        house.brain.answers = lambda asked: says("So.")
        others = [shown(picture(seed)) for seed in range(100)]
        many = asyncio.ensure_future(house.chat(user(*others), headers=key("many")))
        await becomes(lambda: len(opened) == 2)
        one = asyncio.ensure_future(house.chat(user(shown(mine)), headers=key("one")))
        await becomes(lambda: len(askers) == 2)
        gate.set()
        await soon(one)
        await soon(many)
        assert len(opened) == 101
        # Its turn comes twice, once to be known and once to be opened.
        assert opened.index(base64.b64encode(mine)) < 10
        assert "[Image #100]" in str([asked.messages for asked in house.brain.asked])


@pytest.mark.live
async def test_a_history_of_hundreds_of_known_images_goes_on() -> None:
    async with live() as house:
        house.brain.answers = lambda asked: says("So.")
        messages = [user(*(shown(picture(seed)) for seed in range(300)))]
        for _ in range(2):
            got = await house.send(orjson.dumps({"messages": messages}))
            assert got.status == 200
        assert "[Image #300]" in str(house.brain.asked[1].messages)


class Counting:
    """Counts how many of its calls run side by side."""

    definition = ToolDefinition("count", "Counts.", {"type": "object", "properties": {}})

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.running = 0
        self.at_once = 0

    async def call(self, call: ToolCall) -> ToolResult:
        self.calls.append(call.id)
        self.running += 1
        self.at_once = max(self.at_once, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        return ToolResult(call.id, "done")


async def test_of_many_calls_in_one_turn_some_run_at_once_and_those_beyond_the_limit_are_told_so() -> None:
    tool = Counting()
    calls = [ToolCall(f"c{number}", "count", "{}") for number in range(MOST_CALLS + 5)]
    results: Sequence[ToolResult] = await Toolbox([tool]).call_all(calls)
    assert [result.call_id for result in results] == [call.id for call in calls]
    assert tool.at_once == LOOKS_AT_ONCE
    assert len(tool.calls) == MOST_CALLS
    assert all("one too many" in result.text and result.failed for result in results[MOST_CALLS:])
