"""No number is ever given twice, no image gets two, and none is lost: with rivals, with more images than a table holds,
and wherever a process is killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from itertools import count

import pytest

from cache.memory import MemoryStore
from cache.store import StoreError
from cache.table import MOST_RECENT, ImageTable
from cache.tables import Tables, place
from tests.failing import FailingStore, Killed, broken

pytestmark = pytest.mark.anyio

TABLE = "table/t/c"


def store() -> MemoryStore:
    return MemoryStore(max_bytes=2**28)


def nothing(table: ImageTable, numbers: Sequence[int], new: set[int]) -> None:
    pass


async def number(tables: Tables, *digests: str) -> list[int]:
    _, numbers, _ = await tables.number("t", "c", [(digest, None) for digest in digests], nothing)
    return numbers


def names(amount: int, first: int = 0) -> list[str]:
    return [f"image {index}" for index in range(first, first + amount)]


async def test_a_table_is_kept_with_everything_in_it() -> None:
    tables = Tables(store())

    def fill(table: ImageTable, numbers: list[int], new: set[int]) -> None:
        table.name, table.client, table.created, table.used = "talk", "codex", 1.5, 2.0
        for given in numbers:
            table.arrive(given, tool=given == 5, tokens=given)
        table.note(5, likeness="ff", described=True)
        table.forget([1])
        table.pin(3)
        table.delete(2)

    seen, numbers, _ = await tables.number("t", "c", [("a", None), ("b", None), ("d", 5), ("c", 3)], fill)
    assert numbers == [1, 2, 5, 3]
    kept = await Tables(tables._store).get("t", "c")
    assert kept == seen
    assert (list(kept.loaded), kept.gaps, kept.deleted) == ([5, 3], [(4, 4)], [2])
    assert kept.kept


async def test_what_happens_beside_numbering_is_told_the_numbers_and_which_are_new() -> None:
    tables = Tables(store())
    await number(tables, "a")
    told: list[tuple[list[int], set[int]]] = []

    def then(table: ImageTable, numbers: list[int], new: set[int]) -> str:
        told.append((numbers, new))
        return "answer"

    wanted = [("a", None), ("b", 7), ("b", 9), ("c", None), ("a", None)]
    _, numbers, answer = await tables.number("t", "c", wanted, then)
    assert numbers == [1, 7, 7, 8, 1]
    assert told == [([1, 7, 7, 8, 1], {7, 8})]
    assert answer == "answer"


async def test_conversations_and_tenants_count_for_themselves() -> None:
    tables = Tables(store())
    for tenant, conversation in (("t", "c"), ("t", "d"), ("u", "c")):
        table, numbers, _ = await tables.number(tenant, conversation, [("a", None)], nothing)
        assert numbers == [1]
        assert place(tenant, conversation, table) == f"{tenant}/{conversation}/{table.generation}"


async def test_a_table_without_images_keeps_its_generation() -> None:
    tables = Tables(store())

    def call(table: ImageTable) -> None:
        table.name = "talk"

    table, _ = await tables.change("t", "c", call)
    assert (await tables.get("t", "c")).generation == table.generation
    assert (await number(tables, "a"), (await tables.get("t", "c")).generation) == ([1], table.generation)


async def test_what_no_store_holds_says_so() -> None:
    tables = Tables(store())
    assert not (await tables.get("t", "c")).kept
    table, _ = await tables.change("t", "c", lambda table: None)
    assert not table.kept
    table, _, _ = await tables.number("t", "c", [("a", None)], nothing)
    assert table.kept
    assert (await tables.get("t", "c")).kept


async def test_rivals_numbering_at_once_agree() -> None:
    kept = store()

    async def one(replica: int) -> list[tuple[str, int]]:
        tables = Tables(kept)
        asked = [f"{(step * 7 + replica) % 12}" for step in range(10)]
        return [(digest, (await number(tables, digest))[0]) for digest in asked]

    everyone = await asyncio.gather(*(one(replica) for replica in range(8)))
    seen: dict[str, int] = {}
    for digest, given in (pair for pairs in everyone for pair in pairs):
        assert seen.setdefault(digest, given) == given
    assert sorted(seen.values()) == list(range(1, len(seen) + 1))


class Yielding(MemoryStore):
    """Lets others go first at every call, as a real store does."""

    async def get(self, key: str) -> bytes | None:
        await asyncio.sleep(0)
        value = await super().get(key)
        await asyncio.sleep(0)
        return value

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        values = await super().get_many(keys)
        await asyncio.sleep(0)
        return values

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        await asyncio.sleep(0)
        await super().put(key, value, ttl=ttl)

    async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
        await asyncio.sleep(0)
        return await super().swap(key, old, new, ttl=ttl)


@pytest.mark.parametrize("seed", range(5))
async def test_rivals_with_more_images_than_a_table_holds_agree(seed: int) -> None:
    """Every few steps a rival begins with an empty memory, as a new process does."""
    kept = Yielding(max_bytes=2**28)
    seen: dict[str, int] = {}

    async def one(chance: random.Random) -> None:
        tables = Tables(kept)
        for _ in range(12):
            if chance.random() < 0.3:
                tables = Tables(kept)
            digests = names(chance.randint(1, 90), chance.randint(0, 700))
            for digest, given in zip(digests, await number(tables, *digests), strict=True):
                assert seen.setdefault(digest, given) == given

    await asyncio.gather(*(one(random.Random(100 * seed + rival)) for rival in range(6)))
    assert sorted(seen.values()) == list(range(1, len(seen) + 1))
    table = await Tables(kept).get("t", "c")
    assert len(table) == len(seen)
    assert len(table.recent) <= MOST_RECENT
    assert len(table.recent) + table.moved_out == len(seen)


async def test_numbers_that_moved_out_are_found_by_this_process_and_by_another() -> None:
    kept = store()
    tables = Tables(kept)
    everyone = names(MOST_RECENT + 1)
    assert await number(tables, *everyone) == list(range(1, MOST_RECENT + 2))
    table = await tables.get("t", "c")
    assert len(table.recent) == MOST_RECENT // 2
    assert len([key async for key in kept.keys("number/")]) == table.moved_out == MOST_RECENT // 2 + 1
    assert await number(tables, *everyone) == list(range(1, MOST_RECENT + 2))
    assert await number(Tables(kept), *reversed(everyone)) == list(range(MOST_RECENT + 1, 0, -1))
    told: list[set[int]] = []
    await Tables(kept).number(
        "t", "c", [("image 0", 999), ("fresh", None)], lambda table, numbers, new: told.append(new)
    )
    assert told == [{MOST_RECENT + 2}]


async def test_a_number_that_this_process_met_is_not_read_again_for_an_hour() -> None:
    now = 0.0
    failing = FailingStore()
    tables = Tables(failing, clock=lambda: now)
    everyone = names(MOST_RECENT + 1)
    await number(tables, *everyone)
    read: list[str] = []
    failing.on_read = read.append
    await number(tables, *everyone)
    assert [key for key in read if key.startswith("number/")] == []
    now = 3601.0
    await number(tables, *everyone)
    assert len([key for key in read if key.startswith("number/")]) == MOST_RECENT // 2 + 1
    read.clear()
    await number(tables, *everyone)
    assert [key for key in read if key.startswith("number/")] == []


async def test_a_record_that_the_store_dropped_is_put_there_again_by_who_still_knows_it() -> None:
    now = 0.0
    kept = store()
    tables = Tables(kept, clock=lambda: now)
    everyone = names(MOST_RECENT + 1)
    numbers = await number(tables, *everyone)
    for key in [key async for key in kept.keys("number/")]:
        await kept.delete(key)
    now = 3601.0
    assert await number(tables, *everyone) == numbers
    assert await number(Tables(kept), *everyone) == numbers


@pytest.mark.parametrize("damage", [b"", b"x", b"-3", b"0", b"999999", b"9" * 5000, b"\xff"])
async def test_a_damaged_record_is_taken_for_none(damage: bytes) -> None:
    kept = store()
    table, _, _ = await Tables(kept).number("t", "c", [(name, None) for name in names(MOST_RECENT + 1)], nothing)
    await kept.put(f"number/{place('t', 'c', table)}/image 0", damage)
    assert await number(Tables(kept), "image 0", "image 1") == [MOST_RECENT + 2, 2]


# A conversation that is deleted


async def test_the_next_conversation_of_the_same_name_begins_at_one_even_if_the_old_one_was_long() -> None:
    kept = store()
    tables = Tables(kept)
    await number(tables, *names(MOST_RECENT + 1))
    old = (await tables.get("t", "c")).generation
    await kept.delete(TABLE)
    assert await number(tables, "image 5", "image 0") == [1, 2]
    assert (await tables.get("t", "c")).generation != old


async def test_a_conversation_that_is_deleted_and_begun_anew_while_we_look_lends_it_no_old_numbers() -> None:
    failing = FailingStore()
    await number(Tables(failing), *names(MOST_RECENT + 1))

    class Late(Tables):
        async def _elsewhere(self, *asked: object) -> dict[str, int]:
            found = await super()._elsewhere(*asked)  # type: ignore[arg-type]
            if found and await failing.delete(TABLE):
                await number(Tables(failing), "the new first one")
            return found

    assert await number(Late(failing), "image 7") == [2]


# Rivals who move numbers out between two looks


async def test_a_rival_who_always_moves_numbers_meanwhile_is_given_up_on_and_no_number_is_kept_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = store()
    await number(Tables(kept), *names(MOST_RECENT + 1))
    fresh = count(10_000, 1000)
    asked = 0

    class Unlucky(Tables):
        async def _elsewhere(self, *asked_for: object) -> dict[str, int]:
            nonlocal asked
            asked += 1
            found = await super()._elsewhere(*asked_for)  # type: ignore[arg-type]
            await number(Tables(kept), *names(MOST_RECENT, next(fresh)))
            return found

    tables = Unlucky(kept)
    table, _, _ = await tables.number("t", "c", [("mine", None), ("image 300", None)], nothing)
    assert 1 < asked < 20
    assert not table.kept
    assert "8 times in a row" in caplog.text
    now = await tables.get("t", "c")
    assert "mine" not in now.recent
    assert (await number(Tables(kept), "mine"))[0] == now.next


# Stores that fail


async def test_a_store_that_fails_costs_memory_and_nothing_else() -> None:
    failing = FailingStore()
    failing.on_read = failing.on_write = broken
    tables = Tables(failing)
    table, numbers, _ = await tables.number("t", "c", [("a", None), ("b", None)], nothing)
    assert (numbers, len(table), table.kept) == ([1, 2], 2, False)
    assert len(await tables.get("t", "c")) == 0


async def test_a_number_that_could_not_be_kept_is_not_remembered_when_another_image_has_it() -> None:
    failing = FailingStore()
    tables = Tables(failing)
    await number(tables, *names(MOST_RECENT - 1))
    failing.on_write = broken
    table, numbers, _ = await tables.number("t", "c", [("mine", None)], nothing)
    assert (numbers, table.kept) == ([MOST_RECENT], False)
    failing.on_write = lambda key: None
    assert await number(Tables(failing), *names(300, 1000)) == list(range(MOST_RECENT, MOST_RECENT + 300))
    assert await number(tables, "mine", "image 1000") == [MOST_RECENT + 300, MOST_RECENT]


async def test_numbers_that_could_not_be_kept_are_not_moved_out() -> None:
    failing = FailingStore()
    tables = Tables(failing)
    await number(tables, "a")

    def only_records(key: str) -> None:
        if key == TABLE:
            raise StoreError("disk on fire")

    failing.on_write = only_records
    await number(tables, "a", *names(2 * MOST_RECENT))
    failing.on_write = lambda key: None
    assert [key async for key in failing.keys("number/")] == []
    assert await number(tables, "other", "image 0") == [2, 3]


async def test_where_old_numbers_cannot_be_read_no_image_gets_a_second_one_for_good() -> None:
    failing = FailingStore()
    await number(Tables(failing), *names(MOST_RECENT + 1))

    def only_the_table(key: str) -> None:
        if key != TABLE:
            raise StoreError("disk on fire")

    failing.on_read = only_the_table
    table, numbers, _ = await Tables(failing).number("t", "c", [("image 0", None), ("image 256", None)], nothing)
    assert (numbers, table.kept) == ([MOST_RECENT + 2, MOST_RECENT + 1], False)
    failing.on_read = lambda key: None
    assert await number(Tables(failing), "image 0", "new") == [1, MOST_RECENT + 2]


async def test_numbers_that_cannot_move_out_stay_and_move_later() -> None:
    failing = FailingStore()

    def no_records(key: str) -> None:
        if key.startswith("number/"):
            raise StoreError("disk on fire")

    failing.on_write = no_records
    tables = Tables(failing)
    everyone = names(MOST_RECENT + 5)
    numbers = await number(tables, *everyone)
    assert len((await tables.get("t", "c")).recent) == MOST_RECENT + 5
    failing.on_write = lambda key: None
    assert await number(tables, *everyone) == numbers
    assert len((await tables.get("t", "c")).recent) == MOST_RECENT // 2
    assert await number(Tables(failing), *everyone) == numbers


async def test_a_damaged_table_is_begun_anew_with_a_place_of_its_own() -> None:
    kept = store()
    tables = Tables(kept)
    await number(tables, *names(MOST_RECENT + 1))
    old = (await tables.get("t", "c")).generation
    await kept.put(TABLE, b'2 {"generation": "' + old.encode() + b'", "next": "not a number"}')
    assert await number(tables, "image 9", "image 1") == [1, 2]
    assert (await tables.get("t", "c")).generation != old


# Killed at any step


def kill_at(last: int) -> Callable[[str], None]:
    writes = count(1)

    def write(_: str) -> None:
        if next(writes) >= last:
            raise Killed

    return write


@pytest.mark.parametrize("torn", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("have", [0, 5, 15, 16, 33])
async def test_wherever_a_process_is_killed_no_number_is_lost_or_given_twice(
    have: int, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.table.MOST_RECENT", 16)
    killed, last = True, 0
    while killed:
        last += 1
        failing = FailingStore()
        known = dict(zip(names(have), await number(Tables(failing), *names(have)), strict=True))
        failing.on_write, failing.torn = kill_at(last), torn
        tables = Tables(failing)
        killed = False
        try:
            for step in range(4):
                digests = [*names(3, max(have - 2, 0)), *names(have // 3), *names(step * 7, have), "a", f"b{step}"]
                known.update(zip(digests, await number(tables, *digests), strict=True))
        except Killed:
            killed = True
        failing.on_write, failing.torn = lambda key: None, False

        after = Tables(failing)
        everyone = [*names(have + 23), "c", "b2", "b1", "a", "b0", "b3"]
        numbers = dict(zip(everyone, await number(after, *everyone), strict=True))
        assert {digest: numbers[digest] for digest in known} == known
        assert len(set(numbers.values())) == len(numbers)
        assert sorted(numbers.values()) == list((await after.get("t", "c")).numbers())
        assert await number(Tables(failing), *everyone) == list(numbers.values())
    assert last > 12


async def test_whoever_watches_is_told_of_changes_that_can_be_seen_and_were_kept() -> None:
    told: list[tuple[str, str, int]] = []
    store = FailingStore()
    tables = Tables(store, changed=lambda tenant, key, table: told.append((tenant, key, table.stamp)))
    await tables.change("t", "c", lambda table: table.arrive(table.give("a"), tool=False, tokens=1))
    assert told == [("t", "c", 1)]
    await tables.change("t", "c", lambda table: setattr(table, "used", 5.0))
    await tables.change("t", "c", lambda table: table.forget([7]))
    assert len(told) == 1
    await tables.change("t", "c", lambda table: table.pin(1))
    assert len(told) == 2
    store.on_write = broken
    await tables.change("t", "c", lambda table: table.forget([1]))
    assert len(told) == 2
