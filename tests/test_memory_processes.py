"""The memory of images holds over processes: killed between any two steps, several at once, on one machine or on many,
with a store that is slow, gone, emptied or full."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from cache.disk import DiskStore
from cache.memory import MemoryStore
from cache.record import ImageRecord
from cache.redis import RedisStore
from cache.rows import Rows
from cache.store import Store
from cache.table import ImageTable
from cache.tables import Tables, place
from router.intake import hidden_turns
from router.intake.conversation import Conversation, identify, tenant_of
from tests.brain import Brain, Calls, Thinks, hangs, looks
from tests.conversing import SMALL, TOOLS, Habits, OverSockets, Site, Talk, Told, Turn, recalls, turn
from tests.eyes import Eyes, sees
from tests.live import (
    DEADLINE,
    House,
    Options,
    ServiceProcess,
    becomes,
    no_errors_in_the_log,
    service_process,
    soon,
    text,
    tool_result,
    user,
)
from tests.mortal_store import Mortal
from tests.redis_server import HANG, RedisServer, redis_server
from tests.witness import Watched, Witness, pictured, seen_in

pytestmark = pytest.mark.anyio

GIB = 2**30


# Killed between any two steps


Step = Callable[[Any], Sequence[Mapping[str, Any] | Turn]]


def both(image: int) -> Turn:
    return turn(Thinks("Both."), "Wait.", looks(image, "And now?"), Calls("screenshot", "{}"))


def taken(talk: Any, *seeds: int) -> dict[str, Any]:
    """The result of the call that the client was asked for last."""
    return tool_result(talk.history[-1]["tool_calls"][-1]["id"], pictured(*seeds) or [text("Nothing.")])


PARTS = 4
"""Of the points in time, so that they can be tried side by side."""

STORY: Sequence[Step] = (
    lambda talk: [user("Look.", *pictured(1, 2)), turn(looks(1, "What?")), turn("Two.")],
    lambda talk: [user("More.", *pictured(3, 1)), turn(looks(3, "What?")), turn(looks("2, 3", "Which?")), turn("So.")],
    lambda talk: [user("Both."), both(2)],
    lambda talk: [taken(talk, 4), turn(looks(4, "What?")), turn("Done.")],
    lambda talk: [user("Two more.", *pictured(5, 6)), turn("Many.")],
    lambda talk: [user("Back."), turn(recalls(1)), turn(looks(2, "Again?")), turn("Back.")],
    lambda talk: [user("Go on."), turn("Done.")],
    lambda talk: [user("Both."), turn(looks(3, "Before?")), both(1)],
    lambda talk: [taken(talk), turn("Done.")],
    lambda talk: [user("One more.", *pictured(7)), turn(looks(7, "What?")), turn("Done.")],
    lambda talk: [user("Back."), turn(recalls(4)), turn("Done.")],
)


class Mortals:
    """A client whose server is killed when its store dies, and started anew; it repeats what it got no answer to."""

    def __init__(self, store: Store, seen: Witness, last: int) -> None:
        self._store = store
        self._seen = seen
        self.deaths = 0
        self._mortal = Mortal(store, last)
        self._site: Watched

    async def start(self) -> Watched:
        self._site = Watched(self._mortal, self._seen)
        await self._site.__aenter__()
        self._site.tables = Tables(self._store)  # ours, which do not die
        return self._site

    async def end(self) -> None:
        await self._site.__aexit__(None, None, None)

    async def play(self, story: Sequence[Step]) -> None:
        talk = Talk(await self.start(), habits=Habits(reasoning=True))
        for step in story:
            while not await self._asked(talk.ask(*step(talk))):
                talk.site = await self._again()
            if self._mortal.dead.is_set():
                talk.site = await self._again()

    async def _asked(self, asking: Awaitable[Any]) -> bool:
        """Whether there was an answer before the server died."""
        work, death = asyncio.ensure_future(asking), asyncio.ensure_future(self._mortal.dead.wait())
        await asyncio.wait({work, death}, return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if work.done():
            work.result()
            return True
        work.cancel()
        self._mortal.buried.set()
        await asyncio.gather(work, return_exceptions=True)
        return False

    async def _again(self) -> Watched:
        self._mortal.buried.set()
        await self.end()
        self.deaths += 1
        self._mortal = Mortal(self._store, 10**9)
        return await self.start()


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed at work counts as dead soon."""
    monkeypatch.setattr(hidden_turns, "_LEASE_SECONDS", 0.3)
    monkeypatch.setattr(hidden_turns, "_RENEW_SECONDS", 0.1)
    monkeypatch.setattr(hidden_turns, "_POLL_SECONDS", 0.02)


