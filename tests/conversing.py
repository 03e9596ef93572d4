"""One conversation as a client holds it, and the proof that the brain's prompts only ever grow.

    async with Inside(store) as house:                        # or `tests.live`'s application: `OverSockets`
        talk = Talk(house)
        await talk.ask(user("What is it?", shown(CAT)), turn(looks(1, "What?")), turn("A cat."))
        await talk.ask(user("Sure?"), turn("Quite."))

A client keeps what it can see of a conversation (visible words, its own calls) in a form of its own (`Habits`), and
sends all of it with every request.  `Talk` is such a client, and knows besides what really happened: what the brain
was shown in each turn and what it said.  So it can say what the next prompt must be, to the byte, and after every
request it holds the prompt to that:

*   **Append only.**  A prompt begins with all messages of the brain's last turn before it, then what the brain said
    then: whole where calls of ours were hidden in it, otherwise as the client wrote it down.  In a mixed turn the
    results stand in the order of the calls.  Then come the client's new messages, and nothing else.
*   **But for forgetting.**  A look is replaced by words that say so exactly when one of its images was forgotten since
    it was made, by the image table in the store (not by what the router believes), and stays replaced.
*   **The table** stands at the tail when a status was changed since it was last shown, lists every image with its
    status, and stays where it stood.
*   **Numbers.**  A picture keeps its number whatever happens, and no two have the same.
*   **The head.**  Tools are the same bytes from the first picture on, and no picture data is anywhere.

The same checks hold for the application over sockets and, some ten times faster, for the application without any.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from types import TracebackType
from typing import Any, Protocol, Self
from unittest.mock import patch

import httpx
import orjson
from PIL import Image

import router.app
from cache.store import Store
from cache.table import ImageTable
from cache.tables import Tables
from router.app import create_app
from router.endpoints import Rooms
from router.intake.conversation import Conversation, identify, tenant_of
from router.protocol.image_list import HEADER, MOST_LISTED
from router.protocol.ledger import forgotten
from router.protocol.profiles import PROFILES, Profile
from tests.brain import PICTURE, Asked, Calls, Script, Thinks, Wire, says
from tests.eyes import Look, sees
from tests.live import DEADLINE, Got, House, Options, function, shown
from tests.speakers import speaking

OURS = ("analyzeImage", "recallImage")

SEEN = re.compile(r"(?:> |Image #\d+ is (?:back|loaded already)\.)")
"""How the result of a look begins that found its image."""

_ids = count(1)


# Pictures


@functools.cache
def tiny(seed: int) -> bytes:
    """A PNG of a few bytes; another for every seed."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (seed % 256, seed // 256 % 256, seed // 65536 % 256)).save(out, "PNG")
    return out.getvalue()


def pictures_of(message: Mapping[str, Any]) -> list[str]:
    """The digests of the image parts of a client's message, in order."""
    content = message.get("content")
    urls = [part["image_url"]["url"] for part in content if "image_url" in part] if isinstance(content, list) else []
    return [hashlib.sha256(base64.b64decode(url.partition(",")[2])).hexdigest() for url in urls]


# What the brain says


@dataclass(frozen=True, slots=True)
class Turn:
    """One completion."""

    words: str = ""
    thoughts: str = ""
    calls: tuple[Calls, ...] = ()

    @property
    def ours(self) -> tuple[Calls, ...]:
        return tuple(call for call in self.calls if call.name in OURS)

    @property
    def of_client(self) -> tuple[Calls, ...]:
        return tuple(call for call in self.calls if call.name not in OURS)

    def message(self, profile: Profile) -> dict[str, Any]:
        """As the server must see it again."""
        message: dict[str, Any] = {"role": "assistant", "content": self.words or (None if self.calls else "")}
        if self.thoughts or (profile.empty_reasoning and self.calls):
            message |= dict.fromkeys(speaking().thoughts(profile), self.thoughts)
        if self.calls:
            message["tool_calls"] = [as_call(call) for call in self.calls]
        return message


def turn(*pieces: str | Thinks | Calls) -> Turn:
    """Calls without an id get one."""
    return Turn(
        "".join(piece for piece in pieces if isinstance(piece, str)),
        "".join(piece.text for piece in pieces if isinstance(piece, Thinks)),
        tuple(replace(piece, id=piece.id or f"call_{next(_ids)}") for piece in pieces if isinstance(piece, Calls)),
    )


