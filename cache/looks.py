"""What was seen is remembered: the same question about the same images is put to the eyes once.

**The same question.**  A look is the images (by digest, in order), the parts of them, the task, its context, who
looks, and how the question is worded; the tenant stands outside of it, in the key, so that nobody can find out by
asking, or by how long it takes, what somebody else's images were asked.  Task and context count without regard to
white space and to how accented letters are composed.  Case counts: "find the word Polish" is a question of its own.

**The number of an image** is not part of the question: the same image is #1 in one conversation and #4 in another.
But an answer may hold it ("[Image #4]: the part ...", "#1 is older than #2"), and would then be wrong elsewhere.  So
there are two places for an answer: one for everybody in the tenant, for what was said of a single image without
naming any, and one for those to whom the images have the very same numbers.

**Once, also while it is being answered.**  Those who ask the same at the same time share one *flight*: one task that
looks into the store, has the eyes look, and keeps what they said.  Three rules:

* A flight lasts as long as somebody waits for it.  The last one who leaves before there is an answer ends it, and
  waits until it has ended; whoever asks after that begins a new one.  Once the eyes have answered, it is not ended
  any more: keeping the answer takes a moment, and it was paid for.
* All who wait get what it brought, a failure too.  A failure is not kept, so the next one to ask tries again.
* One of them pays: the first that is still there to take it.  Who has left is charged nothing.

**First come, first kept.**  An answer that is there is never replaced, and who has looked meanwhile (another process
had the same question) tells what was kept first, not what they saw: it stands in somebody's history already.

Losing the store costs looks and nothing else.  Nothing of a question or an answer goes into the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from cache.composed import composed
from cache.store import Store, StoreError

log = logging.getLogger("chiasm.cache")

VERSION = 1
"""Of a record.  One of another version is taken for unknown, and replaced by the next answer."""

MOST_KEPT = 64 * 1024
"""Bytes of a record.  An answer of 2048 tokens has about 10,000; a store keeps records of this size well."""

_NAMES_AN_IMAGE = re.compile(r"#\s*\d")

_PREFIX = 16
"""Hex digits of an image's digest that stand in the key, so that what was seen in it can be found and deleted."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """One question to the eyes, as far as it matters to the answer."""

    digests: tuple[str, ...]
    numbers: tuple[int, ...]
    """What the conversation calls them, in the same order."""
    task: str
    context: str
    regions: tuple[tuple[int, int, int, int] | None, ...]
    """Left, top, right and bottom of the part of each image, in its pixels; `None`: all of it."""
    eyes: str
    """Everything about who looks that changes an answer."""
    wording: str
    """The version of the words in which the eyes are asked."""


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """What a look brought: `outcome` for those who wait for it, and `text`, which may be told again to whoever asks
    the same; `None` where nothing may (it failed, was declined, or was cut)."""

    outcome: T
    text: str | None


@dataclass(frozen=True, slots=True)
class Told(Generic[T]):
    """What one who asked is told: `outcome` if the eyes looked (`None`: it was remembered), and the `text` to go by,
    if there is one.  `pays` is true for exactly one of those who shared a look."""

    outcome: T | None
    text: str | None
    pays: bool


@dataclass(slots=True, eq=False)
class _Flight:
    task: asyncio.Task[Told[Any]]
    waiting: int = 0
    answered: bool = False
    paid: bool = False


