"""What is deleted is gone: from every place where it was kept, whoever is at work on it at that moment, for good."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cache.blobs import Blobs
from cache.disk import DiskStore
from cache.holders import Holders
from cache.looks import Looks
from cache.memory import MemoryStore
from cache.rows import Rows
from cache.store import Store, StoreError
from cache.tables import Tables, place
from router.intake.conversation import identify, key_of, tenant_of
from router.intake.conversations import Conversations
from router.intake.hidden_turns import HiddenTurns
from router.intake.response_ids import Noted, ResponseIds
from tests.brain import Calls, Thinks, looks
from tests.conversing import TOOLS, Habits, Told, Turn, recalls, tiny, turn
from tests.failing import FailingStore
from tests.live import no_errors_in_the_log, text, tool_result, user
from tests.mortal_store import Mortal
from tests.witness import Watched, Witness, pictured

pytestmark = pytest.mark.anyio

GIB = 2**30
SECRET = "xylophone"
"""Stands in every word that is said about what will be deleted."""


def conversations(store: Store) -> Conversations:
    """As another process has them."""
    return Conversations(
        store,
        tables=Tables(store),
        rows=Rows(store),
        blobs=Blobs(store),
        holders=Holders(store),
        looks=Looks(store),
        hidden_turns=HiddenTurns(store),
        response_ids=ResponseIds(store),
    )


class Client:
    """`session` and `key` say which conversation it talks in."""

    def __init__(self, site: Watched, *, session: str = "session", key: str = "") -> None:
        self.site = site
        self.history: list[dict[str, Any]] = []
        self.headers = {"x-session-id": session, **({"authorization": f"Bearer {key}"} if key else {})}
        self.conversation = identify(tenant_of(key), self.headers, {}, "")

    async def ask(self, *said: Mapping[str, Any] | Turn) -> Told:
        new = [dict(one) for one in said if not isinstance(one, Turn)]
        turns = [one for one in said if isinstance(one, Turn)]
        body = {"messages": [*self.history, *new], "tools": list(TOOLS), "stream": True}
        told = await self.site.ask(body, self.headers, turns, self.conversation)
        self.history += [*new, Habits().written(told)]
        return told

    async def delete(self, store: Store) -> bool:
        return await conversations(store).delete(self.conversation.tenant, self.conversation.key)

    async def delete_image(self, store: Store, number: int) -> bool:
        return await conversations(store).delete_image(self.conversation.tenant, self.conversation.key, number)


async def full_of(client: Client, seed: int, word: str) -> None:
    """A conversation that leaves something of every kind behind: two pictures, `seed` and the one after it, of which
    the first is #1; looks, a recall, a mixed turn, a forgetting and a table."""
    named = f"the file {word}.png"
    thinking = turn(Thinks(f"It is picture {seed}."), "Two.")
    await client.ask(user(f"Look at {named}.", *pictured(seed, seed + 1)), turn(looks(1, f"{word}?")), thinking)
    await client.ask(user("Compare."), turn(looks("1, 2", f"{word} both?")), turn(f"Both {word}."))
    mixed = turn(looks(1, f"{word} and now?"), Calls("screenshot", "{}"))
    await client.ask(user("Both."), mixed)
    await client.ask(tool_result(mixed.calls[1].id, [text("Nothing.")]), turn("Done."))
    await client.site.tables.change(
        client.conversation.tenant, client.conversation.key, lambda table: table.forget([1, 2])
    )
    await client.ask(user("Which?"), turn(recalls(1)), turn("This."))


async def all_of(store: Store) -> dict[str, bytes]:
    return {key: value async for key in store.keys("") if (value := await store.get(key)) is not None}


def remains(kept: Mapping[str, bytes], *what: bytes) -> list[str]:
    return [key for key, value in kept.items() if any(one in key.encode() or one in value for one in what)]


def traces(*seeds: int) -> list[bytes]:
    """By what one could tell that a picture was there."""
    pictures = [tiny(seed) for seed in seeds]
    digests = [hashlib.sha256(picture).hexdigest().encode() for picture in pictures]
    said = [f"It is picture {seed}.".encode() for seed in seeds]
    return [*pictures, *(base64.b64encode(picture) for picture in pictures), *(one[:16] for one in digests), *said]


