"""What is remembered of a conversation, over real sockets: numbers, looks, what is loaded and what is forgotten.

Every request is held to all that `tests.conversing` knows; here stands what a story is about.  All of it is run in
every wire format but for the generated stories, which `tests/test_append_only.py` plays faster, and for where Chat
Completions puts thoughts.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings

from cache.disk import DiskStore
from cache.table import ImageTable
from router.intake.afterwards import TASK
from router.protocol.image_list import HEADER
from tests.brain import Asked, Brain, Calls, Script, Thinks, looks, says
from tests.conversing import (
    SMALL,
    Habits,
    Numbers,
    OverSockets,
    Talk,
    Told,
    recalls,
    screenshot,
    tiny,
    turn,
    words_of,
)
from tests.eyes import Eyes, Look, sees
from tests.live import DEADLINE, House, Options, no_errors_in_the_log, running, shown, tool_result, user
from tests.speakers.speaker import Speaker
from tests.test_append_only import Step, World, few_and_the_same, habits, stories

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.usefixtures("speaker")]


@dataclass(slots=True)
class Service:
    """Instances of the application that share a folder, a brain and eyes."""

    sites: list[OverSockets]
    brain: Brain
    eyes: Eyes
    store: DiskStore
    options: Options
    stack: AsyncExitStack

    @property
    def site(self) -> OverSockets:
        return self.sites[0]

    @property
    def looks(self) -> list[Look]:
        """Those that somebody waited for."""
        return [look for look in self.eyes.looks if TASK not in look.words]

    def sees(self, words: str, *, after: asyncio.Event | float = 0) -> None:
        """What the next look shows that somebody waits for."""
        number = len(self.looks) + 1

        def answer(asked: Asked) -> Script:
            if TASK in Look(asked).words:
                return sees("Something.")
            if len(self.looks) == number:
                return sees(words, after=after)
            return sees(f"What look {len(self.looks)} shows.")

        self.eyes.answers = answer

    async def another(self) -> OverSockets:
        port = await self.stack.enter_async_context(running(self.options.settings(self.brain.url, self.eyes.url)))
        limits = httpx.Limits(max_keepalive_connections=0)
        client = await self.stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE, limits=limits, trust_env=False)
        )
        house = House(self.brain, self.eyes, port, client)
        self.sites.append(OverSockets(house, self.store, engine=self.options.text["engine"]))
        return self.sites[-1]


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    images: dict[str, Any] | None = None,
    engine: str = "vllm",
    keys: Sequence[str] = (),
    log_may_say: str = "",
) -> AsyncIterator[Service]:
    options = Options(
        server={"api_keys": list(keys)},
        text={"engine": engine},
        images={**SMALL, **(images or {})},
        store={"kind": "disk", "path": str(folder / "store")},
    )
    with no_errors_in_the_log(but=log_may_say):
        async with AsyncExitStack() as stack:
            brain = await stack.enter_async_context(Brain())
            eyes = await stack.enter_async_context(Eyes())
            store = DiskStore(folder / "store", max_bytes=2**30)
            stack.push_async_callback(store.close)
            service = Service([], brain, eyes, store, options, stack)
            await service.another()
            yield service


@pytest.fixture
async def service(tmp_path: Path, speaker: Speaker) -> AsyncIterator[Service]:
    async with serving(tmp_path) as service:
        yield service


@pytest.fixture(params=["same instance", "another instance"])
async def elsewhere(request: pytest.FixtureRequest, service: Service) -> OverSockets:
    """Who answers the client's next request."""
    return service.site if request.param == "same instance" else await service.another()


def said(told: Told, turn: int = 0) -> list[dict[str, Any]]:
    """The messages of a prompt."""
    return list(told.prompts[turn]["messages"])


def last_words(told: Told, turn: int = 0) -> str:
    return words_of(said(told, turn)[-1])


async def shows(talk: Talk, *seeds: int, look: bool = True) -> Told:
    """Pictures, a look at each if wanted, and an answer; numbers are the seeds where the test keeps them so."""
    seen = [turn(looks(seed, f"What is {seed}?")) for seed in seeds] if look else []
    return await talk.ask(user("Look.", *map(screenshot, seeds)), *seen, turn(f"Seen {seeds}."))