@pytest.mark.usefixtures("short_leases")
@pytest.mark.parametrize("part", range(PARTS))
async def test_a_process_killed_before_any_of_its_writes_leaves_a_memory_that_another_goes_on_with(part: int) -> None:
    deaths = True
    last = part
    while deaths:
        deaths = await killed_before(last, MemoryStore(max_bytes=GIB))
        last += PARTS
    assert last > 40, "the story has become short"


@pytest.mark.usefixtures("short_leases")
@pytest.mark.parametrize("last", [3, 23, 37, 59, 71])
async def test_so_it_is_on_disk(last: int, tmp_path: Path) -> None:
    store = DiskStore(tmp_path, max_bytes=GIB)
    assert await killed_before(last, store)
    await store.close()


async def killed_before(last: int, store: Store) -> bool:
    """Play the story with a server that is killed before its write number `last`; whether there were so many."""
    seen = Witness()
    mortals = Mortals(store, seen, last)
    with no_errors_in_the_log():
        await mortals.play(STORY)
        await mortals.end()
    seen.check()
    assert sorted(seen.numbers) == [1, 2, 3, 4, 5, 6, 7]
    rows = {key.rpartition("/")[2] async for key in store.keys("row/")}
    marks = {key.rpartition("/")[2] async for key in store.keys("held/")}
    assert rows == marks == set("1234567"), "who deletes an image must know who else has it"
    return mortals.deaths > 0


@pytest.mark.live
async def test_a_real_process_that_is_killed_at_random_loses_no_number(tmp_path: Path) -> None:
    moments = random.Random(8)
    kills = set(moments.sample(range(len(STORY)), 3))
    async with loopback(tmp_path) as place, AsyncExitStack() as stack:
        process, site = await place.serve(stack, "0")
        talk = Talk(site)
        for index, step in enumerate(STORY):
            if index in kills:
                asking = asyncio.ensure_future(talk.ask(*step(talk)))
                await asyncio.wait({asking}, timeout=moments.uniform(0, 0.15))
                process.process.kill()
                answered = await answer_of(asking)
                process, talk.site = await place.serve(stack, f"{index}")
                if answered:
                    continue
            await talk.ask(*step(talk))
        place.check()


async def answer_of(asking: asyncio.Future[Any]) -> bool:
    """Whether there was one, or the server was killed meanwhile."""
    try:
        await asking
    except httpx.TransportError:
        return False
    return True


@dataclass
class Loopback:
    """Brain and eyes for real processes that share a folder."""

    folder: Path
    brain: Brain
    eyes: Eyes
    store: Store

    async def serve(self, stack: AsyncExitStack, name: str) -> tuple[ServiceProcess, OverSockets]:
        """One more process, and the way to it."""
        folder = self.folder / name
        folder.mkdir()
        options = Options(images=dict(SMALL), store={"kind": "disk", "path": str(self.folder / "store")})
        process = await stack.enter_async_context(
            service_process(folder, options.tables(self.brain.url, self.eyes.url))
        )
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{process.port}",
                timeout=DEADLINE,
                limits=httpx.Limits(max_keepalive_connections=0),
                trust_env=False,
            )
        )
        return process, OverSockets(House(self.brain, self.eyes, process.port, client), self.store)

    def check(self) -> None:
        seen = Witness([asked.json for asked in self.brain.asked])
        seen.check()
        assert sorted(seen.numbers) == [1, 2, 3, 4, 5, 6, 7]


@asynccontextmanager
async def loopback(folder: Path) -> AsyncIterator[Loopback]:
    store = DiskStore(folder / "store", max_bytes=GIB)
    async with Brain() as brain, Eyes() as eyes:
        eyes.answers = lambda asked: sees(seen_in(asked))
        yield Loopback(folder, brain, eyes, store)
    await store.close()


# Several at once


class RoundRobin:
    """As a load balancer: each request goes to the next of these."""

    def __init__(self, *sites: Site) -> None:
        self.profile = sites[0].profile
        self.tables = sites[0].tables
        self._next = cycle(sites)

    async def ask(
        self, body: Mapping[str, Any], headers: Mapping[str, str], turns: Sequence[Turn], conversation: Conversation
    ) -> Told:
        return await next(self._next).ask(body, headers, turns, conversation)


