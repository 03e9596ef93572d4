"""What a request costs when much is remembered: against the same request to a store that holds next to nothing.

    python -m benchmarks.memory_growth
    python -m benchmarks.memory_growth --images 100000

Four stores on disk, in one run: one conversation with one image; one with as many as the image table lists, most of
them forgotten, so that each request here is shown a table; one with very many images; very many conversations with one
image each.  Measured is the processor time of this process for making a client's request into
the brain's (threads of the store and of pictures included), as a median over rounds that take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from cache.disk import DiskStore
from cache.record import ImageRecord
from cache.rows import Rows
from cache.table import ImageTable
from cache.tables import Tables, place
from router.config import TextSettings
from router.intake.conversation import identify
from router.protocol.chat.format import ChatCompletions
from router.protocol.image_list import MOST_LISTED
from tests.conversing import Inside, screenshot
from tests.live import assistant, user

ROUNDS = 7
REQUESTS = 30
"""Of each kind in a round."""

BATCH = 100
"""Images that come with one request while a store is filled."""

KINDS = ("words only", "an image that is known", "a new image")


async def fill(store: DiskStore, session: str, images: int) -> None:
    """A conversation as it stands after so many images; their bytes are not needed here."""
    tables, rows = Tables(store), Rows(store)
    whose = identify("local", {"x-session-id": session}, {}, "")
    for begin in range(0, images, BATCH):
        digests = [_digest(session, number) for number in range(begin, min(begin + BATCH, images))]

        def arrive(table: ImageTable, numbers: list[int], new: set[int]) -> None:
            table.created = table.created or 1.0
            for number in numbers:
                table.arrive(number, tool=True, tokens=40)
            table.forget(list(table.loaded)[:-20])

        wanted = [(digest, None) for digest in digests]
        table, numbers, _ = await tables.number(whose.tenant, whose.key, wanted, arrive)
        where = place(whose.tenant, whose.key, table)
        for number, digest in zip(numbers, digests, strict=True):
            row = ImageRecord(number, digest, "image/png", 8, 8, 80, "tool", description="A page of a shop.", looks=1)
            await rows.add(where, row)


def _digest(session: str, number: int) -> str:
    return hashlib.sha256(f"{session} {number}".encode()).hexdigest()


def request(kind: str, seed: int) -> dict[str, Any]:
    """A history of some length, at its end what the kind says."""
    history: list[Any] = [{"role": "system", "content": "You are helpful."}, user("Look.", screenshot(0))]
    for number in range(20):
        history += [assistant(f"Answer {number}."), user(f"Question {number}.")]
    history.append(assistant("Yes?"))
    match kind:
        case "words only":
            history[1] = user("Look.")
            history.append(user(f"Go on {seed}."))
        case "an image that is known":
            history.append(user(f"Go on {seed}."))
        case _:
            history.append(user("And this?", screenshot(seed)))
    return {"model": "brain", "messages": history}


async def spent(site: Inside, headers: Mapping[str, str], kind: str, first: int) -> float:
    """Milliseconds of processor time for one request."""
    preparation = site.rooms.preparation
    brain = site.rooms.brains[0]
    settings = TextSettings(name="brain", base_url="http://brain.test/v1")
    bodies = [orjson.dumps(request(kind, first + number)) for number in range(REQUESTS)]
    begun = time.process_time()
    for body in bodies:
        await preparation.prepare(
            ChatCompletions(),
            orjson.loads(body),
            None,
            settings=settings,
            eyes=brain.eyes,
            tenant="local",
            headers=headers,
            thoughts=(),
        )
    return (time.process_time() - begun) / REQUESTS * 1000


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


async def main() -> int:
    parser = argparse.ArgumentParser(description="What a request costs when much is remembered.")
    parser.add_argument("--images", type=int, default=10_000, help="in one conversation")
    parser.add_argument("--conversations", type=int, default=10_000, help="with one image each")
    arguments = parser.parse_args()
    names = (
        "almost empty",
        f"{MOST_LISTED} images in one conversation",
        f"{arguments.images:,} images in one conversation",
        f"{arguments.conversations:,} conversations",
    )
    with tempfile.TemporaryDirectory(prefix="chiasm-growth-") as folder:
        stores = [DiskStore(Path(folder) / str(number), max_bytes=2**34) for number in range(4)]
        begun = time.monotonic()
        await fill(stores[0], "asked", 1)
        await fill(stores[1], "asked", MOST_LISTED)
        await fill(stores[2], "asked", arguments.images)
        for number in range(arguments.conversations):
            await fill(stores[3], f"other {number}", 1)
        await fill(stores[3], "asked", 1)
        print(f"filled in {time.monotonic() - begun:.0f} s\n")
        told: dict[tuple[str, str], list[float]] = {}
        sites = [await Inside(store, images={"max_loaded": 30, "keep_loaded": 20}).__aenter__() for store in stores]
        memory = resident()
        headers = {"x-session-id": "asked"}
        for round_ in range(-1, ROUNDS):
            for kind in KINDS:
                for name, site in zip(names, sites, strict=True):
                    took = await spent(site, headers, kind, (round_ + 2) * 1000)
                    if round_ >= 0:  # the first is for warming up
                        told.setdefault((name, kind), []).append(took)
        grown = resident() - memory
        for site in sites:
            await site.__aexit__(None, None, None)
        print("| store | " + " | ".join(KINDS) + " | disk |")
        print("|---|" + "---|" * (len(KINDS) + 1))
        for number, name in enumerate(names):
            amounts = [median(told[name, kind]) for kind in KINDS]
            floors = [median(told[names[0], kind]) for kind in KINDS]
            cells = [f"{a:.2f} ms, × {a / b:.2f}" for a, b in zip(amounts, floors, strict=True)]
            print(f"| {name} | " + " | ".join(cells) + f" | {on_disk(Path(folder) / str(number)) / 1e6:.1f} MB |")
        asked = (ROUNDS + 1) * len(KINDS) * REQUESTS * len(names)
        print(f"\nmemory of the process: {memory / 1e6:.0f} MB, and {grown / 1e6:.1f} MB more after {asked:,} requests")
        for store in stores:
            await store.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