def recalls(image: int | str) -> Calls:
    return Calls("recallImage", orjson.dumps({"image": str(image)}).decode())


def as_call(call: Calls) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def numbers_of(call: Calls) -> tuple[int, ...]:
    """The images that a call of ours asks for."""
    numbers = re.findall(r"\d+", orjson.loads(call.arguments)["image"])
    return tuple(dict.fromkeys(int(number) for number in numbers))


# The house


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The image table at one moment."""

    loaded: Mapping[int, int]
    """By number, the stamp at which it was loaded."""
    statuses: Mapping[int, str]
    forgot: int

    @classmethod
    def of(cls, table: ImageTable) -> Snapshot:
        return cls(
            {number: image.since for number, image in table.loaded.items()},
            {number: table.status(number) for number in table.numbers()},
            table.forgot,
        )


@dataclass(frozen=True, slots=True)
class Told:
    """One request, from both sides."""

    prompts: list[dict[str, Any]]
    """What the brain was asked, turn by turn."""
    words: str
    """What the client saw."""
    thoughts: str
    calls: list[tuple[str, str, str]]
    """Id, name, arguments."""
    at_first: Snapshot
    """When the first prompt went out."""
    at_last: Snapshot
    """When the answer was over."""

    @property
    def first(self) -> list[dict[str, Any]]:
        return list(self.prompts[0]["messages"])


class Site(Protocol):
    """An application that can be asked."""

    profile: Profile
    tables: Tables

    async def ask(
        self, body: Mapping[str, Any], headers: Mapping[str, str], turns: Sequence[Turn], conversation: Conversation
    ) -> Told: ...


# The client


@dataclass(frozen=True, slots=True)
class Habits:
    """How a client writes down what it saw."""

    reasoning: bool = False
    """Thoughts go back too."""
    parts: bool = False
    """Words as a list of parts."""
    strips: bool = False
    """White space around words goes."""
    stream: bool = True

    def written(self, told: Told) -> dict[str, Any]:
        words = told.words.strip() if self.strips else told.words
        content: Any = [{"type": "text", "text": words}] if self.parts and words else words
        message: dict[str, Any] = {"role": "assistant", "content": content if words or not told.calls else None}
        if self.reasoning and told.thoughts:
            message["reasoning_content"] = told.thoughts
        if told.calls:
            message["tool_calls"] = [as_call(Calls(name, arguments, id_)) for id_, name, arguments in told.calls]
        return message


@dataclass(slots=True)
class Numbers:
    """Which picture has which number in one conversation; shared by all who talk in it."""

    of: dict[str, int] = field(default_factory=dict)
    tools: bytes | None = None
    """From the first picture on."""
    shown: dict[tuple[int, bytes], Snapshot] = field(default_factory=dict)
    """The table when it was shown at the end of this message, by the length of the prompt and the message."""
    seen: dict[str, tuple[tuple[int, ...], tuple[int | None, ...]]] = field(default_factory=dict)
    """By the id of a call of ours: the images it looked at, and the stamps at which they had been loaded."""

    def note(self, digest: str, number: int) -> None:
        known = self.of.setdefault(digest, number)
        assert known == number, f"a picture was #{known} and is #{number} now"
        others = [of for of, taken in self.of.items() if taken == number and of != digest]
        assert not others, f"two pictures have the number {number}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A message of the prompt, and when it may change: what was seen in these images goes when one was forgotten."""

    message: bytes
    images: tuple[int, ...] = ()
    since: tuple[int | None, ...] = ()
    """The stamps at which its images had been loaded when the look was made."""

    def now(self, table: Snapshot, of_mixed: Collection[str] = ()) -> _Entry:
        """`of_mixed`: the looks of a mixed turn that is not over.  What it looked at before stands as long as what it
        is looking at now."""
        since = tuple(table.loaded.get(image) for image in self.images)
        if self.images and orjson.loads(self.message)["tool_call_id"] in of_mixed and None not in since:
            return replace(self, since=since)
        if all(table.loaded.get(image) == since for image, since in zip(self.images, self.since, strict=True)):
            return self
        gone = {**orjson.loads(self.message), "content": forgotten(self.images, "recallImage")}
        return _Entry(orjson.dumps(gone))


@dataclass(frozen=True, slots=True)
class _Line:
    """What the next prompt has to begin with."""

    entries: tuple[_Entry, ...]
    calls: tuple[Calls, ...]
    """Of the last turn, where ours and the client's are still to be answered."""
    of_mixed: frozenset[str]
    """The ids of all calls of ours in that answer."""
    shown: Snapshot | None
    """The table when it was last shown in this line."""