# Hidden turns


async def test_a_look_is_woven_back_behind_a_text_answer(service: Service, elsewhere: OverSockets) -> None:
    talk = Talk(service.site)
    service.sees("A tabby cat.")
    await talk.ask(user("What is it?", screenshot(1)), turn("Let me look.", looks(1, "What?")), turn("A cat."))
    talk.site = elsewhere
    told = await talk.ask(user("Sure?"), turn("Quite."))
    assert [message["role"] for message in said(told)] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert "A tabby cat." in words_of(said(told)[3])
    assert len(service.looks) == 1


async def test_several_looks_are_woven_back_in_their_order(service: Service, elsewhere: OverSockets) -> None:
    talk = Talk(service.site)
    both = turn(Thinks("Two at once."), looks(1, "What?"), looks(2, "What?"))
    await talk.ask(
        user("Compare.", screenshot(1), screenshot(2)), both, turn("Hm.", looks("1, 2", "Which?")), turn("1.")
    )
    talk.site = elsewhere
    told = await talk.ask(user("And now?"), turn("Still."))
    assert [message["role"] for message in said(told)[2:-1]] == [
        "assistant",
        "tool",
        "tool",
        "assistant",
        "tool",
        "assistant",
    ]


async def test_looks_stay_where_they_were_in_a_loop_of_client_tools(service: Service, elsewhere: OverSockets) -> None:
    talk = Talk(service.site)
    taking = turn(Thinks("A picture first."), Calls("screenshot", "{}"))
    await talk.ask(user("What is on the screen?"), taking)
    reading = turn("Read on.", Calls("read", '{"path":"a"}'))
    await talk.ask(tool_result(taking.calls[0].id, [screenshot(1)]), turn(looks(1, "What?")), reading)
    talk.site = elsewhere
    await talk.ask(tool_result(reading.calls[0].id, "text"), turn(looks(1, "Where?")), turn("There."))
    talk.site = service.site
    told = await talk.ask(user("Thanks."), turn("Welcome."))
    calls = [message["tool_calls"][0]["function"]["name"] for message in said(told) if message.get("tool_calls")]
    assert calls == ["screenshot", "analyzeImage", "read", "analyzeImage"]


async def test_both_results_of_a_mixed_turn_stand_in_the_order_of_the_calls(
    service: Service, elsewhere: OverSockets
) -> None:
    talk = Talk(service.site)
    mixed = turn("Both.", Calls("read", "{}"), looks(1, "What?"), Calls("screenshot", "{}"))
    await talk.ask(user("Go.", screenshot(1)), turn(looks(1, "Before?")), mixed)
    talk.site = elsewhere
    results = [tool_result(mixed.calls[2].id, [screenshot(2)]), tool_result(mixed.calls[0].id, "text")]
    told = await talk.ask(*results, turn("Done."))
    ids = [message["tool_call_id"] for message in said(told)[-3:]]
    assert ids == [call.id for call in mixed.calls]
    await talk.ask(user("Next."), turn("Ok."))
    assert len(service.looks) == 2


async def test_a_look_of_a_mixed_turn_is_shown_though_its_image_was_forgotten_meanwhile(service: Service) -> None:
    talk = Talk(service.site)
    await shows(talk, 1, 2, 3, 4, 5, look=False)
    hold = asyncio.Event()
    service.sees("An old cat.", after=hold)
    mixed = turn(looks(1, "What?"), Calls("screenshot", "{}"))
    await talk.ask(user("Go."), mixed)
    asking = asyncio.create_task(talk.ask(tool_result(mixed.calls[1].id, [screenshot(6)]), turn("Done.")))
    # The request that brings #6 forgets #1, which is being looked at.
    await talk.becomes(lambda table: 1 not in table.loaded)
    hold.set()
    told = await asking
    assert "An old cat." in words_of(said(told)[-2])
    await talk.ask(user("Next."), turn("Ok."))