@pytest.fixture(params=["memory", "disk"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store = MemoryStore(max_bytes=GIB)
    if request.param == "disk":
        opened = DiskStore(tmp_path / "store", max_bytes=GIB)
    yield opened
    await opened.close()


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# A conversation


async def test_a_deleted_conversation_leaves_nothing_readable(store: Store, tmp_path: Path) -> None:
    async with Watched(store, Witness()) as site:
        client = Client(site)
        await full_of(client, 1, SECRET)
    before = await all_of(store)
    kinds = {key.partition("/")[0] for key in before}
    assert {"table", "row", "held", "turn", "near", "shown", "look", "blob"} <= kinds
    assert all(remains(before, one) for one in (SECRET.encode(), tiny(1), tiny(2)))
    assert await client.delete(store)
    assert await all_of(store) == {}
    await store.close()
    assert remains(files_in(tmp_path), SECRET.encode(), *traces(1, 2)) == []


@pytest.mark.parametrize("kind", ["number", "turn", "near", "shown", "since", "url"])
async def test_every_kind_of_record_of_a_conversation_goes_with_it(store: Store, kind: str) -> None:
    tables = Tables(store)
    for key in ("deleted", "other"):
        table, _, _ = await tables.number("local", key, [(SECRET, None)], lambda *_: None)
        await store.put(f"{kind}/{place('local', key, table)}/{SECRET}", SECRET.encode())
    assert await conversations(store).delete("local", "deleted")
    left = [key async for key in store.keys(f"{kind}/")]
    assert [key.split("/")[2] for key in left] == ["other"]


async def test_a_conversation_that_is_not_there_cannot_be_deleted(store: Store) -> None:
    assert not await conversations(store).delete("local", "nobody")
    assert not await conversations(store).delete_image("local", "nobody", 1)
    assert await all_of(store) == {}


async def test_a_deletion_harms_no_other_conversation(store: Store) -> None:
    """Not one of the same tenant that has a picture in common, and not one of another tenant that has both."""
    seen = Witness()
    async with Watched(store, seen, keys=["ours", "theirs"]) as site:
        ours, beside = Client(site, key="ours"), Client(site, key="ours", session="beside")
        theirs = Client(site, key="theirs")
        await full_of(ours, 1, SECRET)
        await full_of(beside, 2, "beside")
        await full_of(theirs, 1, "theirs")
        before = await all_of(store)
        assert await ours.delete(store)
        after = await all_of(store)
        assert remains(after, ours.conversation.key.encode() + b"/") == remains(
            after, f"{theirs.conversation.tenant}/{ours.conversation.key}".encode()
        ), "the session is the same, the tenant is not"
        gone = before.keys() - after.keys()
        assert not [key for key in gone if theirs.conversation.tenant in key]
        assert not [key for key in gone if f"/{beside.conversation.key}/" in key]
        assert not remains(after, SECRET.encode())
        of_ours = {key: value for key, value in after.items() if ours.conversation.tenant in key}
        assert remains(of_ours, *traces(1)) == []
        assert remains(of_ours, tiny(2)), "somebody else has it"

        there = len(seen.prompts)
        await beside.ask(user("Again."), turn(looks(1, "beside?")), turn(recalls(2)), turn("So."))
        await theirs.ask(user("Again."), turn(looks(1, "New?")), turn("So."))
        told = str(seen.prompts[there:])
        assert "no longer available" not in told
        assert "deleted" not in told
        assert told.count("It is picture 1") >= 1


async def test_a_conversation_goes_on_anew_after_its_deletion(store: Store) -> None:
    seen = Witness()
    async with Watched(store, seen) as site:
        client = Client(site)
        await full_of(client, 1, SECRET)
        await client.delete(store)
        told = await client.ask(
            user("One more.", *pictured(9)), turn(looks(3, "What?")), turn(looks(1, "Still?")), turn("New.")
        )
        assert SECRET not in str([message for message in told.first if message["role"] == "tool"])
        assert "It is picture 9" in str(told.prompts[1])
        assert "It is picture 1" in str(told.prompts[2]), "the client still sends it"
        assert await client.delete(store)
    assert await all_of(store) == {}


# An image


async def test_a_deleted_image_leaves_nothing_readable(store: Store, tmp_path: Path) -> None:
    async with Watched(store, Witness()) as site:
        client = Client(site)
        await full_of(client, 1, SECRET)
    assert await client.delete_image(store, 1)
    assert not await client.delete_image(store, 1), "once"
    after = await all_of(store)
    (table,) = [key for key in after if key.startswith("table/")]
    numbered = after.pop(table)  # which has to know the digest, so that the same image stays deleted
    assert remains(after, *traces(1)) == []
    assert remains(after, tiny(2)), "the other image is there"
    await store.close()
    assert remains(files_in(tmp_path), *(trace for trace in traces(1) if trace not in numbered)) == []


async def test_a_deleted_image_stays_deleted_however_often_it_is_sent(store: Store) -> None:
    seen = Witness()
    async with Watched(store, seen) as site:
        client = Client(site)
        await full_of(client, 1, SECRET)
        await client.delete_image(store, 1)
        for _ in range(2):
            told = await client.ask(
                user("Again.", *pictured(1)),
                turn(looks(1, "What?")),
                turn(recalls(1)),
                turn(looks("1, 2", "Both?")),
                turn("Gone."),
            )
            assert "[Image #1: unreadable, deleted]" in str(told.first[-1])
            assert "It is picture 1" not in str(told.prompts)
            results = [message["content"] for message in told.prompts[-1]["messages"][-6:] if message["role"] == "tool"]
            assert len(results) == 3
            assert all("deleted" in result for result in results), results
            kept = await all_of(store)
            assert not [
                key for key in kept if key.startswith(("row/", "held/", "blob/")) and remains({key: b""}, *traces(1))
            ]
            assert remains(kept, tiny(1)) == []
        async with Watched(store, seen) as other:
            client.site = other
            told = await client.ask(user("And now?"), turn("Gone."))
            assert "[Image #1: unreadable, deleted]" in str(told.first)
            assert "It is picture 1" not in str(told.first)
            assert (await client.ask(user("New.", *pictured(3)), turn(looks(3, "What?")), turn("Three."))).words
    assert "It is picture 3" in str(seen.prompts[-1])


async def test_an_image_that_another_conversation_has_survives(store: Store) -> None:
    seen = Witness()
    async with Watched(store, seen) as site:
        one, other = Client(site), Client(site, session="other")
        await full_of(one, 1, SECRET)
        await full_of(other, 1, "other")
        await one.delete_image(store, 1)
        told = await other.ask(user("Still?"), turn(looks(1, "Still?")), turn("Still."))
        assert "It is picture 1" in str(told.prompts[1])
        await one.ask(user("Again.", *pictured(1)), turn("Gone."))
        told = await other.ask(user("Even now?"), turn(looks(1, "Even now?")), turn("Still."))
        assert "It is picture 1" in str(told.prompts[1]["messages"][-1])


# Meanwhile


class Meanwhile:
    """A store beside which something happens before its call number `at`."""

    def __init__(self, store: Store, at: int, happens: Callable[[], Awaitable[object]]) -> None:
        self._store = store
        self._left = at
        self._happens = happens
        self.happened = False

    async def _turn(self) -> None:
        self._left -= 1
        if self._left < 0 and not self.happened:
            self.happened = True
            await self._happens()

    async def get(self, key: str) -> bytes | None:
        await self._turn()
        return await self._store.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        await self._turn()
        return await self._store.get_many(keys)

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        await self._turn()
        await self._store.put(key, value, ttl=ttl)

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        await self._turn()
        return await self._store.add(key, value, ttl=ttl)

    async def add_many(self, values: Sequence[tuple[str, bytes]], *, ttl: float | None = None) -> list[bool]:
        return [await self.add(key, value, ttl=ttl) for key, value in values]

    async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
        await self._turn()
        return await self._store.swap(key, old, new, ttl=ttl)

    async def delete(self, key: str) -> bool:
        await self._turn()
        return await self._store.delete(key)

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        await self._turn()
        async for key in self._store.keys(prefix):
            yield key

    async def sweep(self) -> object:
        return await self._store.sweep()

    async def close(self) -> None:
        """Another one goes on with it."""


async def short_story(client: Client) -> None:
    await client.ask(
        user("Look.", *pictured(1, 2)), turn(looks(1, "What?")), turn(looks("1, 2", "Which?")), turn("Two.")
    )
    mixed = turn(looks(2, "Before?"), looks(1, "And now?"), Calls("screenshot", "{}"))
    await client.ask(user("Both."), turn(looks(1, "First?")), mixed)
    await client.ask(tool_result(mixed.calls[2].id, pictured(3)), turn(looks(3, "What?")), turn("Done."))
    await client.ask(user("More.", *pictured(4, 5, 6)), turn(recalls(1)), turn("Done."))


PARTS = 4
"""Of the calls; each test takes one of them: every fourth call, and two tests are every second."""


@pytest.mark.parametrize("part", [0, 2])
async def test_requests_that_run_meanwhile_bring_nothing_of_a_deleted_conversation_back(part: int) -> None:
    at = part
    while await deleted_before(at):
        at += PARTS
    assert at > 60, "the story has become short"


@pytest.mark.parametrize("part", [0, 2])
async def test_requests_that_run_meanwhile_bring_nothing_of_a_deleted_image_back(part: int) -> None:
    at = part
    while await image_deleted_before(at):
        at += PARTS
    assert at > 60, "the story has become short"


async def image_deleted_before(at: int) -> bool:
    store = MemoryStore(max_bytes=GIB)
    deleted: list[bool] = []

    async def delete() -> None:
        deleted.append(await client.delete_image(store, 1))

    meanwhile = Meanwhile(store, at, delete)
    seen = Witness()
    async with Watched(meanwhile, seen) as site:
        client = Client(site)
        with no_errors_in_the_log():
            await short_story(client)
            told = len(seen.prompts)
            happened = meanwhile.happened
            await client.ask(user("And?"), turn(looks(1, "Now?")), turn("Done."))
    if happened and deleted == [True]:
        kept = await all_of(store)
        left = {key: value for key, value in kept.items() if not key.startswith("table/")}
        assert remains(left, *traces(1)) == [], at
        assert "It is picture 1" not in str(seen.prompts[told:]), at
        assert "[Image #1: unreadable, deleted]" in str(seen.prompts[told]), at
    return happened


async def deleted_before(at: int) -> bool:
    store = MemoryStore(max_bytes=GIB)
    meanwhile = Meanwhile(store, at, lambda: client.delete(store))
    async with Watched(meanwhile, Witness()) as site:
        client = Client(site)
        with no_errors_in_the_log():
            await short_story(client)
        await asyncio.sleep(0)
    table = await Tables(store).get(client.conversation.tenant, client.conversation.key)
    kept = await all_of(store)
    assert [key for key in kept if f"/{client.conversation.key}/" in key and table.generation not in key] == [], at
    await client.delete(store)
    assert list(await all_of(store)) == [], at
    return meanwhile.happened


# A deletion that is cut off


@pytest.mark.parametrize("whole", [True, False])
async def test_a_deletion_that_was_cut_off_anywhere_is_finished_by_the_next(whole: bool) -> None:
    cut, writes = True, -1
    while cut:
        writes += 1
        cut = await cut_off_before(writes, whole)
    assert writes > 8, "there is less to delete than there was"


async def cut_off_before(writes: int, whole: bool) -> bool:
    store = MemoryStore(max_bytes=GIB)
    async with Watched(store, Witness()) as site:
        client = Client(site)
        await full_of(client, 1, SECRET)
    mortal = Mortal(store, writes)
    mortal.buried.set()

    async def delete(store: Store) -> bool:
        return await (client.delete(store) if whole else client.delete_image(store, 1))

    try:
        assert await delete(mortal)
        cut = False
    except StoreError:
        assert await delete(store)
        cut = True
    assert not await delete(store)
    kept = await all_of(store)
    if whole:
        assert kept == {}, writes
    else:
        left = {key: value for key, value in kept.items() if not key.startswith("table/")}
        assert remains(left, *traces(1)) == [], writes
        assert remains(left, tiny(2)), writes
    return cut


class Hiccup(MemoryStore):
    """Fails exactly one operation, the one of this number, and works before and after it."""

    def __init__(self, at: int) -> None:
        super().__init__(max_bytes=GIB)
        self._at = at
        self._asked: int | None = None
        self.failed = False

    def begin(self) -> None:
        self._asked = 0

    def end(self) -> None:
        self._asked = None

    def _ask(self) -> None:
        if self._asked is None:
            return
        self._asked += 1
        if self._asked > self._at and not self.failed:
            self.failed = True
            raise StoreError("hiccup")

    async def get(self, key: str) -> bytes | None:
        self._ask()
        return await super().get(key)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        self._ask()
        return await super().get_many(keys)

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        self._ask()
        await super().put(key, value, ttl=ttl)

    async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
        self._ask()
        return await super().swap(key, old, new, ttl=ttl)

    async def delete(self, key: str) -> bool:
        self._ask()
        return await super().delete(key)

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        self._ask()
        async for key in super().keys(prefix):
            yield key


@pytest.mark.parametrize("whole", [True, False])
async def test_who_is_told_that_something_was_deleted_can_rely_on_it(whole: bool) -> None:
    failed, at = True, 0
    while failed:
        failed = await one_hiccup(at, whole)
        at += 1
    assert at > 20, "there is less to delete than there was"


async def one_hiccup(at: int, whole: bool) -> bool:
    store = Hiccup(at)
    async with Watched(store, Witness()) as site:
        client = Client(site)
        await full_of(client, 1, SECRET)
    store.begin()
    try:
        await (client.delete(store) if whole else client.delete_image(store, 1))
    except StoreError:
        return True
    finally:
        store.end()
    kept = await all_of(store)
    left = {key: value for key, value in kept.items() if whole or not key.startswith("table/")}
    assert (list(left) if whole else remains(left, *traces(1))) == [], at
    return store.failed


async def test_a_deletion_that_could_not_read_the_ids_of_answers_says_so() -> None:
    store = FailingStore()
    await ResponseIds(store).note("tenant", "brain", "resp_1", Noted(conversation="session"))

    def fails(key: str) -> None:
        if key.startswith("response/"):
            raise StoreError("away")

    store.on_read = fails
    with pytest.raises(StoreError):
        await conversations(store).delete("tenant", key_of("session"))
    store.on_read = lambda key: None
    await conversations(store).delete("tenant", key_of("session"))
    assert await all_of(store) == {}


# What goes by itself


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_conversation_that_lies_idle_goes_and_one_that_is_used_stays() -> None:
    clock = Clock()
    store = MemoryStore(max_bytes=GIB, retention_seconds=100, clock=clock)
    async with Watched(store, Witness()) as site:
        idle, used = Client(site, session="idle"), Client(site, session="used")
        await full_of(idle, 1, SECRET)
        await full_of(used, 3, "used")
        for _ in range(4):
            clock.now += 60
            told = await used.ask(user("Go on."), turn(looks(1, "Still?")), turn(recalls(2)), turn("Done."))
            assert "It is picture 3" in str(told.prompts[1]["messages"][-1])
        left = await all_of(store)
        assert remains(left, SECRET.encode(), *traces(1, 2), idle.conversation.key.encode()) == []
        told = await idle.ask(user("I am back."), turn(looks(2, "What?")), turn("Done."))
        assert "It is picture 2" in str(told.prompts[1]["messages"][-1]), "the client still sends it"
    clock.now += 101
    await store.sweep()
    assert await all_of(store) == {}


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_a_store_that_has_become_too_small_costs_memory_and_no_answer(kind: str, tmp_path: Path) -> None:
    room = 24 * 1024 if kind == "memory" else 160 * 1024
    store: Store = MemoryStore(max_bytes=room) if kind == "memory" else DiskStore(tmp_path, max_bytes=room)
    seen = Witness()
    with no_errors_in_the_log():
        async with Watched(store, seen) as site:
            clients = [Client(site, session=f"session {index}") for index in range(8)]
            for index, client in enumerate(clients):
                await full_of(client, 1 + 2 * index, "word")
                await store.sweep()
            for client in clients:
                await client.ask(user("Go on."), turn(looks(1, "Still?")), turn(recalls(2)), turn("Done."))
    seen.check_each()
    kept = await all_of(store)
    assert sum(map(len, kept.values())) < room
    if kind == "memory":
        assert len([key for key in kept if key.startswith("table/")]) < len(clients), "there was room for all"
    await store.close()
