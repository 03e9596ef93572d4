"""Documents that several processes change: no change is lost, what is foreign is left alone, and a store that fails
costs memory and nothing else."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import pytest

from cache.documents import Documents, Foreign
from cache.memory import MemoryStore
from cache.store import StoreError
from tests.failing import FailingStore, broken

pytestmark = pytest.mark.anyio


@dataclass(slots=True)
class Note:
    count: int = 0
    words: dict[int, str] = field(default_factory=dict)
    runs: list[tuple[int, int]] = field(default_factory=list)
    used: float = 0.0

    def __len__(self) -> int:
        return self.count


def documents(store: MemoryStore, *, version: int = 2) -> Documents[Note]:
    return Documents(store, Note, kind="note", version=version, empty=lambda: Note(words={0: "new"}))


def store() -> MemoryStore:
    return MemoryStore(max_bytes=10**6)


def one_more(note: Note) -> int:
    note.count += 1
    return note.count


async def test_a_document_is_kept_with_everything_in_it_and_in_its_order() -> None:
    notes = documents(store())
    note = Note(3, {20: "b", 3: "a"}, [(1, 2), (4, 9)], 1.5)

    def fill(empty: Note) -> None:
        empty.count, empty.words, empty.runs, empty.used = note.count, note.words, note.runs, note.used

    await notes.change("k", fill)
    kept = await notes.get("k")
    assert kept == note
    assert list(kept.words) == [20, 3]


async def test_what_is_not_there_is_none_and_nothing_is_written_for_a_change_that_changes_nothing() -> None:
    kept = store()
    notes = documents(kept)
    assert await notes.get("k") is None
    assert await notes.attempt("k", lambda note: "seen") == (Note(words={0: "new"}), "seen", False)
    assert await kept.get("k") is None
    await notes.change("k", one_more)
    before = await kept.get("k")
    assert await notes.attempt("k", lambda note: note.count) == (Note(1, {0: "new"}), 1, True)
    assert await kept.get("k") == before


async def test_a_document_that_is_false_in_itself_is_still_a_document() -> None:
    failing = FailingStore()
    notes = documents(failing)
    await failing.put("k", notes.write(Note(0, {5: "kept"})))
    failing.on_write = broken
    note, _, kept = await notes.attempt("k", lambda note: note.words.update({6: "mine"}))
    assert note.words == {5: "kept", 6: "mine"}
    assert not kept


async def test_many_are_read_in_their_order() -> None:
    kept = store()
    notes = documents(kept)
    await kept.put("a", notes.write(Note(1)))
    await kept.put("c", b"damaged")
    await kept.put("d", b"9 {}")
    await kept.put("e", notes.write(Note(5)))
    assert await notes.get_many(["e", "b", "c", "d", "a"]) == [Note(5), None, None, None, Note(1)]
    assert await notes.get_many([]) == []


async def test_no_change_of_rivals_is_lost() -> None:
    class Slow(MemoryStore):
        async def get(self, key: str) -> bytes | None:
            value = await super().get(key)
            await asyncio.sleep(0)
            return value

    kept = Slow(max_bytes=10**6)
    counts = await asyncio.gather(*(documents(kept).change("k", one_more) for _ in range(40)))
    assert sorted(count for _, count in counts) == list(range(1, 41))
    assert await documents(kept).get("k") == Note(40, {0: "new"})


async def test_a_rival_that_is_always_faster_ends_in_a_change_that_is_not_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Rival(MemoryStore):
        async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
            await super().put(key, documents(self).write(Note(int(old.partition(b":")[2][:-1]) + 10)))
            return False

    kept = Rival(max_bytes=10**6)
    await kept.put("k", documents(kept).write(Note(10)))
    note, count, is_kept = await documents(kept).attempt("k", one_more)
    assert (note.count, count % 10, is_kept) == (count, 1, False)
    assert (await documents(kept).get("k") or Note()).count % 10 == 0
    assert "changed by others" in caplog.text


async def test_what_a_change_raises_comes_out_and_nothing_is_kept() -> None:
    kept = store()

    def refuse(note: Note) -> None:
        note.count = 7
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await documents(kept).change("k", refuse)
    assert await kept.get("k") is None


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"2",
        b"2 ",
        b"2 {",
        b"2 []",
        b'2 {"count": "1"}',
        b'2 {"count": 1.0}',
        b'2 {"count": true}',
        b'2 {"count": null}',
        b'2 {"words": {"x": "y"}}',
        b'2 {"words": []}',
        b'2 {"runs": [[1]]}',
        b'2 {"runs": [[1, 2, 3]]}',
        b'2 {"used": "now"}',
        b"2 " + b"[" * 100_000,
        b'2 {"count": ' + b"9" * 5000 + b"}",
        b"2 \xff\xfe",
        b"9" * 5000 + b" {}",
        b'old {"count": 3}',
        b' {"count": 3}',
        b'[{"number": 1}]',
        b"\x00" * 50,
    ],
)
async def test_what_is_damaged_begins_anew(damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    kept = store()
    await kept.put("k", damage)
    notes = documents(kept)
    assert await notes.get("k") is None
    assert "damaged" in caplog.text
    assert await notes.attempt("k", one_more) == (Note(1, {0: "new"}), 1, True)
    assert await notes.get("k") == Note(1, {0: "new"})


async def test_fields_that_this_version_does_not_know_are_no_damage() -> None:
    kept = store()
    await kept.put("k", b'2 {"count": 3, "colour": "red"}')
    assert await documents(kept).get("k") == Note(3)


@pytest.mark.parametrize("foreign", [b'3 {"count": 5}', b"3 of something else", b"1 {}", b"20 {}"])
async def test_another_version_is_left_alone_and_the_change_is_for_this_request_only(
    foreign: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    kept = store()
    await kept.put("k", foreign)
    notes = documents(kept)
    with pytest.raises(Foreign):
        notes.read(foreign)
    assert notes.readable(foreign) is None
    assert await notes.get("k") is None
    assert await notes.attempt("k", one_more) == (Note(1, {0: "new"}), 1, False)
    assert await kept.get("k") == foreign
    assert "has form" in caplog.text


async def test_a_store_that_cannot_be_read_gives_nothing_and_changes_are_made_all_the_same() -> None:
    failing = FailingStore()
    failing.on_read = broken
    notes = documents(failing)
    assert await notes.get("k") is None
    assert await notes.get_many(["k", "l"]) == [None, None]
    assert await notes.attempt("k", one_more) == (Note(1, {0: "new"}), 1, False)


async def test_a_change_is_made_once_on_what_was_last_seen_when_it_cannot_be_kept() -> None:
    failing = FailingStore()
    notes = documents(failing)
    await notes.change("k", one_more)
    failing.on_write = broken
    assert await notes.attempt("k", one_more) == (Note(2, {0: "new"}), 2, False)
    failing.on_write = lambda key: None
    assert await notes.get("k") == Note(1, {0: "new"})


async def test_what_json_cannot_hold_is_not_kept_and_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    kept = store()
    notes = documents(kept)
    with caplog.at_level(logging.WARNING):
        note, _ = await notes.change("k", lambda note: note.words.update({1: "half \ud83d"}))
    assert note.words[1] == "half \ud83d"
    assert await kept.get("k") is None
    with pytest.raises(StoreError):
        notes.write(note)


async def test_a_document_lives_as_long_as_it_is_told_to_after_its_last_change() -> None:
    now = 0.0
    kept = MemoryStore(max_bytes=10**6, clock=lambda: now)
    notes = Documents(kept, Note, kind="note", version=1, empty=Note, ttl=10)
    await notes.change("k", one_more)
    now = 8.0
    await notes.change("k", one_more)
    now = 17.0
    assert await notes.get("k") == Note(2)
    now = 19.0
    assert await notes.get("k") is None