@pytest.mark.formats("chat")
@pytest.mark.parametrize(
    ("engine", "fields"),
    [("vllm", {"reasoning", "reasoning_content"}), ("sglang", {"reasoning_content"}), ("openai", set())],
)
async def test_thoughts_of_hidden_turns_go_where_the_server_takes_them(
    tmp_path: Path, engine: str, fields: set[str]
) -> None:
    async with serving(tmp_path, engine=engine) as service:
        talk = Talk(service.site)
        await talk.ask(
            user("What?", screenshot(1)), turn(Thinks("Hm."), looks(1, "What?")), turn(Thinks("So."), "A cat.")
        )
        told = await talk.ask(user("Sure?"), turn("Quite."))
        for message, thought in zip((said(told)[2], said(told)[4]), ("Hm.", "So."), strict=True):
            kept = {name: message[name] for name in message if "reasoning" in name}
            assert kept == dict.fromkeys(fields, thought)


@pytest.mark.parametrize(
    "habits", [Habits(reasoning=True), Habits(parts=True), Habits(strips=True), Habits(True, True, True, False)]
)
async def test_a_client_may_write_down_an_answer_in_its_own_way(service: Service, habits: Habits) -> None:
    talk = Talk(service.site, habits=habits)
    await talk.ask(user("What?", screenshot(1)), turn(Thinks("Hm."), looks(1, "What?")), turn("\n\nA cat. \n"))
    told = await talk.ask(user("Sure?"), turn("  Quite.\n"))
    assert [message["role"] for message in said(told)][2:5] == ["assistant", "tool", "assistant"]
    await talk.ask(user("Really?"), turn("Yes."))


async def test_a_turn_of_many_long_looks_is_kept(service: Service, elsewhere: OverSockets) -> None:
    talk = Talk(service.site)
    service.eyes.answers = lambda asked: sees(f"{len(service.eyes.asked)} " + "A long description. " * 800)
    seen = [turn(looks(1, f"What is in part {part}?")) for part in range(7)]
    told = await talk.ask(user("All of it.", screenshot(1)), *seen, turn("A lot."))
    assert len(orjson.dumps(said(told, 7))) > 100_000
    talk.site = elsewhere
    await talk.ask(user("More?"), turn("No."))


async def test_without_the_store_the_history_is_what_the_client_sent(service: Service) -> None:
    talk = Talk(service.site)
    await shows(talk, 1)
    mixed = turn("Both.", looks(1, "What?"), Calls("read", "{}"))
    await talk.ask(user("Go."), mixed)
    async for key in service.store.keys():
        await service.store.delete(key)
    beside = talk.fork()
    beside.site = await service.another()
    beside._line = None
    told = await beside.ask(tool_result(mixed.calls[1].id, "text"), turn("Done."))
    assert [message["role"] for message in said(told)] == ["system", "user", "assistant", "user", "assistant", "tool"]
    assert "[Image #1]" in words_of(said(told)[1])
    await beside.ask(user("Look again."), turn(looks(1, "What?")), turn("There."))


async def test_a_call_before_the_first_image_is_remembered_where_tools_are_always_offered(tmp_path: Path) -> None:
    async with serving(tmp_path, images={"offer_tools": "always"}) as service:
        talk = Talk(service.site)
        told = await talk.ask(user("Look."), turn(looks(1, "What?")), turn("There is nothing."))
        assert "There is no image in this conversation." in last_words(told, 1)
        talk.site = await service.another()
        await talk.ask(user("And now?", screenshot(1)), turn(looks(1, "What?")), turn("A cat."))
        await talk.ask(user("Thanks."), turn("Welcome."))


# Loaded and forgotten


async def loaded(talk: Talk) -> list[int]:
    return sorted((await talk.table()).loaded)


async def test_forgetting_begins_beyond_the_limit_and_goes_down_to_the_mark(service: Service) -> None:
    talk = Talk(service.site)
    for seed in range(1, 6):
        await shows(talk, seed)
    assert await loaded(talk) == [1, 2, 3, 4, 5]
    told = await shows(talk, 6)
    assert await loaded(talk) == [5, 6]
    gone = [words_of(message) for message in said(told) if "was forgotten to save room" in words_of(message)]
    assert len(gone) == 4
    assert 'call recallImage with image "1"' in gone[0]
    assert "[Image #1] (attached" in words_of(said(told)[1])


