r"""Very many open streams on one worker, and clients that read slowly or not at all.

    python -m benchmarks.held                        # 1,000 streams, about two minutes
    python -m benchmarks.held 200
    python -m benchmarks.held --long 200             # one stream of 200 MB instead

`chiasm serve` in a process of its own, one worker, its store on disk; the brain and the clients are this process.

1.  *Quiet*: each stream has said one word and is silent.  What a stream costs to hold.
2.  *Flooded*: each brain has endless words, and no client reads.  What lies in the service, what lies in the kernel
    on both its sides, and when the brain is not read any more.
3.  *Slow*: half of those clients now read a little each second, the other half still nothing.  Whether the brain is
    read as fast as the clients read, and whom the service gives up, and when.
4.  *Over*: all have hung up.  What is left.  5. *Again*: as 2.  Whether what was left is used again.

The kernel's buffers decide how much is on its way: with Linux's usual ones each flooded stream takes four megabytes of
it, which for a thousand is more than the system has for all connections together.  So run it where they are small:

    unshare -rn sh -c 'ip link set lo up; sysctl -qw net.ipv4.tcp_wmem="4096 16384 131072" \
        net.ipv4.tcp_rmem="4096 16384 131072"; exec .venv/bin/python -m benchmarks.held'

In 1 to 3 a short answer is asked for beside the streams, and before there are any: somebody else must not feel them.

With `--long`, one client reads one answer of that many megabytes as fast as it can: what of an answer's length stays in
memory.  Twice: in events of 8 kB, and in events of a word each, as brains send them.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Self

import orjson
import uvloop

from tests.brain import Asked, Brain, Hangs, Script, Wire, chunk, says
from tests.eyes import Eyes
from tests.live import Line, Options, ServiceProcess, post, service_process, user

TOGETHER: Final = 50
"""Streams that are opened at once."""

REST_SECONDS: Final = 4.6
"""An idle connection to the brain may live for two seconds, and who closes them looks every two seconds."""

STILL_SECONDS: Final = 3.0
"""Nothing moved for so long: the brain is not read any more."""

MOST_SECONDS: Final = 60.0
SLOW_SECONDS: Final = 85.0
"""Longer than the service waits for a client that takes nothing."""

SLOW_BYTES: Final = 4096
"""What a slow client reads each second."""

EVENT: Final = chunk("chatcmpl-endless", {"content": "x" * 8000})
WORD: Final = chunk("chatcmpl-lasting", {"content": " word"})
END: Final = 500
"""Bytes in which the end of a stream lies."""

OTHERS: Final = 21
"""Short answers of which the median is told."""

BRAIN_BUFFER: Final = 65_536
"""The kernel's send buffer of the brain: what lies there would count as taken by the service."""


class Endless(Brain):
    async def __aenter__(self) -> Self:
        await super().__aenter__()
        assert self._server is not None
        for listening in self._server.sockets:  # connections inherit it
            with socket.fromfd(listening.fileno(), socket.AF_INET, socket.SOCK_STREAM) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BRAIN_BUFFER)
        return self


async def endless(asked: Asked, wire: Wire) -> None:
    await wire.head(200, {"content-type": "text/event-stream"})
    while True:
        await wire.send(EVENT)


def lasting(event: bytes, megabytes: int) -> Script:
    """So much of this, and a good end."""

    async def script(asked: Asked, wire: Wire) -> None:
        together = event * max(1, 16_384 // len(event))
        await wire.head(200, {"content-type": "text/event-stream"})
        for _ in range(megabytes * 1_000_000 // len(together)):
            await wire.send(together)
        await wire.send(chunk("chatcmpl-lasting", {}, finish="stop") + b"data: [DONE]\n\n")
        await wire.end()

    return script


def by_words(asked: Asked) -> Script:
    match asked.messages[-1]["content"].split():
        case ["long", megabytes]:
            return lasting(EVENT, int(megabytes))
        case ["words", megabytes]:
            return lasting(WORD, int(megabytes))
        case _:
            pass
    match asked.messages[-1]["content"]:
        case "quiet":
            return says("Hello.", Hangs())
        case "flood":
            return endless
        case _:
            return says("Hello.")


@dataclass(frozen=True, slots=True)
class Sample:
    resident: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Sample:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines if ":" in line)
        resident = int(status["VmRSS"].split()[0]) * 1024
        return cls(resident, len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status["Threads"]))