TOOLS = (function("screenshot"), function("read"))


class Talk:
    """`headers` and `session` say which conversation this is, `key` whose; those that share one share `numbers`."""

    def __init__(
        self,
        site: Site,
        *,
        session: str = "session",
        habits: Habits = Habits(),
        system: str = "You are helpful.",
        numbers: Numbers | None = None,
        key: str = "",
        tools: Sequence[Mapping[str, Any]] = TOOLS,
        rewrites: bool = False,
    ) -> None:
        """`rewrites`: the client has numbers of its own, so its words need not arrive as they are."""
        self.site = site
        self.habits = habits
        self.numbers = numbers or Numbers()
        self.tools = list(tools)
        self.history: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self._headers = {"x-session-id": session, **({"authorization": f"Bearer {key}"} if key else {})}
        self.conversation = identify(tenant_of(key), self._headers, {}, "")
        self._line: _Line | None = None
        self._points: dict[int, _Line | None] = {}
        self._rewrites = rewrites

    async def table(self) -> ImageTable:
        return await self.site.tables.get(self.conversation.tenant, self.conversation.key)

    async def becomes(self, holds: Callable[[ImageTable], bool]) -> None:
        """Wait until the table is so."""
        async with asyncio.timeout(DEADLINE):
            while True:
                if holds(await self.table()):
                    return
                await asyncio.sleep(0.01)

    async def ask(self, *said: Mapping[str, Any] | Turn, **fields: Any) -> Told:
        """Send these messages behind all others; the brain answers with these turns.  Checks everything."""
        new = [dict(one) for one in said if not isinstance(one, Turn)]
        turns = [one for one in said if isinstance(one, Turn)]
        history = [*self.history, *new]
        body = {"messages": history, "tools": self.tools, "stream": self.habits.stream, **fields}
        if not body["tools"]:
            del body["tools"]
        told = await self.site.ask(body, self._headers, turns, self.conversation)
        assert len(told.prompts) == len(turns), "the brain was asked more or less often than it has answers"
        self._check_head(told)
        self._check_numbers(history, told.first)
        shown = self._check_first(new, told)
        entries = self._check_follow_ups(turns, told)
        self._answered(history, turns, told, entries, shown)
        return told

    def fork(self, messages: int | None = None) -> Talk:
        """Another client that has just so many messages of this history (not counting the system's), in the same
        conversation.  What it may expect it knows where an answer ended there."""
        lead = self._lead
        at = len(self.history) if messages is None else lead + messages
        other = Talk(
            self.site, habits=self.habits, system="", numbers=self.numbers, tools=self.tools, rewrites=self._rewrites
        )
        other._headers, other.conversation = self._headers, self.conversation
        other.history = list(self.history[:at])
        other._line = self._points.get(at)
        other._points = {point: line for point, line in self._points.items() if point <= at}
        return other

    def trim(self, messages: int) -> None:
        """The client drops so many messages from the beginning, as those do whose context is full."""
        lead = self._lead
        del self.history[lead : lead + messages]
        self._line, self._points = None, {}

    def lost(self) -> None:
        """The house has lost what it kept: nothing can be said about the next prompt's beginning."""
        self._line, self._points = None, {}

    def edit(self, index: int, message: Mapping[str, Any]) -> None:
        """Another message in this place of the history (the system's counted); what was said after it stays."""
        self.history[index] = dict(message)
        self._line, self._points = None, {}

    @property
    def _lead(self) -> int:
        return 1 if self.history and self.history[0]["role"] == "system" else 0

    # Checks

    def _check_head(self, told: Told) -> None:
        for prompt in told.prompts:
            assert not PICTURE.search(orjson.dumps(prompt)), "picture data reached the brain"
        if self.numbers.of or any("[Image #" in str(message) for message in told.first):
            tools = orjson.dumps([tool for tool in told.prompts[0].get("tools") or () if _name(tool) in OURS])
            assert self.numbers.tools in (None, tools), "our tools are others than before"
            self.numbers.tools = tools
        for prompt in told.prompts:
            assert orjson.dumps(prompt.get("tools")) == orjson.dumps(told.prompts[0].get("tools"))

    def _check_numbers(self, history: Sequence[Mapping[str, Any]], prompt: Sequence[Mapping[str, Any]]) -> None:
        """The client's messages stand in the prompt in their order, and what they brought has its numbers."""
        of_tools = {message["tool_call_id"]: message for message in prompt if message["role"] == "tool"}
        of_user = iter([message for message in prompt if message["role"] == "user"])
        for message in history:
            if message["role"] == "user":
                self._check_placed(message, next(of_user))
            elif message["role"] == "tool":
                self._check_placed(message, of_tools[message["tool_call_id"]])
        assert next(of_user, None) is None, "a message of the user that the client never sent"

    def _check_placed(self, sent: Mapping[str, Any], came: Mapping[str, Any]) -> None:
        words = words_of(came).partition("The images of this conversation so far.")[0]
        numbers = [int(number) for number in re.findall(r"\[Image #(\d+)\] \(attached ", words)]
        brought = pictures_of(sent)
        assert len(numbers) == len(brought), (sent, came)
        for digest, number in zip(brought, numbers, strict=True):
            self.numbers.note(digest, number)
        if not self._rewrites:
            at = 0
            for text in texts_of(sent):
                found = words.find(text, at)
                assert found >= 0, f"{text!r} is not in {words!r}"
                at = found + len(text)

    def _check_first(self, new: Sequence[Mapping[str, Any]], told: Told) -> Snapshot | None:
        """The first prompt; answers when the table was last shown in this line."""
        prompt, now, line = told.first, told.at_first, self._line
        if line is not None:
            expected = [entry.now(now, line.of_mixed).message for entry in line.entries]
            _same(expected, [orjson.dumps(message) for message in prompt[: len(expected)]])
            behind = prompt[len(expected) :]
            results, rest = _results_of(line.calls, new)
            assert [_who(message) for message in behind] == [*results, *(_who(message) for message in rest)]
            for message in behind:
                if message["role"] == "tool" and message["tool_call_id"] in {c.id for c in Turn(calls=line.calls).ours}:
                    assert SEEN.match(words_of(message)) or "There is no image" in words_of(message), message
        shown = line.shown if line else None
        table = words_of(prompt[-1]).partition(HEADER)[2]
        tables = [HEADER in words_of(message) for message in prompt]
        if line is not None:
            changed = shown is None or any(now.statuses[image] != was for image, was in shown.statuses.items())
            if shown is None and "forgotten" not in now.statuses.values():
                changed = False
            assert not changed or tables[-1], "statuses were changed, and the brain was not told"
            assert tables[-1] <= (now.forgot > (shown.forgot if shown else 0)), "a table that tells nothing new"
        if not tables[-1]:
            return shown
        asked_again = len(prompt), orjson.dumps(prompt[-1])
        if asked_again in self.numbers.shown:  # the same message has its table as it was; a new one follows it
            return self.numbers.shown[asked_again]
        self.numbers.shown[asked_again] = now
        rows = dict(re.findall(r"^\| #(\d+) \|.*\| (\w+) \|$", table, re.MULTILINE))
        listed = {int(number): status for number, status in rows.items()}
        assert listed == {number: now.statuses[number] for number in listed}, table
        assert len(listed) == min(len(now.statuses), MOST_LISTED), table
        assert now.loaded.keys() <= listed.keys(), table
        return now

    def _check_follow_ups(self, turns: Sequence[Turn], told: Told) -> tuple[_Entry, ...]:
        """The later prompts of one request; answers the entries of the last."""
        line = self._line
        entries = [entry.now(told.at_first, line.of_mixed) for entry in line.entries] if line else []
        for message in told.first[len(entries) :]:
            images = self._images(message, self._line.calls if self._line else ())
            entries.append(self._entry(message, images, told.at_first))
        for number, said in enumerate(turns[:-1]):
            expected = [*(entry.message for entry in entries), orjson.dumps(said.message(self.site.profile))]
            prompt = told.prompts[number + 1]["messages"]
            _same(expected, [orjson.dumps(message) for message in prompt[: len(expected)]])
            results = prompt[len(expected) :]
            assert [_who(result) for result in results] == [("tool", call.id) for call in said.calls]
            entries.append(_Entry(expected[-1]))
            entries += [self._entry(result, self._images(result, said.calls), told.at_last) for result in results]
        return tuple(entries)

    def _entry(self, message: Mapping[str, Any], images: tuple[int, ...], table: Snapshot) -> _Entry:
        """A look that was made before the client trimmed its history is known by its call."""
        id_ = message.get("tool_call_id", "")
        if images:
            self.numbers.seen[id_] = (images, tuple(table.loaded.get(image) for image in images))
        known = self.numbers.seen.get(id_, ((), ())) if SEEN.match(words_of(message)) else ((), ())
        return _Entry(orjson.dumps(message), *known)

    @staticmethod
    def _images(message: Mapping[str, Any], calls: Iterable[Calls]) -> tuple[int, ...]:
        """What a message shows of images that may be forgotten."""
        asked = {call.id: call for call in calls if call.name in OURS}
        call = asked.get(message.get("tool_call_id", ""))
        return numbers_of(call) if call and SEEN.match(words_of(message)) else ()

    def _answered(
        self,
        history: list[dict[str, Any]],
        turns: Sequence[Turn],
        told: Told,
        entries: tuple[_Entry, ...],
        shown: Snapshot | None,
    ) -> None:
        last = turns[-1]
        written = self.habits.written(told)
        assert [call[0] for call in told.calls] == [call.id for call in last.of_client]
        hidden = len(turns) > 1 or bool(last.ours)
        said = last.message(self.site.profile) if hidden else _as_heard(written)
        self.history = [*history, written]
        mixed = bool(last.ours and last.of_client)
        of_mixed = frozenset(call.id for one in turns for call in one.ours) if mixed else frozenset()
        calls = last.calls if last.of_client else ()
        self._line = _Line((*entries, _Entry(orjson.dumps(said))), calls, of_mixed, shown)
        self._points[len(self.history)] = self._line


