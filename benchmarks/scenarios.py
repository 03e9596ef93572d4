"""What is measured.  Each scenario measures every target once per round, one after the other, so that whatever else
the machine does meets all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import bodies
from figures import Metric, Value, quantile
from load import Client, get_json, streams
from processes import Target, chiasm, cpu_seconds, forget_peak, peak_bytes, resident_bytes

SETTLE_SECONDS = 0.3
"""After the first tokens: connections and first chunks are not what a stream costs in the long run."""

STREAMS, RATE, STREAM_SECONDS = 10, 100, 3.0
TEXT_REQUESTS = 60
HISTORY_BYTES, HISTORY_REQUESTS = 400_000, 15
HELD = 200
LOOKS = 25
BUSY_STREAMS = 50
SMALL, LARGE = (30, 325_000), (30, 2_025_000)
"""Thirty screenshots: their count, and the bytes of each before base64.  Bodies of 13 and 81 MB."""

CPU = Metric("CPU per 1,000 chunks", "ms", most=2.5)
PER_CORE = Metric("streams per core at 100 chunks/s", "", more_is_better=True)
DELAY_P50 = Metric("chunk delay p50", "ms", most=1.6)
DELAY_P99 = Metric("chunk delay p99", "ms", most=1.2)
TTFT = Metric("first token of a text request, p50", "ms", most=3.0)
REQUEST_CPU = Metric("CPU of a text request", "ms")
HISTORY_TTFT = Metric("first token after 400 kB of history, p50", "ms", most=2.5)
HELD_KB = Metric("memory per held stream", "kB", most=40, relative=False)
NEW_13 = Metric("first token, 30 new screenshots, 13 MB", "ms", most=0.9)
AGAIN_13 = Metric("first token, the same again, 13 MB", "ms")
NEW_81 = Metric("first token, 30 new screenshots, 81 MB", "ms", most=1.0)
AGAIN_81 = Metric("first token, the same again, 81 MB", "ms")
PEAK_13 = Metric("peak memory for a 13 MB body", "× body", most=1.5, relative=False)
PEAK_81 = Metric("peak memory for an 81 MB body", "× body", most=1.5, relative=False)
TO_EYES = Metric("hop: call's end to eyes asked, p50", "ms", most=1.0, relative=False)
TO_BRAIN = Metric("hop: eyes' answer to brain asked again, p50", "ms", most=1.0, relative=False)
TO_EYES_BUSY = Metric("the same beside 50 streams: to the eyes, p50", "ms", most=3.0, relative=False)
TO_BRAIN_BUSY = Metric("the same beside 50 streams: back to the brain, p50", "ms", most=3.0, relative=False)
CALM_P99 = Metric("other streams' delay p99, calm", "ms")
STALL_P99 = Metric("other streams' delay p99, during an 81 MB body", "ms")
STALL_GROWTH = Metric("other streams' p99, during an 81 MB body / calm", "×", most=2.0, relative=False)
STALL_MOST = Metric("other streams' longest delay during an 81 MB body", "ms", most=10.0, relative=False)


@dataclass
class Field:
    """Who takes part, and what is made once for all rounds."""

    alone: Target
    floor: Target | None
    storing: Target | None
    router: Target
    folder: Path
    screenshots: dict[tuple[int, int], bodies.Screenshots] = field(default_factory=dict)

    @property
    def targets(self) -> list[Target]:
        return [target for target in (self.alone, self.floor, self.router) if target is not None]

    def pictures(self, size: tuple[int, int]) -> bodies.Screenshots:
        if size not in self.screenshots:
            self.screenshots[size] = bodies.Screenshots(*size)
        return self.screenshots[size]


Scenario = Callable[[Field], Awaitable[list[tuple[Metric, Target, float]]]]


async def chunks(there: Field) -> list[tuple[Metric, Target, float]]:
    found = []
    body = bodies.words(f"stream:{round(RATE * (STREAM_SECONDS + 5))}:{RATE}")
    for target in there.targets:
        async with streams(target, [body] * STREAMS) as delays:
            await asyncio.sleep(SETTLE_SECONDS)
            spent, begin = _cpu(target), time.monotonic()
            await asyncio.sleep(STREAM_SECONDS)
            spent, end = _cpu(target) - spent, time.monotonic()
            seen = delays.between(begin, end)
            expected = STREAMS * RATE * (end - begin)
            if len(seen) < 0.9 * expected:
                raise RuntimeError(f"{target.name} let {len(seen)} chunks through, not {expected:.0f}")
        found += [
            (DELAY_P50, target, quantile(seen, 0.5) * 1e3),
            (DELAY_P99, target, quantile(seen, 0.99) * 1e3),
        ]
        if target.pid is not None:
            found.append((CPU, target, spent / len(seen) * 1e6))
            found.append((PER_CORE, target, len(seen) / spent / RATE))
    return found


async def ttft(there: Field) -> list[tuple[Metric, Target, float]]:
    found = []
    body = bodies.words("stream:3:0")
    for target in there.targets:
        with Client(target) as client:
            client.first_token(body)
            spent = _cpu(target)
            taken = [client.first_token(body) for _ in range(TEXT_REQUESTS)]
            spent = _cpu(target) - spent
        found.append((TTFT, target, quantile(taken, 0.5) * 1e3))
        if target.pid is not None:
            found.append((REQUEST_CPU, target, spent / TEXT_REQUESTS * 1e3))
    return found


async def history(there: Field) -> list[tuple[Metric, Target, float]]:
    found = []
    body = bodies.history("stream:3:0", HISTORY_BYTES)
    for target in there.targets:
        with Client(target) as client:
            client.first_token(body)
            taken = [client.first_token(body) for _ in range(HISTORY_REQUESTS)]
        found.append((HISTORY_TTFT, target, quantile(taken, 0.5) * 1e3))
    return found


async def held(there: Field) -> list[tuple[Metric, Target, float]]:
    """Chiasm in a process of its own each time: streams that have gone leave memory behind, which new ones would use
    again and seem to cost nothing."""
    found = []
    with chiasm(there.alone.port, there.folder, name="chiasm-fresh") as fresh:
        for target, shown in ((there.floor, there.floor), (fresh, there.router)):
            if target is not None and target.pid is not None and shown is not None:
                found.append((HELD_KB, shown, await _held_kilobytes(target, target.pid)))
    return found


async def _held_kilobytes(target: Target, pid: int) -> float:
    body = bodies.words("hold")
    async with streams(target, [body] * 10):  # what the first streams of all bring in is not theirs
        pass
    await asyncio.sleep(SETTLE_SECONDS)
    before = resident_bytes(pid)
    async with streams(target, [body] * HELD):
        await asyncio.sleep(SETTLE_SECONDS)
        return (resident_bytes(pid) - before) / HELD / 1000


async def images(there: Field) -> list[tuple[Metric, Target, float]]:
    found = []
    for size, new, again in ((SMALL, NEW_13, AGAIN_13), (LARGE, NEW_81, AGAIN_81)):
        body = there.pictures(size).body("stream:3:0")
        for target in [*there.targets, *([there.storing] if there.storing else [])]:
            for metric in (new, again):
                with Client(target) as client:
                    found.append((metric, target, client.first_token(body) * 1e3))
    return found


async def peak(there: Field) -> list[tuple[Metric, Target, float]]:
    """In a process of its own each time: what an allocator keeps from earlier requests would hide the peak."""
    found = []
    for size, metric in ((SMALL, PEAK_13), (LARGE, PEAK_81)):
        body = there.pictures(size).body("stream:3:0")
        small = bodies.Screenshots(1, 10_000).body("stream:3:0")
        with chiasm(there.alone.port, there.folder, name="chiasm-fresh") as target, Client(target) as client:
            assert target.pid is not None
            client.first_token(bodies.words("stream:3:0"))
            client.first_token(small)
            before = resident_bytes(target.pid)
            forget_peak(target.pid)
            client.first_token(body)
            found.append((metric, there.router, (peak_bytes(target.pid) - before) / len(body)))
    return found


async def hop(there: Field) -> list[tuple[Metric, Target, float]]:
    """In a process of its own each time: one that was sent many images describes them while nobody looks."""
    with chiasm(there.alone.port, there.folder, name="chiasm-fresh") as fresh:
        found = await _look(there, fresh, TO_EYES, TO_BRAIN)
        body = bodies.words(f"stream:{RATE * 30}:{RATE}")
        async with streams(fresh, [body] * BUSY_STREAMS):
            await asyncio.sleep(SETTLE_SECONDS)
            found += await _look(there, fresh, TO_EYES_BUSY, TO_BRAIN_BUSY)
    return found


async def _look(there: Field, fresh: Target, to_eyes: Metric, to_brain: Metric) -> list[tuple[Metric, Target, float]]:
    pictures = bodies.Screenshots(1, 10_000)

    def ask(times: int) -> None:
        with Client(fresh) as client:
            for _ in range(times):
                client.first_token(pictures.body("look"))

    await asyncio.to_thread(ask, 1)
    get_json(there.alone, "/hops")
    await asyncio.to_thread(ask, LOOKS)
    told = get_json(there.alone, "/hops")
    if not len(told["to_eyes"]) == len(told["to_brain"]) == LOOKS:
        raise RuntimeError(f"{LOOKS} looks were asked for, the eyes saw {len(told['to_eyes'])}")
    return [
        (metric, there.router, quantile(told[name], 0.5) * 1e3)
        for metric, name in ((to_eyes, "to_eyes"), (to_brain, "to_brain"))
    ]


async def stall(there: Field) -> list[tuple[Metric, Target, float]]:
    """What others feel while one client sends 81 MB.  The sender is a thread that only waits for its socket."""
    found = []
    large = there.pictures(LARGE).body("stream:3:0")
    body = bodies.words(f"stream:{RATE * 30}:{RATE}")
    for target in there.targets:

        def send(target: Target = target) -> None:
            with Client(target) as client:
                client.first_token(large)

        async with streams(target, [body] * STREAMS) as delays:
            await asyncio.sleep(SETTLE_SECONDS)
            begin = time.monotonic()
            await asyncio.sleep(1.0)
            middle = time.monotonic()
            await asyncio.to_thread(send)
            end = time.monotonic()
            await asyncio.sleep(0.2)
        calm, during = delays.between(begin, middle), delays.between(middle, end + 0.05)
        found += [
            (CALM_P99, target, quantile(calm, 0.99) * 1e3),
            (STALL_P99, target, quantile(during, 0.99) * 1e3),
            (STALL_GROWTH, target, quantile(during, 0.99) / quantile(calm, 0.99)),
            (STALL_MOST, target, max(during) * 1e3),
        ]
    return found


def _cpu(target: Target) -> float:
    return 0.0 if target.pid is None else cpu_seconds(target.pid)


SCENARIOS: dict[str, Scenario] = {
    "chunks": chunks,
    "ttft": ttft,
    "history": history,
    "held": held,
    "images": images,
    "peak": peak,
    "hop": hop,
    "stall": stall,
}


async def run(there: Field, names: list[str], rounds: int, say: Callable[[str], None]) -> list[Value]:
    values: list[Value] = []
    for number in range(1, rounds + 1):
        for name in names:
            say(f"round {number} of {rounds}: {name}")
            values += [
                Value(metric, target.name, number, amount) for metric, target, amount in await SCENARIOS[name](there)
            ]
    return values
