"""Whether the time that an answer takes tells one key what another has.

    python -m benchmarks.tenants                     # 500 probes, about half a minute
    python -m benchmarks.tenants 2000

`chiasm serve` in a process of its own, one worker, two keys, its store on disk, between a scripted brain and scripted
eyes that answer at once.  In each probe the owner shows a picture that nobody has shown before and has it looked at;
then the other key shows a picture and asks the same about it: by the toss of a coin the owner's, or one that is as
large and new.  The figure is the chance that, of one probe of each kind, the one with the owner's picture was the
quicker (the area under the ROC curve): 0.50 says that time tells nothing, 0.00 or 1.00 that it tells all.

As a control the same is measured where the second one is the owner himself, whose pictures and looks are known again:
a figure near 0.50 there would say that this measures nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import struct
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import orjson
import uvloop

from tests.brain import Asked, Brain, Script, looks, says
from tests.eyes import Eyes, sees
from tests.live import Line, Options, picture, post, service_process, shown, user

OWNER, OTHER = "key-of-the-owner", "key-of-another"
ALLOWED: Final = 0.05
"""From one half."""

WARM: Final = 20
"""Probes that do not count: the first of all bring in what is loaded once."""


def new_picture(name: str) -> bytes:
    """The same few pixels with a comment of its own, and some kilobytes of it."""
    comment = b"Comment\0" + name.encode() + random.Random(name).randbytes(6000).hex().encode()
    chunk = struct.pack(">I", len(comment)) + b"tEXt" + comment + struct.pack(">I", zlib.crc32(b"tEXt" + comment))
    card = picture(1)
    return card[:33] + chunk + card[33:]


def brain(asked: Asked) -> Script:
    return says("So.") if asked.messages[-1]["role"] == "tool" else says(looks(1, "What is it?"))


@dataclass(slots=True)
class Times:
    known: list[float] = field(default_factory=list)
    new: list[float] = field(default_factory=list)

    def area(self) -> float:
        """Of two, one of each, how often the known one is the quicker."""
        wins = sum((a < b) + 0.5 * (a == b) for a in self.known for b in self.new)
        return wins / (len(self.known) * len(self.new))

    def error(self) -> float:
        """The standard error of the area where there is no difference."""
        n, m = len(self.known), len(self.new)
        return float(((n + m + 1) / (12 * n * m)) ** 0.5)

    def told(self, name: str) -> str:
        return (
            f"{name}: area {self.area():.3f} (standard error {self.error():.3f}), "
            f"median {median(self.known) * 1000:.2f} ms where the owner has it ({len(self.known)} probes), "
            f"{median(self.new) * 1000:.2f} ms where nobody has ({len(self.new)})"
        )


async def shows(port: int, key: str, image: bytes, conversation: str) -> float:
    """Seconds from the request to the end of its answer."""
    body = orjson.dumps({"messages": [user("What is it?", shown(image))], "stream": True})
    headers = {"x-api-key": key, "x-chiasm-conversation": conversation}
    async with Line(port, post(body, headers=headers)) as line:
        begun = time.perf_counter()
        got = await line.rest()
        assert got.status == 200, got
        return time.perf_counter() - begun


async def measured(port: int, count: int, chance: random.Random) -> tuple[Times, Times]:
    """Of the other key, and of the control."""
    other, control = Times(), Times()
    for number in range(-WARM, count):
        for times, key in ((other, OTHER), (control, OWNER)):
            known = chance.random() < 0.5
            name = f"{number} {key}"
            image = new_picture(name)
            await shows(
                port, OWNER, image if known else new_picture(f"{name} besides"), f"owner-{name}".replace(" ", "-")
            )
            seconds = await shows(port, key, image, f"second-{name}".replace(" ", "-"))
            if number >= 0:
                (times.known if known else times.new).append(seconds)
    return other, control


async def main(count: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="chiasm-tenants-") as name:
        async with Brain() as server, Eyes() as eyes:
            server.answers = brain
            eyes.answers = lambda asked: sees("A cat.")
            store = {"kind": "disk", "path": f"{name}/store"}
            tables = Options(server={"api_keys": [OWNER, OTHER]}, store=store).tables(server.url, eyes.url)
            async with service_process(Path(name), tables) as service:
                other, control = await measured(service.port, count, random.Random(5))
                service.terminate()
                await service.ended()
    print(other.told("another key"))
    print(control.told("the owner himself (control)"))
    return abs(other.area() - 0.5) <= ALLOWED and control.area() > 0.5 + 2 * ALLOWED


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Whether time tells one key what another has.")
    arguments.add_argument("probes", type=int, nargs="?", default=500)
    wanted = arguments.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        good = runner.run(main(wanted.probes))
    print("verdict:", "time tells nothing" if good else "NOT within 0.50 ± 0.05, or the control shows nothing")
    sys.exit(0 if good else 1)
