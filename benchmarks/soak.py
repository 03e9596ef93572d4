"""Whether anything grows: very many exchanges of all kinds, good and bad, and what the service holds while nobody asks.

    make soak                                        # 20,000 exchanges
    python -m benchmarks.soak 100000
    python -m benchmarks.soak 20000 --new looks      # no question about an image is ever asked twice
    python -m benchmarks.soak 20000 --new all        # nor anything else
    python -m benchmarks.soak 5000 --inside          # counts tasks, and says which lines hold more at the end

`chiasm serve` in a process of its own, one worker, its store on disk, between a scripted brain and scripted eyes in
this process, which is also all the clients.  At most `--at-once` exchanges are under way.  Every answer is read as
strictly as the tests read it, so that a fault that shows only now and then is counted too.

What an exchange is about (a *step* of a conversation: words, a look, two, a mixed turn, over a history with images)
follows from its place alone, so that histories are what a client would really send; so does the wire format, which a
conversation keeps.  What becomes of it (a hang-up, a slow reader, a brain that fails in one of six ways) is chance, and
so is what is asked in between (`tests.visits`).

Memory is only comparable at rest: at each interval new exchanges wait until the last one is over and the idle
connections to the brain, which are kept for some seconds by intent, are closed.  By default conversations, images and
questions come again and again, so that what the service remembers by intent is full early (each such memory has a
bound, but some are tens of megabytes), and what grows afterwards has none.  With `--new` growth is, in part, those
memories on their way to their bounds, SQLite's pages of the store among them: then the verdict says only how fast.
Answers that a server is asked to store have a new id each, so only with `--new` are they asked for.  Variables of the
C library's allocator (`MALLOC_…`) reach the service.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import resource
import struct
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

import orjson
import uvloop

from tests.brain import (
    Asked,
    Brain,
    Breaks,
    Calls,
    Ends,
    Piece,
    Script,
    Thinks,
    Waits,
    Wire,
    bytes_of,
    looks,
    refuses,
    resets,
    says,
)
from tests.eyes import Eyes, sees
from tests.live import (
    Line,
    Options,
    assistant,
    function,
    picture,
    post,
    running,
    service_process,
    shown,
    tool_call,
    tool_result,
    user,
)
from tests.speakers import SPEAKERS
from tests.speakers.speaker import Speaker
from tests.visits import Visitors, told

MOST_AT_ONCE: Final = 32
REST_SECONDS: Final = 4.6
"""An idle connection to the brain may live for two seconds, and who closes them looks every two seconds."""

CONVERSATIONS: Final = 60
"""Of the closed world."""

STEPS: Final = 6
WORDINGS: Final = 7
"""Of each question about an image, where questions come again."""

SAMPLES: Final = 20
EXCHANGE_SECONDS: Final = 60.0
"""Nothing takes this long unless it hangs."""

LONG_ANSWER: Final = 2_000_000
FLAT_SHARE: Final = 0.02
FLAT_BYTES: Final = 2 * 2**20
"""Flat: over the second half no more than this, or this share of what is resident, whichever is more."""

FLAT_DESCRIPTORS: Final = 2

New = Literal["nothing", "looks", "all"]
Kind = Literal["words", "whole", "look", "two looks", "mixed"]
KINDS: Final[dict[Kind, int]] = {"words": 8, "whole": 3, "look": 5, "two looks": 2, "mixed": 2}

Fate = Literal["good", "hang-up", "slow reader", "429", "500", "reset", "garbage", "broken off", "cut short"]
FATES: Final[dict[Fate, int]] = {
    "good": 78,
    "hang-up": 11,
    "slow reader": 1,
    "429": 2,
    "500": 2,
    "reset": 1,
    "garbage": 2,
    "broken off": 2,
    "cut short": 1,
}

EYES_FAIL: Final = 0.03
VISITS: Final = 0.1
"""In so many cases a visit comes before an exchange."""


# What is asked, and what the brain will say


@dataclass(frozen=True, slots=True)
class Step:
    """One question of a conversation; conversations of one number are one and the same."""

    conversation: int
    number: int

    @property
    def kind(self) -> Kind:
        chance = random.Random(f"{self.conversation} {self.number}")
        return chance.choices(list(KINDS), list(KINDS.values()))[0]

    @property
    def speaker(self) -> Speaker:
        """Of its conversation's wire format."""
        return list(SPEAKERS.values())[self.conversation % len(SPEAKERS)]

    @property
    def answer(self) -> str:
        return f"Answer {self.number} of conversation {self.conversation}. " + "It goes on for a while. " * 6

    def said(self) -> list[dict[str, Any]]:
        """The question, in the client's shape."""
        words = f"Question {self.number} of conversation {self.conversation}."
        return [user(words, shown(_image(self.conversation, self.number)))]

    def heard(self) -> list[dict[str, Any]]:
        """The answer, as a client keeps it."""
        if self.kind == "mixed":
            return [
                assistant("I look, and read.", tool_call(self.call_id, "read_file", '{"path":"a"}')),
                tool_result(self.call_id, "It says: a."),
                assistant(self.answer),
            ]
        return [assistant("".join(["I look. "] * {"look": 1, "two looks": 2}.get(self.kind, 0)) + self.answer)]

    @property
    def call_id(self) -> str:
        return f"call_c{self.conversation}s{self.number}"

    def history(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = [{"role": "system", "content": f"Conversation {self.conversation}."}]
        for number in range(self.number):
            before = Step(self.conversation, number)
            messages += [*before.said(), *before.heard()]
        return [*messages, *self.said()]


@cache
def _card() -> bytes:
    return picture(1)


def _image(conversation: int, number: int) -> bytes:
    """The same few pixels with a comment of their own."""
    comment = b"Comment\0" + f"{conversation} {number}".encode()
    chunk = struct.pack(">I", len(comment)) + b"tEXt" + comment + struct.pack(">I", zlib.crc32(b"tEXt" + comment))
    return _card()[:33] + chunk + _card()[33:]


async def truncated(asked: Asked, wire: Wire) -> None:
    """A whole answer, of which half comes."""
    data = b'{"id": "chatcmpl-half", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assist'
    await wire.head(200, {"content-type": "application/json", "content-length": str(2 * len(data))})
    await wire.send(data)
    wire.close()


@dataclass(slots=True)
class Plan:
    """One exchange: what the brain does at each of its turns follows from how often it was asked."""

    number: int
    step: Step
    fate: Fate
    wording: int
    asked: int = 0

    @property
    def id(self) -> str:
        return f"soak-{self.number}"

    def script(self, chance: random.Random) -> Script:
        turn, self.asked = self.asked, self.asked + 1
        words: list[Piece] = [self.step.answer[start : start + 12] for start in range(0, len(self.step.answer), 12)]
        match self.fate:
            case "429":
                return refuses(429, "slow down", headers={"retry-after": "1"})
            case "500":
                return refuses(500, "something broke")
            case "reset":
                return resets
            case "garbage":
                return bytes_of(b'data: {"choices": [{"delta": \xff\x00\n\ndata: ]]]\n\n' * 3)
            case "broken off":
                return says(*words[:5], Breaks())
            case "cut short":
                return truncated if self.step.kind == "whole" else says(*words[:5], Ends())
            case "slow reader":
                return says(*["x" * 16_384] * (LONG_ANSWER // 16_384))
            case "hang-up":
                words.insert(len(words) // 2, Waits(chance.uniform(0, 0.1)))
            case "good":
                pass
        here = self.step.number + 1
        match self.step.kind, turn:
            case ("look", 0) | ("two looks", 0 | 1):
                task = f"What is in it? ({self.wording}, {turn})"
                call = looks(here if turn == 0 else 1, task, id=f"{self.step.call_id}t{turn}")
                return says(Thinks("Hm, an image."), "I look. ", call)
            case "mixed", 0:
                look = looks(here, f"What is in it? ({self.wording})", id=f"{self.step.call_id}own")
                return says("I look, and read.", look, Calls("read_file", '{"path":"a"}', self.step.call_id))
            case _:
                return says(Thinks("Yes."), *words)


class Scripted(Brain):
    """A brain that knows each exchange by the id which the client gave its request, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.plans: dict[str, Plan] = {}
        self.chance = random.Random(3)
        self.answers = self._script

    def _script(self, asked: Asked) -> Script:
        self.asked.clear()
        if (answer := told(asked)) is not None:
            return answer
        plan = self.plans.get(asked.headers.get("x-request-id", ""))
        # Of an exchange that its client has left meanwhile.
        return refuses(500, "nobody waits for this") if plan is None else plan.script(self.chance)


class Seeing(Eyes):
    def __init__(self) -> None:
        super().__init__()
        self.chance = random.Random(4)
        self.count = 0
        self.answers = self._script

    def _script(self, asked: Asked) -> Script:
        self.asked.clear()
        self.count += 1
        if self.chance.random() < EYES_FAIL:
            return refuses(500, "out of memory")
        return sees("A word on a card, black on white. " * 5)


# The clients


@dataclass(slots=True)
class Clients:
    """`results` counts what became of what; `wrong` keeps the first answers that must not be."""

    port: int
    brain: Scripted
    chance: random.Random
    visitors: Visitors
    stored: bool
    """Whether Responses are asked for that the server keeps."""
    results: Counter[tuple[Fate, str]] = field(default_factory=Counter)
    kinds: Counter[Kind] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    wrongs: int = 0

    async def exchange(self, plan: Plan) -> None:
        if self.chance.random() < VISITS:
            await self._visit()
        self.brain.plans[plan.id] = plan
        self.kinds[plan.step.kind] += 1
        self.formats[plan.step.speaker.name] += 1
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                result = await self._exchange(plan)
        except (ValueError, AssertionError, EOFError, OSError, TimeoutError) as error:
            self._note(f"{plan}: {error!r:.300}")
            result = "WRONG"
        finally:
            del self.brain.plans[plan.id]
        self.results[plan.fate, result] += 1

    async def _visit(self) -> None:
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                await self.visitors.visit()
        except (ValueError, AssertionError, EOFError, OSError, TimeoutError) as error:
            self._note(f"a visit: {error!r:.600}")

    def _note(self, wrong: str) -> None:
        self.wrongs += 1
        if len(self.wrong) < 5:
            self.wrong.append(wrong)

    async def _exchange(self, plan: Plan) -> str:
        messages = plan.step.history()
        stream = plan.step.kind != "whole" or plan.fate == "slow reader"
        if plan.fate == "hang-up":
            return await self._hang_up(plan, messages, stream)
        if plan.fate == "slow reader":
            return await self._read_slowly(plan, messages)
        result, calls = await self._ask(plan, messages, stream)
        if calls and plan.step.kind == "mixed":
            result, calls = await self._ask(plan, [*messages, *plan.step.heard()[:2]], stream)
        assert not calls
        return result

    async def _ask(self, plan: Plan, messages: Sequence[Any], stream: bool) -> tuple[str, int]:
        async with self._line(plan, messages, stream) as line:
            got = await line.rest()
        if got.status != 200:
            assert got.error["message"]
            assert plan.fate != "good" or got.status == 503, (got.status, got.body)
            expected = {"429": (429,), "500": (502,)}.get(plan.fate, (502,))
            assert got.status in (*expected, 503), (got.status, got.body)
            return f"status {got.status}", 0
        assert plan.fate not in ("429", "500", "reset"), got.body
        speaker = plan.step.speaker
        answer = speaker.read_stream(got.body) if stream else speaker.read_whole(got.body)
        if answer.error is not None:
            assert plan.fate in ("garbage", "broken off", "cut short"), answer
            return "error event", 0
        assert plan.fate == "good", answer
        if answer.calls:
            assert [call.name for call in answer.calls] == ["read_file"], answer
        else:
            assert answer.text.endswith(plan.step.answer), answer
        return "whole answer", len(answer.calls)

    async def _hang_up(self, plan: Plan, messages: Sequence[Any], stream: bool) -> str:
        """At any moment, by either way in which a connection ends."""
        line = self._line(plan, messages, stream)
        async with line:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.chance.uniform(0, 0.3)):
                    while await line.more():
                        pass
            if self.chance.random() < 0.5:
                line.reset()
        return "left"

    async def _read_slowly(self, plan: Plan, messages: Sequence[Any]) -> str:
        async with self._line(plan, messages, True, receive_buffer=8192) as line:
            while await line.more():
                if line.raw.endswith(b"0\r\n\r\n"):
                    break
                if self.chance.random() < 0.1:
                    await asyncio.sleep(0.005)
            answer = plan.step.speaker.read_stream(line.body)
        assert answer.finish == "stop", answer.error
        assert len(answer.text) >= LONG_ANSWER - 16_384
        return "whole answer"

    def _line(self, plan: Plan, messages: Sequence[Any], stream: bool, *, receive_buffer: int = 0) -> Line:
        speaker = plan.step.speaker
        body = speaker.request({"messages": messages, "stream": stream, "tools": [function("read_file")]})
        if speaker.name == "responses":
            body["store"] = self.stored
        headers = {"x-request-id": plan.id, "x-chiasm-conversation": f"soak-{plan.step.conversation}"}
        request = post(orjson.dumps(body), path=speaker.path, headers=headers)
        return Line(self.port, request, receive_buffer=receive_buffer)


# What the kernel knows, and what it comes to


@dataclass(frozen=True, slots=True)
class Sample:
    exchanges: int
    resident: int
    descriptors: int
    threads: int
    tasks: int | None = None
    """Only known where the service runs in this process."""

    @classmethod
    def of(cls, pid: int, exchanges: int, tasks: int | None = None) -> Sample:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        resident = int(status["VmRSS"].split()[0]) * 1024
        return cls(exchanges, resident, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]), tasks)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line with the least squares."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0


def judged(samples: Sequence[Sample]) -> bool:
    """Prints the slopes over the second half; whether all of them are flat."""
    half = samples[len(samples) // 2 :]
    exchanges = half[-1].exchanges - half[0].exchanges
    flat = True
    allowed = max(FLAT_BYTES, FLAT_SHARE * half[0].resident)
    print(f"\nsecond half, {exchanges:,} exchanges, at rest:")
    rows = [
        ("resident", [s.resident / 2**20 for s in half], allowed / 2**20, "MiB"),
        ("descriptors", [float(s.descriptors) for s in half], FLAT_DESCRIPTORS, ""),
        ("threads", [float(s.threads) for s in half], FLAT_DESCRIPTORS, ""),
    ]
    if half[0].tasks is not None:
        rows.append(("tasks", [float(s.tasks or 0) for s in half], FLAT_DESCRIPTORS, ""))
    for name, values, most, unit in rows:
        per_exchange = slope([(s.exchanges, value) for s, value in zip(half, values, strict=True)])
        grown = per_exchange * exchanges
        good = grown <= most
        flat = flat and good
        print(
            f"  {name:12} {per_exchange * 10_000:+8.2f} {unit} per 10,000 exchanges, {grown:+.2f} in all, "
            f"flat is at most {most:.1f}: {'flat' if good else 'GROWS'}"
        )
    return flat


# The run


@dataclass(frozen=True, slots=True)
class Service:
    port: int
    pid: int
    log: Path | None


@asynccontextmanager
async def served(folder: Path, brain: Brain, eyes: Eyes, *, inside: bool) -> AsyncIterator[Service]:
    options = Options(store={"kind": "disk", "path": str(folder / "store")})
    if inside:
        async with running(options.settings(brain.url, eyes.url)) as port:
            yield Service(port, os.getpid(), None)
        return
    allocator = {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
    async with service_process(folder, options.tables(brain.url, eyes.url), environ=allocator) as service:
        yield Service(service.port, service.process.pid, service.log)
        service.terminate()
        await service.ended()


def plans(count: int, new: New) -> Iterator[Plan]:
    chance = random.Random(1)
    for number in range(count):
        conversation = number if new == "all" else chance.randrange(CONVERSATIONS)
        wording = chance.randrange(WORDINGS) if new == "nothing" else number
        fate: Fate = chance.choices(list(FATES), list(FATES.values()))[0]
        yield Plan(number, Step(conversation, chance.randrange(STEPS)), fate, wording)


@contextmanager
def traced(inside: bool) -> Iterator[list[tracemalloc.Snapshot]]:
    taken: list[tracemalloc.Snapshot] = []
    if inside:
        tracemalloc.start()
    yield taken
    if inside:
        tracemalloc.stop()


async def soak(count: int, *, at_once: int, new: New, inside: bool) -> bool:
    samples: list[Sample] = []
    todo = plans(count, new)
    with tempfile.TemporaryDirectory(prefix="chiasm-soak-") as name, traced(inside) as snapshots:
        async with Scripted() as brain, Seeing() as eyes, served(Path(name), brain, eyes, inside=inside) as service:
            visitors = Visitors(service.port, random.Random(5))
            clients = Clients(service.port, brain, random.Random(2), visitors, stored=new != "nothing")

            async def some(left: list[int]) -> None:
                while left[0] > 0:
                    left[0] -= 1
                    await clients.exchange(next(todo))

            print("| exchanges | seconds | resident under load | at rest | descriptors | threads | tasks | wrong |")
            print("|---|---|---|---|---|---|---|---|")
            busy = 0.0
            done = 0
            for number in range(SAMPLES + 1):
                share = [count * number // SAMPLES - done]
                done += share[0]
                begun = time.monotonic()
                async with asyncio.TaskGroup() as group:
                    for _ in range(at_once if number else 0):
                        group.create_task(some(share))
                busy += time.monotonic() - begun
                loaded = Sample.of(service.pid, done)
                await asyncio.sleep(REST_SECONDS)
                if inside:
                    gc.collect()
                    if number in (SAMPLES // 2, SAMPLES):
                        snapshots.append(tracemalloc.take_snapshot())
                samples.append(Sample.of(service.pid, done, len(asyncio.all_tasks()) if inside else None))
                now = samples[-1]
                print(
                    f"| {done:,} | {busy:.0f} | {loaded.resident / 2**20:.1f} MiB | {now.resident / 2**20:.1f} MiB | "
                    f"{now.descriptors} | {now.threads} | {'' if now.tasks is None else now.tasks} | "
                    f"{clients.wrongs} |",
                    flush=True,
                )
            faults = list(brain.faults)
        complaints = [] if service.log is None else _complaints(service.log)
        stored = _size(Path(name, "store"))
    print(f"\n{count:,} exchanges, {count / busy:.0f} per second, {at_once} at once; {eyes.count:,} looks; ", end="")
    print(f"store {stored / 2**20:.0f} MiB; new: {new}")
    print("kinds:", ", ".join(f"{kind} {number:,}" for kind, number in clients.kinds.most_common()))
    print("formats:", ", ".join(f"{name} {number:,}" for name, number in clients.formats.most_common()))
    for fate in get_args(Fate):
        found = ", ".join(f"{what} {n:,}" for (whose, what), n in sorted(clients.results.items()) if whose == fate)
        print(f"  {fate:12} {found}")
    print(f"{visitors.results.total():,} visits in between:")
    for door in sorted({door for door, _ in visitors.results}):
        print(f"  {door:58}", ", ".join(f"{s}: {n:,}" for (d, s), n in sorted(visitors.results.items()) if d == door))
    print(f"wrong answers: {clients.wrongs}; picture data that reached the brain: {len(faults)}; ", end="")
    print(f"errors and tracebacks in the log: {len(complaints)}")
    for line in [*clients.wrong, *faults[:5], *complaints[:5]]:
        print("   ", line)
    if len(snapshots) == 2:
        print("\nlines that hold more at the end than in the middle:")
        for difference in snapshots[1].compare_to(snapshots[0], "lineno")[:20]:
            print("   ", difference)
    flat = judged(samples)
    return flat and not clients.wrongs and not faults and not complaints


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _complaints(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [line[:300] for line in lines if " ERROR " in line or " CRITICAL " in line or line.startswith("Traceback")]


def main() -> int:
    arguments = argparse.ArgumentParser(description="Whether anything grows over very many exchanges.")
    arguments.add_argument("exchanges", type=int, nargs="?", default=20_000)
    arguments.add_argument("--at-once", type=int, default=16, help=f"exchanges under way, at most {MOST_AT_ONCE}")
    arguments.add_argument("--new", choices=get_args(New), default="nothing", help="what is never asked twice")
    arguments.add_argument("--inside", action="store_true", help="the service in this process, traced: slow")
    wanted = arguments.parse_args()
    if not 1 <= wanted.at_once <= MOST_AT_ONCE or wanted.exchanges < SAMPLES:
        arguments.error(f"--at-once is 1 to {MOST_AT_ONCE}, and there are at least {SAMPLES} exchanges")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65_536, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        good = runner.run(soak(wanted.exchanges, at_once=wanted.at_once, new=wanted.new, inside=wanted.inside))
    print("\nverdict:", "flat, and nothing wrong" if good else "NOT flat, or something went wrong: see above")
    return 0 if good or wanted.new != "nothing" else 1


if __name__ == "__main__":
    sys.exit(main())