class Looks:
    """Answers in `store`, kept for `ttl` seconds; flights in this process."""

    def __init__(self, store: Store, ttl: float | None = None) -> None:
        self._store = store
        self._ttl = ttl
        self._flights: dict[str, _Flight] = {}

    def __repr__(self) -> str:
        return f"<Looks {len(self._flights)} in flight>"

    async def ask(self, tenant: str, look: Look, see: Callable[[], Awaitable[Seen[T]]]) -> Told[T]:
        """The answer to `look`: remembered, or what `see` brings, which is called at most once for all who ask now.

        `see` runs in a task of its own and is cancelled when nobody waits any more.  What it raises, all of them get.
        Those who ask the same must bring the same `T`.  Raises `ValueError` for a tenant that cannot be a word of a
        key.
        """
        key = _key(tenant, look, look.numbers)
        flight = self._flights.get(key)
        if flight is None or flight.task.done():
            flight = self._begin(key, tenant, look, see)
        flight.waiting += 1
        try:
            await asyncio.wait({flight.task})
        except asyncio.CancelledError:
            flight.waiting -= 1
            if not flight.waiting:
                await self._end(key, flight)
            raise
        told: Told[T] = flight.task.result()
        pays = told.outcome is not None and not flight.paid
        flight.paid = True
        return replace(told, pays=pays)

    async def forget(self, tenant: str, digest: str) -> None:
        """Delete all that was seen in an image, alone or beside others.  Raises `StoreError`."""
        async for key in self._store.keys(f"look/{tenant}/"):
            if digest[:_PREFIX] in key.split("/")[2].split("-"):
                await self._store.delete(key)

    def _begin(self, key: str, tenant: str, look: Look, see: Callable[[], Awaitable[Seen[T]]]) -> _Flight:
        async def fly() -> Told[T]:
            places = _places(tenant, look)
            if (text := await self._kept(*places)) is not None:
                return Told(None, text, pays=False)
            seen = await see()
            flight.answered = True
            if not seen.text:
                return Told(seen.outcome, None, pays=False)
            place = places[0] if _NAMES_AN_IMAGE.search(seen.text) else places[-1]
            return Told(seen.outcome, await self._keep(place, seen.text), pays=False)

        def landed(task: asyncio.Task[Told[T]]) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]
            if not task.cancelled():
                task.exception()  # when all have left, nobody else asks for it

        flight = _Flight(asyncio.create_task(fly()))
        flight.task.add_done_callback(landed)
        self._flights[key] = flight
        return flight

    async def _end(self, key: str, flight: _Flight) -> None:
        if not flight.answered:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.task.cancel()
        await asyncio.wait({flight.task})

    async def _kept(self, *places: str) -> str | None:
        """At the first of these places where there is one."""
        try:
            values = await self._store.get_many(places)
        except StoreError as error:
            log.warning("a look could not be read: %s", error)
            return None
        return next((text for value in values if value is not None and (text := _read(value)) is not None), None)

    async def _keep(self, place: str, text: str) -> str:
        """Keep `text` unless there is an answer already; the one to go by."""
        value = json.dumps({"version": VERSION, "text": text}).encode()
        if len(value) > MOST_KEPT:
            return text
        try:
            if await self._store.add(place, value, ttl=self._ttl):
                return text
            if (first := await self._kept(place)) is not None:
                return first
            await self._store.put(place, value, ttl=self._ttl)  # damaged, of another version, or gone by now
        except StoreError as error:
            log.warning("a look could not be kept: %s", error)
        return text


def _places(tenant: str, look: Look) -> tuple[str, ...]:
    """Where the answer may be kept: first under its images' numbers, then, for a single image, without."""
    numbered = _key(tenant, look, look.numbers)
    return (numbered, _key(tenant, look, ())) if len(look.numbers) == 1 else (numbered,)


def _key(tenant: str, look: Look, numbers: tuple[int, ...]) -> str:
    if not tenant or "/" in tenant:
        raise ValueError(f"a tenant is one word of a key, not {tenant!r}")
    # JSON keeps the parts apart: no task can be written so that it looks like another task with a context.
    parts = [
        look.digests,
        numbers,
        composed(look.task),
        composed(look.context),
        look.regions,
        look.eyes,
        look.wording,
    ]
    images = "-".join(digest[:_PREFIX] for digest in look.digests)
    return f"look/{tenant}/{images}/{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


def _read(value: bytes) -> str | None:
    """The answer in a record; `None` for one that is damaged or of a version that is not ours."""
    try:
        record = json.loads(value)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict) and record.get("version") == VERSION:
        text = record.get("text")
        if isinstance(text, str) and text:
            return text
    log.info("a look in the store is damaged or of another version; it counts as unknown")
    return None