async def test_the_least_recently_used_is_forgotten_first(service: Service) -> None:
    talk = Talk(service.site)
    await shows(talk, 1, 2, 3, 4, 5, look=False)
    await talk.ask(user("The second."), turn(looks(2, "What?")), turn("It."))
    await shows(talk, 6, look=False)
    assert await loaded(talk) == [2, 6]


async def test_an_image_that_is_shown_again_was_used(service: Service) -> None:
    talk = Talk(service.site)
    await shows(talk, 1, 2, 3, 4, 5, look=False)
    await talk.ask(user("This one again.", screenshot(1)), turn("Yes."))
    await shows(talk, 6, look=False)
    assert await loaded(talk) == [1, 6]


async def test_pinned_images_are_never_forgotten(service: Service) -> None:
    talk = Talk(service.site)
    await shows(talk, 1, 2, 3, look=True)

    def pin(table: ImageTable) -> None:
        table.pin(1)
        table.pin(2)

    await service.site.tables.change(talk.conversation.tenant, talk.conversation.key, pin)
    for seed in range(4, 10):
        await shows(talk, seed)
        assert {1, 2} <= set(await loaded(talk))


async def test_images_of_the_newest_turn_are_never_forgotten(service: Service) -> None:
    talk = Talk(service.site)
    told = await shows(talk, *range(1, 9), look=False)
    assert await loaded(talk) == list(range(1, 9))
    assert HEADER not in last_words(told)
    await shows(talk, 9)
    assert await loaded(talk) == [8, 9]


async def test_the_token_trigger_forgets_down_to_two_thirds(tmp_path: Path) -> None:
    async with serving(tmp_path, images={"max_loaded": 30, "keep_loaded": 20, "max_loaded_tokens": 1500}) as service:
        talk = Talk(service.site)
        service.eyes.answers = lambda asked: sees("word " * 320)
        for seed in range(1, 4):
            await shows(talk, seed)
        assert await loaded(talk) == [1, 2, 3]
        assert (await talk.table()).tokens > 1200
        await shows(talk, 4)
        assert (await talk.table()).tokens > 1500
        await shows(talk, 5, look=False)
        assert await loaded(talk) == [3, 4, 5]
        assert (await talk.table()).tokens <= 1000


async def test_the_table_is_shown_at_the_tail_from_the_first_forgetting_on_and_stays_there(service: Service) -> None:
    talk = Talk(service.site)
    for seed in range(1, 6):
        told = await shows(talk, seed)
        assert HEADER not in "".join(map(words_of, said(told)))
    told = await shows(talk, 6)
    at = len(said(told)) - 1
    assert HEADER == "| image | file | short description | status |\n|---|---|---|---|"
    rows = last_words(told).partition(HEADER + "\n")[2].splitlines()
    assert [row.split(" | ")[0] for row in rows] == [f"| #{number}" for number in range(1, 7)]
    assert [row.split(" | ")[-1] for row in rows] == ["forgotten |"] * 4 + ["loaded |"] * 2
    assert rows[0].startswith("| #1 | - | What look 1 shows | ")
    for _ in range(2):
        told = await talk.ask(user("Go on."), turn("Yes."))
        assert [index for index, message in enumerate(said(told)) if HEADER in words_of(message)] == [at]
    await talk.ask(user("Back."), turn(recalls(1)), turn("Back."))
    told = await talk.ask(user("Go on."), turn("Yes."))
    assert [index for index, message in enumerate(said(told)) if HEADER in words_of(message)] == [
        at,
        len(said(told)) - 1,
    ]
    assert re.search(r"\| #1 \|.*\| loaded \|", last_words(told))


async def test_a_forgotten_image_is_recalled_with_what_was_seen(service: Service, elsewhere: OverSockets) -> None:
    talk = Talk(service.site)
    service.sees("A tabby cat.")
    for seed in range(1, 7):
        await shows(talk, seed)
    before = len(service.looks)
    talk.site = elsewhere
    told = await talk.ask(user("The first?"), turn(recalls(1)), turn("A cat."))
    assert "A tabby cat." in last_words(told, 1)
    assert 1 in await loaded(talk)
    await talk.ask(user("Sure?"), turn("Quite."))
    assert len(service.looks) == before