def _results_of(
    calls: Sequence[Calls], new: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[str, str]], list[Mapping[str, Any]]]:
    """Results in the order of their calls, and the messages behind them."""
    answered = {message["tool_call_id"] for message in new if message["role"] == "tool"}
    results = [("tool", call.id) for call in calls if call.name in OURS or call.id in answered]
    known = {id_ for _, id_ in results}
    return results, [message for message in new if message.get("tool_call_id") not in known]


def _who(message: Mapping[str, Any]) -> tuple[str, str]:
    return message["role"], message.get("tool_call_id", "")


def _as_heard(message: dict[str, Any]) -> dict[str, Any]:
    """A client's message, as a brain gets it."""
    speaker = speaking()
    (heard,) = speaker.understood(speaker.request({"messages": [message]}))["messages"]
    return dict(heard)


def _name(tool: Mapping[str, Any]) -> str:
    return str(tool["function"]["name"])


def _same(expected: Sequence[bytes], came: Sequence[bytes]) -> None:
    for index, want in enumerate(expected):
        got = came[index] if index < len(came) else b"nothing"
        assert got == want, f"message {index} of the prompt\nwas  {want.decode()}\nis   {got.decode()}"


def words_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content or ())


def texts_of(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    parts = [{"text": content}] if isinstance(content, str) else content or ()
    return [part["text"] for part in parts if part.get("text")]


# The application


class _Site(ABC):
    """An application that can be asked.  Each request has an id, by which the brain knows its script: several clients,
    and several instances of the application, can ask one brain at once."""

    def __init__(self, store: Store, profile: Profile, routes: dict[str, Route]) -> None:
        self.speaker = speaking()
        self.store = store
        self.profile = profile
        self.tables = Tables(store)
        self._routes = routes

    async def ask(
        self, body: Mapping[str, Any], headers: Mapping[str, str], turns: Sequence[Turn], conversation: Conversation
    ) -> Told:
        request_id = f"request-{next(_ids)}"
        line = iter(turns)
        prompts: list[dict[str, Any]] = []
        histories: list[list[Any]] = []
        snapshots: list[Snapshot] = []

        def route(asked: Asked) -> Script:
            said = next(line)

            async def script(asked: Asked, wire: Wire) -> None:
                if not prompts:
                    snapshots.append(await self.snapshot(conversation))
                prompts.append(asked.chat)
                histories.append(asked.json.get("input") or asked.json["messages"])
                thoughts = [Thinks(said.thoughts)] if said.thoughts else []
                words = [said.words] if said.words else []
                await says(*thoughts, *words, *said.calls)(asked, wire)

            return script

        self._routes[request_id] = route
        got = await self._send(body, {**headers, "x-request-id": request_id})
        del self._routes[request_id]
        assert got.status == 200, (got.status, got.body)
        for earlier, later in pairwise(histories):  # as they stood on the wire
            assert orjson.dumps(later).startswith(orjson.dumps(earlier)[:-1] + b",")
        answer = House.read(got, body)
        assert answer.error is None, answer.error
        calls = [(call.id, call.name, call.arguments) for call in answer.calls]
        at_last = await self.snapshot(conversation)
        return Told(prompts, answer.text, answer.reasoning, calls, snapshots[0], at_last)

    async def snapshot(self, conversation: Conversation) -> Snapshot:
        return Snapshot.of(await self.tables.get(conversation.tenant, conversation.key))

    @abstractmethod
    async def _send(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Got: ...


Route = Callable[[Asked], Script]


class OverSockets(_Site):
    """`house` is the application; `store` is the one in which it keeps things, seen from beside it."""

    def __init__(self, house: House, store: Store, *, engine: str = "auto") -> None:
        if not isinstance(house.brain.answers, _Routed):
            house.brain.answers = _Routed()
        super().__init__(store, PROFILES[engine], house.brain.answers)
        self.house = house

    async def _send(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Got:
        return await self.house.send(body, headers=headers)


class _Routed(dict[str, Route]):
    """The scripts of all requests, as a brain's answers."""

    def __call__(self, asked: Asked) -> Script:
        return self[asked.headers["x-request-id"]](asked)


class Inside(_Site):
    """The whole application in this process, without a socket on either side: some ten times faster.

    The brain answers as it is told, the eyes say something else at every look.  `images` and `text` are tables of the
    configuration; a second instance, or the same one started anew, is another of these on the same `store`.
    """

    def __init__(
        self,
        store: Store,
        *,
        images: Mapping[str, Any] | None = None,
        text: Mapping[str, Any] | None = None,
        keys: Sequence[str] = (),
        looked: Callable[[int], str] = lambda number: f"What look {number} shows. And more of it.",
    ) -> None:
        engine = (text or {}).get("engine", "vllm")
        super().__init__(store, PROFILES[engine], {})
        self._options = Options(
            server={"api_keys": list(keys)}, text={"engine": engine, **(text or {})}, images={**SMALL, **(images or {})}
        )
        self.looked = looked
        self.looks: list[Look] = []
        self.rooms: Rooms
        self._stack = AsyncExitStack()
        self._client: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        app = create_app(self._options.settings("http://brain.test/v1", "http://eyes.test/v1"))
        with (
            patch.object(router.app, "open_configured_store", lambda settings: _Lent(self.store)),
            patch.object(router.app, "http_client", self._network),
        ):
            state: Any = await self._stack.enter_async_context(app.router.lifespan_context(app))
        self.rooms = state["rooms"]

        async def entered(scope: Any, receive: Any, send: Any) -> None:
            # In a task of its own, as a server runs it: at the end the application waits for those that answer.
            await asyncio.create_task(app({**scope, "state": state}, receive, send))

        self._client = await self._stack.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(entered), base_url="http://127.0.0.1")
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _send(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Got:
        content = orjson.dumps(self.speaker.request(body))
        response = await self._client.post(self.speaker.path, content=content, headers=headers)
        return Got(response.status_code, response.headers, response.content, self.speaker)

    @asynccontextmanager
    async def _network(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(self._upstream)) as client:
            yield client

    async def _upstream(self, request: httpx.Request) -> httpx.Response:
        asked = Asked(request.method, request.url.path, dict(request.headers), await request.aread())
        if request.method == "GET":
            return httpx.Response(200, json={"object": "list", "data": [{"id": "model", "object": "model"}]})
        paper = _Paper(asked)
        if request.url.host == "eyes.test":
            self.looks.append(Look(asked))
            await sees(self.looked(len(self.looks)))(asked, paper)
        else:
            await self._routes[asked.headers["x-request-id"]](asked)(asked, paper)
        return httpx.Response(paper.status, headers=paper.headers, content=bytes(paper.body))


class _Paper(Wire):
    """What a script says, written down."""

    def __init__(self, asked: Asked) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, dict(headers)

    async def send(self, data: bytes) -> None:
        self.body += data

    async def end(self) -> None:
        """Nothing more comes."""


class _Lent:
    """A store that outlives the application."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def close(self) -> None:
        """It is not ours to close."""


SMALL: Mapping[str, Any] = {"max_loaded": 5, "keep_loaded": 2}


def screenshot(seed: int) -> dict[str, Any]:
    """An image part."""
    return shown(tiny(seed))
