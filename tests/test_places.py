"""Places go round among those who wait, and none is ever lost."""

from __future__ import annotations

import asyncio

import pytest

from tools.places import LineTooLong, Places

pytestmark = pytest.mark.anyio


class Visitors:
    """Each takes a place, is noted, and stays until it is let go."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.came: list[str] = []
        self._doors: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def send(self, *askers: str) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self._visit(asker)) for asker in askers]
        self.tasks += tasks
        await settled()
        return tasks

    async def _visit(self, asker: str) -> None:
        async with self._places.of(asker):
            self.came.append(asker)
            door = asyncio.Event()
            self._doors.append(door)
            await door.wait()

    async def let_one_go(self) -> None:
        self._doors.pop(0).set()
        await settled()

    async def let_all_go(self) -> None:
        while self._doors:
            await self.let_one_go()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_brings_one_thing_waits_for_one_of_him_who_brings_many() -> None:
    visitors = Visitors(Places(1))
    await visitors.send(*["many"] * 50, "one", "other")
    await visitors.let_all_go()
    assert visitors.came[:4] == ["many", "many", "one", "other"]
    assert visitors.came.count("many") == 50


async def test_two_who_bring_many_take_turns() -> None:
    visitors = Visitors(Places(1))
    await visitors.send(*["a"] * 4, *["b"] * 4)
    await visitors.let_all_go()
    assert visitors.came == ["a", "a", "b", "a", "b", "a", "b", "b"]


async def test_one_asker_holds_no_more_than_his_share_while_another_finds_a_place_free() -> None:
    visitors = Visitors(Places(4, each=3))
    await visitors.send(*["many"] * 10)
    assert visitors.came == ["many"] * 3
    await visitors.send("one")
    assert visitors.came == [*["many"] * 3, "one"]
    await visitors.let_all_go()
    assert visitors.came.count("many") == 10


async def test_all_places_are_used_at_once_and_no_more() -> None:
    visitors = Visitors(Places(3))
    await visitors.send(*["a"] * 5)
    assert len(visitors.came) == 3
    await visitors.let_all_go()
    assert len(visitors.came) == 5


async def test_too_long_a_line_is_refused_at_once_and_only_to_him_whose_line_it_is() -> None:
    places = Places(1, line=2)
    visitors = Visitors(places)
    await visitors.send(*["many"] * 3)
    with pytest.raises(LineTooLong):
        async with places.of("many"):
            pass
    await visitors.send("one")
    await visitors.let_all_go()
    assert sorted(visitors.came) == ["many", "many", "many", "one"]
    assert repr(places) == "<Places 1 free, 0 waiting>"


async def test_a_line_that_may_not_exist_leaves_nothing_behind() -> None:
    places = Places(1, line=0)
    async with places.of("a"):
        for _ in range(2):
            with pytest.raises(LineTooLong):
                async with places.of("a"):
                    pass
    async with places.of("a"):
        assert repr(places) == "<Places 0 free, 0 waiting>"


async def test_whoever_leaves_while_waiting_takes_no_place_with_him() -> None:
    places = Places(1)
    visitors = Visitors(places)
    _, leaver, _ = await visitors.send("a", "a", "b")
    leaver.cancel()
    await settled()
    await visitors.let_all_go()
    assert visitors.came == ["a", "b"]
    assert repr(places) == "<Places 1 free, 0 waiting>"


async def test_whoever_leaves_in_the_moment_of_his_turn_hands_it_on() -> None:
    places = Places(1)
    visitors = Visitors(places)
    async with places.of("holder"):
        leaver, _ = await visitors.send("a", "b")
    leaver.cancel()  # his turn has come, and he has not run since
    await settled()
    assert visitors.came == ["b"]
    await visitors.let_all_go()
    assert repr(places) == "<Places 1 free, 0 waiting>"


async def test_a_place_that_becomes_free_while_the_next_is_leaving_goes_to_the_one_behind() -> None:
    places = Places(1)
    visitors = Visitors(places)
    async with places.of("holder"):
        leaver, _, _ = await visitors.send("a", "a", "b")
        leaver.cancel()  # he has not run since
    await settled()
    assert len(visitors.came) == 1
    await visitors.let_all_go()
    assert sorted(visitors.came) == ["a", "b"]
    assert repr(places) == "<Places 1 free, 0 waiting>"


async def test_a_fault_inside_gives_the_place_back() -> None:
    places = Places(1)
    with pytest.raises(RuntimeError):
        async with places.of("a"):
            raise RuntimeError
    async with places.of("a"):
        assert repr(places) == "<Places 0 free, 0 waiting>"