async def test_a_look_at_a_forgotten_image_loads_it(service: Service) -> None:
    talk = Talk(service.site)
    for seed in range(1, 7):
        await shows(talk, seed)
    told = await talk.ask(user("The first?"), turn(looks(1, "Which colour?")), turn("Grey."))
    assert last_words(told, 1).startswith("> What look")
    assert 1 in await loaded(talk)
    await talk.ask(user("Sure?"), turn("Quite."))


async def test_an_image_whose_bytes_are_gone_is_told_by_its_last_description(service: Service) -> None:
    talk = Talk(service.site)
    service.sees("A tabby cat.")
    await shows(talk, 1)
    async for key in service.store.keys("blob/"):
        await service.store.delete(key)
    talk.trim(len(talk.history))
    told = await talk.ask(user("The cat?"), turn(looks(1, "Which colour?")), turn(recalls(1)), turn("Unknown."))
    for answer in (1, 2):
        assert "Image #1 is no longer available" in last_words(told, answer)
        assert "A tabby cat." in last_words(told, answer)


# Numbers


async def test_a_counter_that_began_anew_is_understood(service: Service) -> None:
    talk = Talk(service.site, rewrites=True)
    await talk.ask(user("[Image #1] what?", screenshot(1)), turn("A cat."))
    talk.trim(len(talk.history))
    told = await talk.ask(user("A summary."), turn("Ok."))
    told = await talk.ask(user("[Image #1] and this?", screenshot(2)), turn(looks(2, "What?")), turn("A dog."))
    words = last_words(told)
    assert words.startswith("[Image #2] and this?\n[Image #2] (attached PNG, 8x8, the user's image 1, not visible;")
    told = await talk.ask(user("Look at [Image #1] again."), turn("Yes."))
    assert last_words(told) == "Look at [Image #2] again."
    await talk.ask(user("[Image #2] a third.", screenshot(3)), turn("Yes."))
    assert sorted(talk.numbers.of.values()) == [1, 2, 3]


async def test_a_picture_keeps_its_number_however_its_base64_is_written(service: Service) -> None:
    talk = Talk(service.site)
    await shows(talk, 1)
    plain = base64.b64encode(tiny(1)).decode()
    folded = "\n".join(plain[at : at + 60] for at in range(0, len(plain), 60))
    for url in (f"data:image/png;base64,{folded}", f"data:image/png;base64,{plain.rstrip('=')}"):
        got = await service.site.house.send(
            {"messages": [*talk.history, user("Again.", shown(url))], "tools": talk.tools},
            headers={"x-session-id": "session", "x-request-id": await one_answer(service, "Same.")},
        )
        assert got.status == 200
        assert "[Image #1] (attached" in words_of(service.brain.asked[-1].messages[-1])


async def one_answer(service: Service, words: str) -> str:
    """The id under which one request is answered so."""
    request_id = f"plain-{len(service.brain.asked)}"
    service.site._routes[request_id] = lambda asked: says(words)
    return request_id


async def test_a_title_request_beside_the_main_line_disturbs_nothing(service: Service) -> None:
    talk = Talk(service.site)
    beside = Talk(service.site, system="Name this conversation.", numbers=talk.numbers, tools=())
    first = user("What is it?", screenshot(1))
    await asyncio.gather(
        talk.ask(first, turn(looks(1, "What?")), turn("A cat.")), beside.ask(first, turn("About a cat."))
    )
    assert len(await talk.table()) == 1
    for seed in range(2, 7):
        await shows(talk, seed)
    again = Talk(service.site, system="Name this conversation.", numbers=talk.numbers, tools=())
    await again.ask(first, turn("Still about a cat."))
    told = await talk.ask(user("Go on."), turn("Yes."))
    assert HEADER not in words_of(said(told)[1])
    await talk.ask(user("Go on."), turn("Yes."))


async def test_two_agents_of_one_session_keep_out_of_each_others_way(service: Service) -> None:
    numbers = Numbers()
    agents = [Talk(service.site, system=f"Agent {name}.", numbers=numbers) for name in "ab"]
    for round_ in range(3):
        asking = [agent.ask(user("Your task."), turn(Calls("screenshot", "{}"))) for agent in agents]
        await asyncio.gather(*asking)
        for index, agent in enumerate(agents):
            call = agent.history[-1]["tool_calls"][0]["id"]
            seed = 1 + 2 * round_ + index
            told = await agent.ask(tool_result(call, [screenshot(seed)]), turn(looks(seed, "What?")), turn("Done."))
            assert f"[Image #{seed}]" in last_words(told)
    for agent in agents:
        await agent.ask(user("And?"), turn("Nothing."))


