"""Whatever a conversation does, its prompts only ever grow: generated conversations against `tests.conversing`.

A conversation is a list of steps: things that are said, shown, looked at, called, trimmed, branched, restarted.  The
words are few and short, so that the same answers come up again and again: what tells one "Done." from another must be
its place and nothing else.

Chat Completions plays most of the stories; each of the other wire formats plays those that are written down here and
some of the generated ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from cache.disk import DiskStore
from cache.memory import MemoryStore
from cache.store import Store
from tests.brain import Calls, Thinks, looks
from tests.conversing import Habits, Inside, Talk, Turn, recalls, screenshot, turn
from tests.live import no_errors_in_the_log, tool_result, user

Step: TypeAlias = tuple[Any, ...]

WORDS = ("Done.", "Ok.\n", "Done.")
"""Few answers, so that the same one stands in many places."""

few = st.integers(0, 3)
which = st.integers(0, 40)

step = st.one_of(
    st.tuples(st.just("text"), st.lists(which, max_size=1)),
    st.tuples(st.just("text"), st.just([])),
    st.tuples(st.just("text"), st.lists(which, min_size=1, max_size=1)),
    st.tuples(st.just("show"), st.integers(1, 4), st.lists(which, max_size=3)),
    st.tuples(st.just("tool"), st.integers(1, 2), st.lists(which, max_size=2)),
    st.tuples(st.just("mixed"), which, st.booleans()),
    st.tuples(st.just("repeat"), which, st.booleans()),
    st.tuples(st.just("recall"), which),
    st.tuples(st.just("compare"), which, which),
    st.tuples(st.just("unknown")),
    st.tuples(st.just("trim"), st.integers(1, 6)),
    st.tuples(st.just("compact")),
    st.tuples(st.just("branch"), which),
    st.tuples(st.just("return"), which),
    st.tuples(st.just("agent"), st.booleans()),
    st.tuples(st.just("elsewhere"), few),
    st.tuples(st.just("title")),
    st.tuples(st.just("restart")),
    st.tuples(st.just("pin"), which),
    st.tuples(st.just("forget"), which),
)
habits = st.builds(Habits, reasoning=st.booleans(), parts=st.booleans(), strips=st.booleans(), stream=st.booleans())
OPENING = [("show", 3, [0, 1]), ("show", 3, [4])]
"""Most conversations begin with a forgetting, or they would hardly come to one."""
stories = st.lists(step, min_size=3, max_size=14).flatmap(lambda steps: st.sampled_from([steps, [*OPENING, *steps]]))


@dataclass
class World:
    """Plays a story.  `again`: starts the application anew on the same store."""

    site: Any
    again: Callable[[], Awaitable[Any]]
    habits: Habits
    talks: list[Talk] = field(default_factory=list)
    at: int = 0
    pictures: int = 0
    said: int = 0
    trimmed: list[Talk] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.talks.append(Talk(self.site, habits=self.habits))

    @property
    def talk(self) -> Talk:
        return self.talks[self.at]

    def known(self) -> list[int]:
        return sorted(self.talk.numbers.of.values())

    def some(self, index: int) -> int:
        """A number of this conversation, new ones as likely as old ones; 1 where there is none."""
        known = self.known()
        return known[index % len(known)] if known else 1

    def words(self) -> str:
        """In one line the same again and again, until its beginning is gone: then only what was said tells the places
        of answers apart."""
        self.said += 1
        again = WORDS[self.said % len(WORDS)]
        return f"{self.at or ''}{again}" if self.talk not in self.trimmed else f"{self.said} times. {again}"

    def new(self) -> dict[str, Any]:
        self.pictures += 1
        return screenshot(self.pictures)

    def turns(self, asked: Sequence[int]) -> list[Turn]:
        """A turn for each look, and then an answer."""
        return self._looking(asked if self.known() else [])

    def _looking(self, asked: Sequence[int]) -> list[Turn]:
        hidden = [turn(Thinks("Hm."), looks(number, f"What is it? {self.said}")) for number in asked]
        return [*hidden, turn(Thinks("So."), self.words())]

    async def play(self, story: Sequence[Step]) -> None:
        for step in story:
            await getattr(self, f"_{step[0]}")(*step[1:])

    async def _text(self, asked: Sequence[int] = ()) -> None:
        await self.talk.ask(user("Go on."), *self.turns([self.some(index) for index in asked]))

    async def _show(self, count: int, asked: Sequence[int]) -> None:
        before = len(self.known())
        new = [self.new() for _ in range(count)]
        given_out = [*self.known(), *range(before + 1, before + 1 + count)]
        numbers = [given_out[-1 - index % len(given_out)] for index in asked]
        await self.talk.ask(user("Look.", *new), *self._looking(numbers))

    async def _tool(self, count: int, asked: Sequence[int]) -> None:
        calling = turn(Thinks("I need one."), "Wait.", *[Calls("screenshot", '{"n":1}') for _ in range(count)])
        await self.talk.ask(user("Take a screenshot."), calling)
        results = [tool_result(call.id, ["Taken:", self.new()]) for call in calling.calls]
        for result in results:
            result["content"][0] = {"type": "text", "text": "Taken:"}
        await self.talk.ask(*results, *self.turns([self.some(index) for index in asked]))

    async def _mixed(self, index: int, hidden_first: bool) -> None:
        number = self.some(index)
        if not self.known():
            return  # no tool of ours is offered yet
        both = turn(Thinks("Both."), "Both.", looks(number, "Mixed?"), Calls("screenshot", "{}"))
        before = [turn(looks(number, "Before?"))] if hidden_first else []
        await self.talk.ask(user("Do both."), *before, both)
        await self.talk.ask(tool_result(both.calls[1].id, [self.new()]), *self.turns([]))

    async def _repeat(self, index: int, look: bool) -> None:
        number = 1 + index % self.pictures if self.pictures else 1
        self.pictures = max(self.pictures, number)
        await self.talk.ask(user("Again.", screenshot(number)), *self.turns([self.some(index)] if look else []))

    async def _recall(self, index: int) -> None:
        if not self.known():
            return
        await self.talk.ask(user("Recall."), turn(recalls(self.some(index))), turn(self.words()))

    async def _compare(self, one: int, other: int) -> None:
        if not self.known():
            return
        numbers = f"{self.some(one)}, {self.some(other)}"
        await self.talk.ask(user("Compare."), turn(looks(numbers, "Which?")), turn(self.words()))

    async def _unknown(self) -> None:
        if not self.known():
            return
        await self.talk.ask(user("Ninety."), turn(looks(90, "What?")), turn(self.words()))

    async def _trim(self, count: int) -> None:
        """Whole rounds go, as with every client: a result without its call is refused by servers."""
        talk = self.talk
        starts = [index for index, message in enumerate(talk.history) if message["role"] == "user"]
        if len(starts) > count:
            talk.trim(starts[count] - starts[0])
            self.trimmed.append(talk)
            await self._text()

    async def _compact(self) -> None:
        self.talk.trim(len(self.talk.history))
        self.trimmed.append(self.talk)
        await self.talk.ask(user("A summary of it all."), turn(self.words()))

    async def _branch(self, index: int) -> None:
        ends = [at for at, message in enumerate(self.talk.history) if message["role"] == "assistant"]
        ends = [at for at in ends if not self.talk.history[at].get("tool_calls")]
        if ends:
            lead = 1 if self.talk.history[0]["role"] == "system" else 0
            fork = self.talk.fork(ends[index % len(ends)] + 1 - lead)
            self.trimmed += [fork] if self.talk in self.trimmed else []
            self.talks.append(fork)
            self.at = len(self.talks) - 1
            await self._text()

    async def _return(self, index: int) -> None:
        self.at = index % len(self.talks)

    async def _agent(self, shows: bool) -> None:
        """Another one of the same session."""
        agent = self.talk.fork(0)
        agent.history = [{"role": "system", "content": f"You are agent {len(self.talks)}."}]
        self.talks.append(agent)
        opening = user(f"Task {len(self.talks)}.", *([self.new()] if shows else []))
        await agent.ask(opening, *self.turns([self.some(0)] if shows else []))

    async def _elsewhere(self, count: int) -> None:
        """The same pictures in another conversation."""
        talk = Talk(self.site, session=f"other {len(self.talks)}", habits=self.habits)
        self.talks.append(talk)
        pictures = [screenshot(1 + index) for index in range(count)]
        self.pictures = max(self.pictures, count)
        await talk.ask(user("Look.", *pictures), *([turn(looks(1, "Here?"))] if count else []), turn(self.words()))

    async def _title(self) -> None:
        """A request beside the main line that holds its first message only."""
        first = next((message for message in self.talk.history if message["role"] == "user"), None)
        if first is not None:
            beside = self.talk.fork(0)
            beside.history = [{"role": "system", "content": "Name this conversation."}]
            await beside.ask(first, turn("A title."))

    async def _restart(self) -> None:
        self.site = await self.again()
        for talk in self.talks:
            talk.site = self.site

    async def _pin(self, index: int) -> None:
        await self._change(lambda table, number: table.pin(number), index)

    async def _forget(self, index: int) -> None:
        await self._change(lambda table, number: table.forget([number]), index)

    async def _change(self, change: Callable[[Any, int], Any], index: int) -> None:
        """As an administrator does."""
        if self.known():
            number, whose = self.some(index), self.talk.conversation
            await self.site.tables.change(whose.tenant, whose.key, lambda table: change(table, number))


async def inside(store: Store, how: Habits, story: Sequence[Step]) -> None:
    begun: list[Inside] = []

    async def again() -> Inside:
        begun.append(await Inside(store).__aenter__())
        return begun[-1]

    try:
        with no_errors_in_the_log():
            await World(await again(), again, how).play(story)
    finally:
        for site in begun:
            await site.__aexit__(None, None, None)


PLAIN = Habits()

few_and_the_same = settings(
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # making a story smaller takes minutes
    suppress_health_check=list(HealthCheck),
)


def played(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """These stories, and so many that are made up."""

    def decorated(test: Callable[..., None]) -> Callable[..., None]:
        for story in KNOWN:
            test = example(story=story, how=PLAIN)(test)
        return settings(few_and_the_same, max_examples=examples)(given(story=stories, how=habits)(test))

    return decorated


KNOWN: Sequence[list[Step]] = [
    [("show", 1, [0]), ("text", [0]), ("text", []), ("text", []), ("text", [])],
    [*OPENING, ("text", []), ("title",), ("text", [])],
    [("show", 3, []), ("show", 2, []), ("mixed", 0, False), ("mixed", 1, True), ("text", [])],
    [*OPENING, ("branch", 0), ("mixed", 0, True), ("tool", 1, [36]), ("mixed", 0, True)],
    [*OPENING, ("forget", 5), ("text", []), ("recall", 0), ("branch", 1), ("return", 0), ("text", [])],
    [*OPENING, ("trim", 1), ("text", [16]), ("restart",), ("text", [])],
]


@played(150)
def test_prompts_only_grow_but_for_forgetting(story: list[Step], how: Habits) -> None:
    asyncio.run(inside(MemoryStore(max_bytes=10**9), how, story))


@pytest.mark.formats("messages", "responses")
@pytest.mark.usefixtures("speaker")
@played(15)
def test_prompts_only_grow_in_other_formats_too(story: list[Step], how: Habits) -> None:
    asyncio.run(inside(MemoryStore(max_bytes=10**9), how, story))


@settings(few_and_the_same, max_examples=20)
@given(story=stories, how=habits)
def test_prompts_only_grow_with_a_store_on_disk(story: list[Step], how: Habits) -> None:
    async def played(folder: str) -> None:
        store = DiskStore(folder, max_bytes=2**30)
        try:
            await inside(store, how, story)
        finally:
            await store.close()

    with TemporaryDirectory() as folder:
        asyncio.run(played(folder))