@dataclass(frozen=True, slots=True)
class Queues:
    """Bytes that lie in the kernel, by what the service is to them."""

    from_brain: int
    to_clients: int

    @classmethod
    def now(cls, brain_port: int, service_port: int) -> Queues:
        waiting = {brain_port: 0, service_port: 0}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            ports = [int(address.rpartition(":")[2], 16) for address in fields[1:3]]
            if fields[3] != "0A":  # of a listening socket these are numbers of connections
                out, into = (int(size, 16) for size in fields[4].split(":"))
                for port in waiting.keys() & set(ports):
                    waiting[port] += out + into
        return cls(waiting[brain_port], waiting[service_port])


@dataclass(slots=True)
class Streams:
    service: ServiceProcess
    brain: Endless

    def line(self, words: str) -> Line:
        body = orjson.dumps({"messages": [user(words)], "stream": True})
        return Line(self.service.port, post(body), receive_buffer=4096)

    async def open(self, stack: AsyncExitStack, count: int, words: str) -> list[Line]:
        """Each has its first word."""
        lines: list[Line] = []
        while len(lines) < count:
            some = [self.line(words) for _ in range(min(TOGETHER, count - len(lines)))]
            for line in some:
                await stack.enter_async_context(line)
            await asyncio.gather(*(line.until(b'"content":"') for line in some))
            lines += some
        return lines

    def sample(self) -> Sample:
        return Sample.of(self.service.process.pid)

    async def still(self) -> float:
        """Until the brain is not read any more; the seconds that took."""
        begun = moved = time.monotonic()
        before = -1
        while (now := time.monotonic()) - moved < STILL_SECONDS:
            sent = sum(asked.sent for asked in self.brain.asked)
            if sent != before:
                before, moved = sent, now
            if now - begun > MOST_SECONDS:
                raise RuntimeError(f"the brain is still being read after {MOST_SECONDS:g} s, {sent:,} bytes so far")
            await asyncio.sleep(0.2)
        return moved - begun

    async def other(self) -> float:
        """Seconds to the first word of a short answer to somebody else."""
        begun = time.perf_counter()
        async with self.line("short") as line:
            await line.until(b"Hello.")
            took = time.perf_counter() - begun
            await line.rest()
        return took

    async def others(self, name: str, alone: Sequence[float] = ()) -> list[float]:
        """Of several one after the other; compared with those who were alone."""
        took = sorted([await self.other() for _ in range(OTHERS)])
        ratio = f", {median(took) / median(alone):.1f} times as long as alone" if alone else ""
        print(f"    first word to somebody else {name}: median {_ms(took)}, most {_ms(took[-1:])}{ratio}", flush=True)
        return took


def _ms(seconds: Sequence[float]) -> str:
    return f"{median(seconds) * 1000:.1f} ms"


def size(amount: float) -> str:
    return f"{amount / 1000:,.0f} kB" if abs(amount) < 10e6 else f"{amount / 1e6:,.1f} MB"


def told(name: str, before: Sample, now: Sample, count: int) -> None:
    grown = now.resident - before.resident
    print(
        f"{name}: resident {size(now.resident)} ({size(grown)} more, {grown / count / 1000:.1f} kB a stream), "
        f"{now.descriptors} descriptors, {now.threads} threads",
        flush=True,
    )


async def quiet(streams: Streams, count: int) -> list[float]:
    """Answers what somebody else waited while there was nobody."""
    async with AsyncExitStack() as stack:
        await streams.open(stack, 10, "quiet")  # what the first streams of all bring in is not theirs
    await asyncio.sleep(REST_SECONDS)
    before = streams.sample()
    told("before      ", before, before, count)
    alone = await streams.others("alone")
    async with AsyncExitStack() as stack:
        await streams.open(stack, count, "quiet")
        await asyncio.sleep(1)
        told("1 quiet     ", before, streams.sample(), count)
        await streams.others("beside them", alone)
    await asyncio.sleep(REST_SECONDS)
    told("  hung up   ", before, streams.sample(), count)
    return alone


async def flooded(streams: Streams, count: int, before: Sample, alone: Sequence[float], *, again: bool = False) -> None:
    brain = streams.brain
    brain.asked.clear()
    async with AsyncExitStack() as stack:
        lines = await streams.open(stack, count, "flood")
        flooding = list(brain.asked)
        seconds = await streams.still()
        told("5 again     " if again else "2 flooded   ", before, streams.sample(), count)
        queues = Queues.now(brain.port, streams.service.port)
        sent = [asked.sent for asked in flooding]
        print(
            f"    the brain was not read any more after {seconds:.1f} s; taken from it per stream: "
            f"{size(min(sent))} to {size(max(sent))}, median {size(median(sent))}; of all {size(sum(sent))} "
            f"{size(queues.from_brain)} lie in the kernel before the service, {size(queues.to_clients)} behind it"
        )
        await streams.others("beside them", alone)
        if again:
            return
        await slow(streams, lines, flooding, before, alone)
    await asyncio.sleep(REST_SECONDS)
    told("4 over      ", before, streams.sample(), count)
    gone = sum(asked.over.is_set() for asked in flooding)
    print(f"    requests to the brain that are over: {gone} of {len(flooding)}")