OpenStore = Callable[[], Store]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["disk", "redis"])
async def shared(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Opens the same store once more, as another process does."""
    opened: list[Store] = []

    def open_one() -> Store:
        if request.param == "disk":
            opened.append(DiskStore(tmp_path, max_bytes=GIB))
        else:
            server = request.getfixturevalue("redis")
            opened.append(RedisStore(server.url, answer_seconds=HANG))
        return opened[-1]

    if request.param == "redis":
        request.getfixturevalue("redis").client.flushall()
    yield open_one
    for store in opened:
        await store.close()


async def test_processes_that_share_a_store_are_one_to_a_conversation(shared: OpenStore) -> None:
    seen = Witness()
    with no_errors_in_the_log():
        async with Watched(shared(), seen) as one, Watched(shared(), seen) as other, Watched(shared(), seen) as third:
            talk = Talk(RoundRobin(one, other, third), habits=Habits(reasoning=True))
            for step in STORY:
                await talk.ask(*step(talk))
    seen.check()
    assert sorted(seen.numbers) == [1, 2, 3, 4, 5, 6, 7]


async def test_two_processes_that_meet_the_same_new_images_at_once_agree_on_their_numbers(shared: OpenStore) -> None:
    seen, roomy = Witness(), {"max_loaded": 100, "keep_loaded": 100}
    async with Watched(shared(), seen, images=roomy) as one, Watched(shared(), seen, images=roomy) as other:
        first = Talk(one)
        second = first.fork(0)
        second.site = other
        for seed in range(1, 31, 3):
            await asyncio.gather(
                first.ask(user("Look.", *pictured(seed, seed + 1)), turn("One.")),
                second.ask(user("Look.", *pictured(seed + 1, seed + 2, seed)), turn("Another.")),
            )
    seen.check()
    assert sorted(seen.numbers.values()) == list(range(1, 31))


async def test_a_look_that_one_process_makes_is_waited_for_by_another(shared: OpenStore) -> None:
    seen = Witness()
    async with Watched(shared(), seen) as one, Watched(shared(), seen) as other:
        talk = Talk(one)
        await talk.ask(user("Look.", *pictured(1)), turn("One."))
        seen.may_look.clear()
        await talk.ask(user("Both."), both(1))
        talk.site = other
        going_on = asyncio.ensure_future(talk.ask(taken(talk, 2), turn("Done.")))
        await asyncio.wait({going_on}, timeout=0.3)
        assert not going_on.done()
        seen.may_look.set()
        await going_on
    assert len(seen.looks) == 1
    seen.check()


@pytest.mark.usefixtures("short_leases")
async def test_a_look_of_a_process_that_was_killed_is_made_by_another(shared: OpenStore) -> None:
    seen, mortal = Witness(), Mortal(shared(), 10**9)
    async with Watched(shared(), seen) as other:
        async with Watched(mortal, seen) as one:
            one.tables = other.tables
            talk = Talk(one)
            await talk.ask(user("Look.", *pictured(1)), turn("One."))
            seen.may_look.clear()
            await talk.ask(user("Both."), both(1))
            await becomes(lambda: any(b"And now?" in look.asked.body for look in seen.looks))
            mortal.dead.set()
            mortal.buried.set()
        seen.may_look.set()
        talk.site = other
        await talk.ask(taken(talk, 2), turn(looks(2, "What?")), turn("Done."))
    asked = [look.asked.body for look in seen.looks]  # beside descriptions, made while nobody waits
    assert sum(b"And now?" in body for body in asked) == 2, "it was lost, and made again"
    assert sum(b"What?" in body for body in asked) == 1
    seen.check()


async def test_a_look_is_waited_for_also_where_the_history_was_trimmed_meanwhile(
    shared: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hidden_turns, "_LEASE_SECONDS", 1000.0)
    seen = Witness()
    async with Watched(shared(), seen) as one, Watched(shared(), seen) as other:
        talk = Talk(one)
        await talk.ask(user("Look.", *pictured(1)), turn("One."))
        seen.may_look.clear()
        await talk.ask(user("Both."), both(1))
        talk.trim(2)
        talk.site = other
        asyncio.get_running_loop().call_later(0.1, seen.may_look.set)
        told = await soon(talk.ask(taken(talk, 2), turn("Done.")))
    assert "It is picture 1" in str(told.first)
    assert len(seen.looks) == 1
    seen.check()


@pytest.mark.live
async def test_of_two_real_processes_one_may_be_killed_at_a_look(tmp_path: Path) -> None:
    async with loopback(tmp_path) as place, AsyncExitStack() as stack:
        (process, one), (_, other) = await asyncio.gather(place.serve(stack, "one"), place.serve(stack, "other"))
        talk = Talk(RoundRobin(one, other))
        for step in STORY[:7]:
            await talk.ask(*step(talk))
        answers, place.eyes.answers = place.eyes.answers, lambda asked: hangs
        talk.site = one
        await talk.ask(user("Both."), both(1))
        await place.eyes.came(len(place.eyes.asked))
        process.process.kill()
        place.eyes.answers = answers
        talk.site = other
        await talk.ask(taken(talk, 7), turn("Done."))
        await talk.ask(user("And?"), turn(looks(7, "What?")), turn("Done."))
        place.check()


# A store on another machine


class Client:
    """Sends all it knows, and believes whatever it is told: for memories that are lost."""

    def __init__(self, site: Site, session: str = "session") -> None:
        self.site = site
        self.history: list[dict[str, Any]] = []
        self._headers = {"x-session-id": session}
        self._conversation = identify(tenant_of(""), self._headers, {}, "")

    async def ask(self, *said: Mapping[str, Any] | Turn) -> Told:
        self.history += [dict(one) for one in said if not isinstance(one, Turn)]
        body = {"messages": self.history, "tools": list(TOOLS), "stream": True}
        turns = [one for one in said if isinstance(one, Turn)]
        async with asyncio.timeout(DEADLINE / 2):
            told = await self.site.ask(body, self._headers, turns, self._conversation)
        assert told.words == turns[-1].words
        self.history.append(Habits().written(told))
        return told


class Slow:
    """A way to a server on which everything is late."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.seconds = 0.0
        self.port = 0
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._listening.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of ours: the library's own complains where it is cancelled.
        task = asyncio.create_task(self._connect(reader, writer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            with suppress(OSError):
                there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
                ends.append(back)
                await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
        finally:
            for end in ends:
                end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                await asyncio.sleep(self.seconds)
                writer.write(data)
                await writer.drain()
            writer.close()


@dataclass
class Trouble:
    """What befalls the server."""

    begin: Callable[[RedisServer, Slow], None]
    end: Callable[[RedisServer, Slow], None]


TROUBLES = {
    "slow": Trouble(lambda _, way: setattr(way, "seconds", 1.0), lambda _, way: setattr(way, "seconds", 0.0)),
    "gone": Trouble(lambda server, _: server.kill(), lambda server, _: server.start()),
    "frozen": Trouble(lambda server, _: server.freeze(), lambda server, _: server.thaw()),
    "emptied": Trouble(lambda server, _: _flush(server), lambda server, _: None),
    "full": Trouble(
        lambda server, _: server.admin("CONFIG", "SET", "maxmemory", "1"),
        lambda server, _: server.admin("CONFIG", "SET", "maxmemory", "0"),
    ),
}


def _flush(server: RedisServer) -> None:
    server.client.flushall()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.usefixtures("short_leases")
@pytest.mark.parametrize(("name", "at"), [("gone", 3), ("emptied", 3), ("full", 3), *((name, 5) for name in TROUBLES)])
async def test_trouble_with_the_store_is_nothing_that_a_client_sees(name: str, at: int) -> None:
    """It begins before request number `at`, and is over three requests later; at one of the two moments a call that the
    client was asked for is still to be answered."""
    trouble = TROUBLES[name]
    seen, clock = Witness(), Clock()
    with redis_server() as server, no_errors_in_the_log():
        async with Slow(server.port) as way:
            stores = [RedisStore(f"redis://127.0.0.1:{way.port}/0", clock=clock) for _ in range(2)]
            async with Watched(stores[0], seen) as one, Watched(stores[1], seen) as other:
                client = Client(RoundRobin(one, other))
                one.tables = other.tables = Tables(MemoryStore(max_bytes=GIB))  # nobody looks
                for index, step in enumerate(STORY):
                    if index == at:
                        trouble.begin(server, way)
                    if index == at + 3:
                        trouble.end(server, way)
                        clock.now += 60
                    await client.ask(*step(client))
            for store in stores:
                await store.close()
    seen.check_each()


# Tenants


async def test_tenants_see_nothing_of_each_other() -> None:
    seen, roomy = Witness(), {"max_loaded": 100, "keep_loaded": 100}
    async with Watched(MemoryStore(max_bytes=GIB), seen, keys=["ours", "theirs"], images=roomy) as site:
        ours = Talk(site, key="ours", session="same")
        await ours.ask(user("Look.", *pictured(9, 1)), turn(looks(2, "What?")), turn("Our words."))
        assert len(seen.looks) == 1
        theirs = Talk(site, key="theirs", session="same")
        told = await theirs.ask(user("Look.", *pictured(1)), turn(looks(1, "What?")), turn("Our words."))
        assert theirs.numbers.of != ours.numbers.of
        assert len(seen.looks) == 2, "they asked for themselves"
        assert "picture 9" not in str(told.prompts)


GUESSED = ["x-session-id", "x-chiasm-conversation"]


@pytest.mark.parametrize("name", GUESSED)
async def test_a_tenant_that_guesses_the_name_of_anothers_conversation_finds_an_empty_one(name: str) -> None:
    seen = Witness()
    async with Watched(MemoryStore(max_bytes=GIB), seen, keys=["ours", "theirs"]) as site:
        ours = Talk(site, key="ours", session="same")
        for step in STORY[:5]:
            await ours.ask(*step(ours))
        there = len(seen.prompts)
        headers = {"authorization": "Bearer theirs", name: "same" if name == "x-session-id" else ours.conversation.name}
        guessed = identify(tenant_of("theirs"), headers, {}, "")
        assert name == "x-session-id" or guessed.key == ours.conversation.key

        async def ask(messages: list[Any], *turns: Turn) -> None:
            await site.ask({"messages": messages, "tools": list(TOOLS)}, headers, turns, guessed)

        # The very history of the other, as far as it can be known, and without the pictures.
        words = [message for message in ours.history if "image_url" not in str(message)]
        await ask([*words, user("Show me.")], turn("No."))
        await ask([user("Mine.", *pictured(20))], turn(recalls(2)), turn(looks(3, "What?")), turn("Nothing."))
        told = str(seen.prompts[there:])
        assert "It is picture" not in told
        assert "The images of this conversation so far" not in told
        assert "There is no image #2" in told
        assert "There is no image #3" in told
        assert "call_" in str(words), "the history holds calls"
        table = await site.tables.get(guessed.tenant, guessed.key)
        assert list(table.numbers()) == [1]


# Many


async def test_a_conversation_of_ten_thousand_images_goes_on() -> None:
    store = MemoryStore(max_bytes=GIB)
    tables, rows = Tables(store), Rows(store)
    seen = Witness()
    async with Watched(store, seen) as site:
        talk = Talk(site, rewrites=True)
        whose = talk.conversation

        def arrive(table: ImageTable, numbers: list[int], new: set[int]) -> None:
            for number in new:
                table.arrive(number, tool=False, tokens=40)
            table.forget(sorted(table.loaded)[:-2])

        for first in range(1, 10_001, 500):
            digests = [f"{number:064}" for number in range(first, first + 500)]
            table, numbers, _ = await tables.number(
                whose.tenant, whose.key, [(digest, None) for digest in digests], arrive
            )
            for digest, number in zip(digests, numbers, strict=True):
                row = ImageRecord(number, digest, "image/png", 8, 8, description=f"Number {number}")
                await rows.add(place(whose.tenant, whose.key, table), row)
        client = Client(site)
        told = await client.ask(
            user("Look.", *pictured(1, 2, 3)), turn(looks(10_002, "What?")), turn(recalls(7)), turn("Seen.")
        )
        numbers_of_three: dict[int, int] = {}
        Witness.check_one(told.first, numbers_of_three)
        assert numbers_of_three == {1: 10_001, 2: 10_002, 3: 10_003}
        assert "It is picture 2" in str(told.prompts[1])
        assert "Number 7" in str(told.prompts[2])
        listed = str(told.prompts[0]).count("| #")
        assert 3 <= listed <= 100
        for step in STORY[1:4]:
            await client.ask(*step(client))
        assert len(await tables.get(whose.tenant, whose.key)) == 10_004
    seen.check()
