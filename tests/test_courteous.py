"""A look behind the scenes never makes anybody wait."""

from __future__ import annotations

import asyncio

import pytest

from tools.call import VisionUsage
from tools.vision.backend import VisionAnswer, VisionError, VisionImage, VisionQuery
from tools.vision.courteous import Courteous

pytestmark = pytest.mark.anyio


class SlowEyes:
    """Look when they are let, and count what they had to break off."""

    name = "slow"

    def __init__(self) -> None:
        self.let: dict[str, asyncio.Event] = {}
        self.broken_off: list[str] = []

    async def look(self, query: VisionQuery) -> VisionAnswer:
        event = self.let.setdefault(query.task, asyncio.Event())
        try:
            await event.wait()
        except asyncio.CancelledError:
            self.broken_off.append(query.task)
            raise
        if query.task == "fail":
            raise VisionError("no", retryable=False)
        return VisionAnswer(query.task, VisionUsage(1, 1, 1))

    async def identity(self) -> str:
        return "slow eyes"

    async def ready(self) -> str | None:
        return "not yet"

    async def close(self) -> None:
        self.let.clear()


def about(task: str) -> VisionQuery:
    return VisionQuery((VisionImage(1, b""),), task, "")


async def begun(eyes: SlowEyes, task: str) -> asyncio.Event:
    while task not in eyes.let:  # noqa: ASYNC110 (the event itself is what is waited for)
        await asyncio.sleep(0)
    return eyes.let[task]


async def test_both_ways_of_asking_answer() -> None:
    eyes = SlowEyes()
    both = Courteous(eyes)
    for look in (both.look, both.look_behind):
        asking = asyncio.ensure_future(look(about("a")))
        (await begun(eyes, "a")).set()
        answer = await asking
        assert answer is not None
        assert answer.text == "a"
    assert (both.name, await both.identity(), await both.ready()) == ("slow", "slow eyes", "not yet")


async def test_a_look_behind_gives_way_at_once() -> None:
    eyes = SlowEyes()
    both = Courteous(eyes)
    behind = asyncio.create_task(both.look_behind(about("behind")))
    await begun(eyes, "behind")
    asking = asyncio.create_task(both.look(about("asked")))
    (await begun(eyes, "asked")).set()
    assert await behind is None
    assert eyes.broken_off == ["behind"]
    assert (await asking).text == "asked"


async def test_a_look_behind_waits_until_nobody_looks() -> None:
    eyes = SlowEyes()
    both = Courteous(eyes)
    asking = [asyncio.create_task(both.look(about(task))) for task in ("one", "two")]
    await begun(eyes, "two")
    behind = asyncio.create_task(both.look_behind(about("behind")))
    eyes.let["one"].set()
    await asking[0]
    await asyncio.sleep(0)
    assert "behind" not in eyes.let
    eyes.let["two"].set()
    (await begun(eyes, "behind")).set()
    answer = await behind
    assert answer is not None
    assert answer.text == "behind"
    await asyncio.gather(*asking)


async def test_who_asked_behind_may_leave_and_takes_the_look_along() -> None:
    eyes = SlowEyes()
    behind = asyncio.create_task(Courteous(eyes).look_behind(about("behind")))
    await begun(eyes, "behind")
    behind.cancel()
    with pytest.raises(asyncio.CancelledError):
        await behind
    await asyncio.sleep(0)
    assert eyes.broken_off == ["behind"]


async def test_a_failed_look_behind_says_so_and_the_next_one_works() -> None:
    eyes = SlowEyes()
    both = Courteous(eyes)
    for task in ("fail", "works"):
        asking = asyncio.create_task(both.look_behind(about(task)))
        (await begun(eyes, task)).set()
        await asyncio.wait({asking})
        assert (asking.exception() is not None) == (task == "fail")
    await both.close()
    assert eyes.let == {}