async def slow(
    streams: Streams, lines: Sequence[Line], flooding: Sequence[Asked], before: Sample, alone: Sequence[float]
) -> None:
    """The even ones read."""
    read = 0
    readers = lines[::2]
    ended: list[float] = []
    begun = time.monotonic()

    async def reads(line: Line) -> None:
        nonlocal read
        while True:
            with suppress(OSError):
                if await line.more():
                    read += len(line.raw)
                    line.raw.clear()
                    await asyncio.sleep(SLOW_BYTES / 4096)
                    continue
            ended.append(time.monotonic() - begun)
            return

    async def watches(asked: Asked) -> float:
        await asked.gone.wait()
        return time.monotonic() - begun

    sent = sum(asked.sent for asked in flooding)
    reading = [asyncio.create_task(reads(line)) for line in readers]
    watching = [asyncio.create_task(watches(asked)) for asked in flooding]
    most = streams.sample()
    took: list[float] = []
    while time.monotonic() - begun < SLOW_SECONDS:
        await asyncio.sleep(5)
        took.append(await streams.other())
        most = max(most, streams.sample(), key=lambda sample: sample.resident)
    left = [task.result() for task in watching if task.done()]
    for task in [*reading, *watching]:
        task.cancel()
    await asyncio.gather(*reading, *watching, return_exceptions=True)
    told("3 slow, most", before, most, len(lines))
    more = sum(asked.sent for asked in flooding) - sent
    print(
        f"    {len(readers)} clients read {size(read)} in {SLOW_SECONDS:g} s, {size(more)} more were taken from the "
        f"brain; their connections that ended: {len(ended)}"
    )
    when = f"{min(left):.0f} to {max(left):.0f} s after 3 began" if left else "never"
    print(f"    {len(lines) - len(readers)} read nothing; given up in all: {len(left)}, {when}")
    ratio = median(took) / median(alone)
    print(
        f"    first word to somebody else: median {_ms(took)}, most {_ms([max(took)])}, {ratio:.1f} times as "
        "long as alone"
    )


async def long(streams: Streams, megabytes: int, words: str) -> None:
    """One stream, read as fast as it comes."""
    before, most, read, reads = streams.sample(), 0, 0, 0
    async with streams.line(f"{words} {megabytes}") as line:
        while not line.raw.endswith(b"0\r\n\r\n") and await line.more():
            reads += 1
            read += max(0, len(line.raw) - END)
            del line.raw[:-END]
            if reads % 64 == 0:
                most = max(most, streams.sample().resident)
        whole = b'"finish_reason":"stop"' in line.raw
    most = max(most, streams.sample().resident)
    await asyncio.sleep(REST_SECONDS)
    after = streams.sample().resident
    print(
        f"one stream in {'events of 8 kB' if words == 'long' else 'words'}, {'whole' if whole else 'cut off'} after "
        f"{size(read)}: at most {size(most - before.resident)} more resident "
        f"({(most - before.resident) / read:.2f} of what it was), {size(after - before.resident)} afterwards",
        flush=True,
    )


@asynccontextmanager
async def served() -> AsyncIterator[Streams]:
    """A fresh service, warm."""
    with tempfile.TemporaryDirectory(prefix="chiasm-held-") as name:
        async with Endless() as brain, Eyes() as eyes:
            brain.answers = by_words
            tables = Options(store={"kind": "disk", "path": f"{name}/store"}).tables(brain.url, eyes.url)
            async with service_process(Path(name), tables) as service:
                streams = Streams(service, brain)
                await streams.other()
                yield streams
                service.terminate()
                await service.ended()


async def main(count: int) -> None:
    async with served() as streams:
        alone = await quiet(streams, count)
        before = streams.sample()
        await flooded(streams, count, before, alone)
        await flooded(streams, count, before, alone, again=True)


async def main_long(megabytes: int) -> None:
    for words in ("long", "words"):
        async with served() as streams:
            for _ in range(2):  # once more: whether what was left is used again
                await long(streams, megabytes, words)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="What very many open streams hold, and whether anything is full.")
    arguments.add_argument("streams", type=int, nargs="?", default=1000)
    arguments.add_argument("--long", type=int, default=0, metavar="MB", help="one stream of so many megabytes instead")
    wanted = arguments.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * wanted.streams + 200:
        arguments.error(f"{wanted.streams} streams take more descriptors than the system allows, {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65_536, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(main_long(wanted.long) if wanted.long else main(wanted.streams)))