async def test_an_edited_message_begins_a_line_of_its_own(service: Service) -> None:
    talk = Talk(service.site)
    await shows(talk, 1)
    await shows(talk, 2)
    branch = talk.fork(2)
    told = await branch.ask(user("Something else.", screenshot(3)), turn(looks(3, "What?")), turn("New."))
    assert "[Image #3]" in last_words(told)
    await branch.ask(user("Go on."), turn("Yes."))
    await talk.ask(user("Go on."), turn("Yes."))
    talk.edit(1, user("Edited.", screenshot(1)))
    told = await talk.ask(user("Once more."), turn(looks(2, "What is 2?")), turn("Yes."))
    await talk.ask(user("Go on."), turn("Yes."))


async def test_reordered_messages_keep_their_numbers(service: Service) -> None:
    talk = Talk(service.site)
    for seed in (1, 2, 3):
        await shows(talk, seed)
    system, *rest = talk.history
    talk.trim(len(talk.history))
    talk.history = [system, *rest[4:6], *rest[0:2], *rest[2:4]]
    told = await talk.ask(user("In another order.", screenshot(4)), turn("Yes."))
    firsts = [words_of(message) for message in said(told) if message["role"] == "user"]
    assert [re.findall(r"\[Image #(\d)\] \(", words)[0] for words in firsts] == ["3", "1", "2", "4"]
    await talk.ask(user("Go on."), turn("Yes."))


async def test_tenants_see_nothing_of_each_other(tmp_path: Path) -> None:
    async with serving(tmp_path, keys=["key-one", "key-two"]) as service:
        one, two = (Talk(service.site, key=key) for key in ("key-one", "key-two"))
        assert one.conversation.tenant != two.conversation.tenant
        service.eyes.answers = lambda asked: sees(f"Secret {len(service.eyes.asked)}.")
        for seed in range(1, 7):
            await shows(one, seed)
        secrets = re.findall(r"Secret \d+\.", str(service.brain.asked[-1].body))
        assert secrets
        told = await two.ask(user("What?", screenshot(6)), turn(looks(1, "What is 6?")), turn("A dog."))
        assert "[Image #1] (attached" in last_words(told)
        (own,) = re.findall(r"Secret \d+\.", last_words(told, 1))
        assert own not in secrets, "the look of another tenant was told"
        told = await two.ask(
            user("More."), turn(looks(2, "What?")), turn(recalls(3)), turn(looks(1, "What is 1?")), turn("No.")
        )
        assert "There is no image #2." in words_of(said(told, 1)[-1])
        assert "There is no image #3 in this conversation." in words_of(said(told, 2)[-1])
        everything = b"".join(asked.body for asked in service.brain.asked if asked.messages == said(told, 3))
        assert not [secret for secret in secrets if secret.encode() in everything]
        assert HEADER.encode() not in everything
        # The same history, word for word, in the other's name: nothing is woven into it.
        copied = Talk(service.site, key="key-two", session="copy")
        copied.history = list(one.history)
        told = await copied.ask(user("Go on."), turn("Yes."))
        assert [message["role"] for message in said(told)] == ["system", *["user", "assistant"] * 6, "user"]
        await one.ask(user("Go on."), turn("Yes."))


# Whatever happens


@pytest.mark.formats("chat")
@settings(few_and_the_same, max_examples=12)
@given(story=stories, how=habits)
def test_prompts_only_grow_over_sockets_and_two_instances(story: list[Step], how: Habits) -> None:
    async def played() -> None:
        with TemporaryDirectory() as folder:
            async with serving(Path(folder)) as service:
                await service.another()
                turns = iter(range(10**6))

                async def again() -> OverSockets:
                    return service.sites[next(turns) % 2]

                await World(service.site, again, how).play(story[:12])

    asyncio.run(played())
