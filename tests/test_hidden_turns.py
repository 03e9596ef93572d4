"""Hidden turns are kept, found again by any process, and completed once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cache.memory import MemoryStore
from cache.store import StoreError
from router.intake.hidden_turns import HiddenTurns
from router.protocol.ledger import KeptTable, KeptTurn, Place
from tools.call import ToolCall, ToolResult, VisionUsage

pytestmark = pytest.mark.anyio

HERE = Place("full", "near")
ELSEWHERE = Place("other", "near")
TURN = KeptTurn(
    said=[{"role": "assistant", "content": "A dog.", "n": 1.5, "deep": {"é": [None, True]}}],
    results=[{"role": "tool", "tool_call_id": "l", "content": "> a dog"}],
    looks=[[1], [2, 3]],
    stamp=7,
)
CALLS = [ToolCall("l", "analyzeImage", '{"image":"1"}')]
COST = VisionUsage(1, 20, 3)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Looking:
    """Carries calls out when it is let."""

    def __init__(self, text: str = "> a dog") -> None:
        self.let = asyncio.Event()
        self.asked: list[Sequence[ToolCall]] = []
        self._text = text

    async def __call__(self, calls: Sequence[ToolCall]) -> Sequence[ToolResult]:
        self.asked.append(list(calls))
        await self.let.wait()
        return [ToolResult(call.id, self._text, COST, images=(4,), stamp=9) for call in calls]


async def never(calls: Sequence[ToolCall]) -> Sequence[ToolResult]:
    raise AssertionError(calls)


def turns(store: MemoryStore | Any, clock: Clock | None = None) -> HiddenTurns:
    return HiddenTurns(store, ttl=60, clock=clock or Clock())


def memory() -> MemoryStore:
    return MemoryStore(max_bytes=10**7)


async def found(of: HiddenTurns, place: Place = HERE, run: Any = never) -> KeptTurn | None:
    return (await of.find("w", {3: place}, {}, run)).turns.get(3)


async def test_a_turn_is_found_by_every_process_as_it_was_kept() -> None:
    store = memory()
    first = turns(store)
    await first.keep("w", HERE, TURN)
    assert await found(first) == TURN
    assert await found(turns(store)) == TURN


async def test_a_turn_is_found_in_its_own_conversation_only() -> None:
    store = memory()
    await turns(store).keep("w", HERE, TURN)
    assert (await turns(store).find("v", {0: HERE}, {}, never)).turns == {}


async def test_a_trimmed_history_finds_its_turn_by_the_near_place() -> None:
    store = memory()
    await turns(store).keep("w", HERE, TURN)
    assert await found(turns(store), Place("trimmed", "near")) == TURN


async def test_a_near_place_that_means_two_turns_means_none() -> None:
    store = memory()
    await turns(store).keep("w", HERE, TURN)
    await turns(store).keep("w", ELSEWHERE, TURN)
    assert await found(turns(store), Place("trimmed", "near")) is None
    assert await found(turns(store), HERE) == TURN
    assert await found(turns(store), ELSEWHERE) == TURN


async def test_a_turn_whose_calls_were_written_anew_is_found_by_their_ids() -> None:
    store = memory()
    await turns(store).keep("w", Place("full", "near", "calls"), TURN)
    assert await found(turns(store), Place("other", "far", "calls")) == TURN
    await turns(store).keep_plain("w", Place("plain", "beside", "calls"))  # a server that counts its ids anew
    assert await found(turns(store), Place("other", "far", "calls")) is None
    assert await found(turns(store), Place("other", "near")) == TURN


async def test_the_same_turn_kept_again_still_means_one() -> None:
    store = memory()
    await turns(store).keep("w", HERE, TURN)
    await turns(store).keep("w", HERE, TURN)
    assert await found(turns(store), Place("trimmed", "near")) == TURN


async def test_what_was_decided_about_a_history_stands() -> None:
    store = memory()
    here = turns(store)
    assert await found(here) is None
    await turns(store).keep("w", HERE, TURN)
    assert await found(here) is None
    assert await found(turns(store)) == TURN


async def test_a_store_that_fails_decides_nothing() -> None:
    class Failing(MemoryStore):
        fails = True

        async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
            if self.fails:
                raise StoreError("down")
            return await super().get_many(keys)

    store = Failing(max_bytes=10**7)
    await turns(store).keep("w", HERE, TURN)
    here = turns(store)
    assert await found(here) is None
    store.fails = False
    assert await found(here) == TURN


async def test_a_turn_that_could_not_be_kept_lives_as_long_as_its_process() -> None:
    class Full(MemoryStore):
        async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
            raise StoreError("disk full")

    store = Full(max_bytes=10**7)
    here = turns(store)
    await here.keep("w", HERE, TURN)
    assert await found(here) == TURN
    assert await found(turns(store)) is None


async def test_a_plain_answer_takes_the_place_of_the_hidden_turn_that_was_discarded() -> None:
    store = memory()
    here = turns(store)
    await here.keep("w", HERE, TURN)
    assert await found(here) == TURN
    await here.keep_plain("w", HERE)
    assert await found(here) is None
    assert await found(turns(store)) is None


async def test_a_plain_answer_like_a_hidden_one_makes_their_near_place_mean_neither() -> None:
    store = memory()
    await turns(store).keep("w", HERE, TURN)
    await turns(store).keep_plain("w", ELSEWHERE)
    assert await found(turns(store), Place("trimmed", "near")) is None
    assert await found(turns(store), HERE) == TURN


# Mixed turns


async def test_a_mixed_turn_waits_for_its_looks() -> None:
    looking, here = Looking(), turns(memory())
    await here.begin("w", HERE, KeptTurn(TURN.said, looks=[[1]], stamp=7), CALLS, looking)
    asking = asyncio.create_task(found(here))
    await asyncio.sleep(0)
    assert not asking.done()
    looking.let.set()
    turn = await asking
    assert turn is not None
    assert turn.results == [{"role": "tool", "tool_call_id": "l", "content": "> a dog"}]
    assert [list(look) for look in turn.looks] == [[1], [4]]
    assert turn.stamp == 9
    assert looking.asked == [CALLS]


async def test_what_the_looks_of_a_mixed_turn_cost_is_known() -> None:
    looking, here = Looking(), turns(memory())
    looking.let.set()
    await here.begin("w", HERE, KeptTurn(TURN.said), CALLS, looking)
    assert (await here.find("w", {3: HERE}, {}, never)).costs == {3: COST}


async def test_a_finished_mixed_turn_is_found_by_another_process_without_looking_again() -> None:
    store, looking = memory(), Looking()
    looking.let.set()
    here = turns(store)
    await here.begin("w", HERE, KeptTurn(TURN.said), CALLS, looking)
    told = await found(here)
    assert await found(turns(store)) == told


async def test_another_process_waits_for_the_one_that_looks() -> None:
    store, looking, clock = memory(), Looking(), Clock()
    here, there = turns(store, clock), turns(store, clock)
    await here.begin("w", HERE, KeptTurn(TURN.said), CALLS, looking)
    asking = asyncio.create_task(found(there))
    await asyncio.sleep(0.3)
    assert not asking.done()
    looking.let.set()
    assert await asking == await found(here)
    await here.close()


async def test_a_process_that_died_is_replaced() -> None:
    store, dead, alive, clock = memory(), Looking("> lost"), Looking("> a cat"), Clock()
    here, there = turns(store, clock), turns(store, clock)
    await here.begin("w", HERE, KeptTurn(TURN.said), CALLS, dead)
    await here.close()
    clock.now += 60
    alive.let.set()
    turn = await found(there, run=alive)
    assert turn is not None
    assert turn.results[0]["content"] == "> a cat"
    assert alive.asked == [CALLS]


async def test_of_two_processes_that_looked_the_first_to_finish_decides() -> None:
    store, slow, fast, clock = memory(), Looking("> slow"), Looking("> fast"), Clock()
    here, there = turns(store, clock), turns(store, clock)
    await here.begin("w", HERE, KeptTurn(TURN.said), CALLS, slow)
    clock.now += 60
    fast.let.set()
    decided = await found(there, run=fast)
    slow.let.set()
    assert await found(here) == decided
    assert decided is not None
    assert decided.results[0]["content"] == "> fast"


async def test_an_asker_who_leaves_does_not_stop_the_look() -> None:
    looking, here = Looking(), turns(memory())
    await here.begin("w", HERE, KeptTurn(TURN.said), CALLS, looking)
    asking = asyncio.create_task(found(here))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    looking.let.set()
    assert await found(here) is not None
    assert len(looking.asked) == 1


async def test_the_same_mixed_answer_given_again_is_looked_at_for_its_own_calls() -> None:
    first, second, here = Looking("> first"), Looking("> second"), turns(memory())
    await here.begin("w", HERE, KeptTurn(TURN.said), CALLS, first)
    await here.begin("w", HERE, KeptTurn(TURN.said), [ToolCall("m", "analyzeImage", "{}")], second)
    second.let.set()
    turn = await found(here)
    assert turn is not None
    assert turn.results == [{"role": "tool", "tool_call_id": "m", "content": "> second"}]


async def test_who_waits_for_a_mixed_answer_that_is_given_once_more_gets_the_new_one() -> None:
    first, second, here = Looking("> first"), Looking("> second"), turns(memory())
    await here.begin("w", HERE, KeptTurn(TURN.said), CALLS, first)
    asking = asyncio.create_task(found(here))
    await asyncio.sleep(0.01)
    await here.begin("w", HERE, KeptTurn(TURN.said), CALLS, second)
    second.let.set()
    turn = await asking
    assert turn is not None
    assert turn.results[0]["content"] == "> second"


async def test_closing_ends_the_looks_that_run() -> None:
    looking, here = Looking(), turns(memory())
    await here.begin("w", HERE, KeptTurn(TURN.said), CALLS, looking)
    await asyncio.sleep(0)
    tasks = len(asyncio.all_tasks())
    await here.close()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) < tasks


# Tables


async def test_a_table_is_found_where_it_was_shown_by_every_process() -> None:
    store = memory()
    here = turns(store)
    table = KeptTable("| 1 |", 5)
    await here.show("w", HERE, table)
    for process in (here, turns(store)):
        assert (await process.find("w", {}, {2: HERE, 4: ELSEWHERE}, never)).tables == {2: table}
