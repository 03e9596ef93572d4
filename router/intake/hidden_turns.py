"""Keeps what `router.protocol.ledger` puts back: hidden turns, and image tables that were shown.

    turn/<where>/<full place>    the turn itself
    near/<where>/<near place>    the full place that it means; empty where it means two.  So has the place of its calls
    shown/<where>/<n>/<full place>   an image table, shown after n images were deleted

Once a message was found to have a hidden turn or none, that stands for this process: what is decided about a history
must not change while the conversation goes on, or the prompt's past would.

A mixed turn is kept at once, with the calls that are still to be answered, and completed when they are.  Meanwhile the
client may return to another worker, or to another machine: that one waits while the first renews its *lease*, and
carries the calls out itself when it does not (the process died).  Whoever completes the turn first decides what was
seen; the other takes its words.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from cache.documents import Documents
from cache.remembered import Remembered
from cache.store import Store, StoreError
from cache.table import ImageTable
from router.protocol.ledger import DELETED, KeptTable, KeptTurn, Place
from router.protocol.outline import is_thought
from router.protocol.pictures import result_messages
from tools.arguments import IMAGE_KEYS, first_of, image_numbers, parse_arguments
from tools.call import ToolCall, ToolResult, VisionUsage

log = logging.getLogger("chiasm.ledger")

Run = Callable[[Sequence[ToolCall]], Awaitable[Sequence[ToolResult]]]

_VERSION = 1
_LEASE_SECONDS = 6.0
"""So long after its last sign of life the process that ran a look counts as dead; clocks of replicas may differ by a
second or two."""
_RENEW_SECONDS = 2.0
_POLL_SECONDS = 0.2
_REMEMBERED_BYTES = 64 * 2**20
_REMEMBERED_MEANINGS = 20_000
_REMEMBERED_ENTRY = 300
"""What an entry costs beside its text."""


@dataclass(slots=True)
class _Kept:
    """A turn as it stands in the store."""

    said: list[dict[str, Any]]
    results: list[dict[str, Any]] = field(default_factory=list)
    looks: list[list[int]] = field(default_factory=list)
    stamp: int = 0
    pending: list[tuple[str, str, str]] = field(default_factory=list)
    """Calls (id, name, arguments) of a mixed turn that have no results yet."""
    lease: float = 0.0
    """Until when somebody is at work on them, in seconds since 1970."""
    cost: tuple[int, int, int] = (0, 0, 0)
    """What looking cost after the answer was over: calls, prompt tokens, completion tokens."""


@dataclass(frozen=True, slots=True)
class Woven:
    """What was found for a history, by index of its messages."""

    turns: Mapping[int, KeptTurn]
    tables: Mapping[int, KeptTable]
    costs: Mapping[int, VisionUsage]
    """What the looks of mixed turns cost after their answers."""


class ImageTables(Protocol):
    async def at(self, where: str) -> ImageTable | None:
        """The image table at this place, if it is still there.  Raises `StoreError`."""


class _Gone(Exception):
    """The turn was deleted meanwhile."""


class HiddenTurns:
    """`where` is a conversation's place in the store; `clock` gives seconds since 1970."""

    def __init__(
        self,
        store: Store,
        *,
        ttl: float | None = None,
        clock: Callable[[], float] = time.time,
        tables: ImageTables | None = None,
    ) -> None:
        """`tables`: where it is seen that something was deleted while a request was at work."""
        self._store = store
        self._image_tables = tables
        self._ttl = ttl
        self._clock = clock
        self._turns = Documents(store, _Kept, kind="hidden turn", version=_VERSION, empty=_none, ttl=ttl)
        self._tables = Documents(
            store, KeptTable, kind="image table that was shown", version=_VERSION, empty=_none, ttl=ttl
        )
        self._known: Remembered[_Kept | KeptTable | None] = Remembered(_REMEMBERED_BYTES)
        self._meant: Remembered[str] = Remembered(_REMEMBERED_MEANINGS)
        """The full places of turns that were found by their near ones, by key."""
        self._running: dict[str, asyncio.Task[_Kept]] = {}

    async def close(self) -> None:
        """The process ends: looks that still run are lost, and whoever needs them runs them again."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Keeping

    async def keep(self, where: str, place: Place, turn: KeptTurn) -> None:
        """A turn that is complete."""
        kept = _Kept(_dicts(turn.said), _dicts(turn.results), [list(look) for look in turn.looks], turn.stamp)
        await self._put(where, place, kept)

    async def begin(self, where: str, place: Place, turn: KeptTurn, calls: Sequence[ToolCall], run: Run) -> None:
        """A mixed turn: keep it, and let `calls` be answered while the client works."""
        pending = [(call.id, call.name, call.arguments) for call in calls]
        looks = [list(look) for look in turn.looks]
        kept = _Kept(_dicts(turn.said), [], looks, turn.stamp, pending, self._clock() + _LEASE_SECONDS)
        key = _turn_key(where, place.full)
        if (before := self._running.pop(key, None)) is not None:
            before.cancel()  # the same answer given once more: the client answers the calls of this one
        await self._put(where, place, kept)
        self._start(key, kept, run)

    async def keep_plain(self, where: str, place: Place) -> None:
        """An answer without hidden turns: where one with hidden turns was given before, in the same words, it is what
        the server saw last; and the near place means neither."""
        key = _turn_key(where, place.full)
        self._known.pop(key)
        try:
            await self._store.delete(key)
            for near in _near_keys(where, place):
                if (means := await self._store.get(near)) and means != place.full.encode():
                    await self._store.put(near, b"", ttl=self._ttl)
        except StoreError as error:
            log.warning("a hidden turn could not be taken back: %s", error)

    async def seen_at(self, where: str, place: Place, stamp: int) -> None:
        """What this turn looked at was loaded again at `stamp`, before the brain was shown it for the first time."""

        def note(kept: _Kept) -> None:
            kept.stamp = max(kept.stamp, stamp)

        key = _turn_key(where, place.full)
        if isinstance(kept := self._known.get(key), _Kept):
            note(kept)
        with suppress(_Gone):
            await self._turns.change(key, note)

    async def show(self, where: str, place: Place, table: KeptTable, *, deletions: int = 0) -> None:
        """An image table that the brain sees from now on at this place, until another image is deleted: every table
        may name it.  `deletions`: how many were so far."""
        key = _table_key(where, deletions, place.full)
        self._known.put(key, table, _REMEMBERED_ENTRY + len(table.text))
        try:
            await self._store.put(key, self._tables.write(table), ttl=self._ttl)
            deleted = await self._deleted(where)
            if deleted is None or len(deleted) != deletions:
                await self._store.delete(key)
        except StoreError as error:
            log.warning("an image table could not be kept: %s", error)

    async def _put(self, where: str, place: Place, kept: _Kept) -> None:
        key = _turn_key(where, place.full)
        try:
            self._remember(key, kept)
            await self._store.put(key, self._turns.write(kept), ttl=self._ttl)
            for near in _near_keys(where, place):
                if not await self._store.add(near, place.full.encode(), ttl=self._ttl):
                    means = await self._store.get(near)
                    if means is not None and means != place.full.encode():
                        await self._store.put(near, b"", ttl=self._ttl)
            await self._erase_deleted(where, key, _near_keys(where, place))
        except StoreError as error:
            log.warning("a hidden turn could not be kept: %s", error)

    async def erase(self, where: str, number: int) -> None:
        """Take out what was asked about an image that was deleted and what was seen in it, and every table, since each
        may name it.  Raises `StoreError`."""
        async for key in self._store.keys(f"turn/{where}/"):
            with suppress(_Gone):
                await self._turns.change_for_sure(key, lambda kept: _erase(kept, {number}))
        async for key in self._store.keys(f"shown/{where}/"):
            await self._store.delete(key)

    async def _deleted(self, where: str) -> Collection[int] | None:
        """The images that are deleted by now; `None`: all there were.  Raises `StoreError`."""
        if self._image_tables is None:
            return ()
        table = await self._image_tables.at(where)
        return None if table is None else table.deleted

    async def _erase_deleted(self, where: str, key: str, near: Sequence[str] = ()) -> None:
        """Who deletes goes by what is there; what was kept meanwhile goes here.  Raises `StoreError`."""
        deleted = await self._deleted(where)
        if deleted is None:
            for gone in (key, *near):
                await self._store.delete(gone)
        elif deleted:
            with suppress(_Gone):
                await self._turns.change_for_sure(key, lambda kept: _erase(kept, deleted))

    # Finding

    async def find(
        self,
        where: str,
        turns_at: Mapping[int, Place],
        tables_at: Mapping[int, Place],
        run: Run,
        *,
        deleted: Collection[int] = (),
    ) -> Woven:
        """What was kept for a history: turns at the places of its answers, tables at those of its other messages, each
        by index.  `run`: carries out calls that nobody answered.  `deleted`: images of which nothing is to be told."""
        keys = {index: _turn_key(where, place.full) for index, place in turns_at.items()}
        await self._learn(where, turns_at, keys)
        turns: dict[int, KeptTurn] = {}
        costs: dict[int, VisionUsage] = {}
        for index, key in keys.items():
            kept = self._known.get(key)
            if not isinstance(kept, _Kept):
                continue
            if kept.pending:
                meant = self._meant.get(key)
                kept = await self._completed(key if meant is None else _turn_key(where, meant), kept, run)
                self._remember(key, kept)
            if deleted:
                _erase(kept, deleted)  # what this process remembers may be older
            turns[index] = KeptTurn(kept.said, kept.results, kept.looks, kept.stamp)
            if any(kept.cost):
                costs[index] = VisionUsage(*kept.cost)
        return Woven(turns, await self._shown(where, tables_at, len(deleted)), costs)

    async def _learn(self, where: str, trail: Mapping[int, Place], keys: Mapping[int, str]) -> None:
        """Read what is not known yet, and remember what is not there."""
        asked = [index for index, key in keys.items() if key not in self._known]
        if not asked:
            return
        try:
            full = await self._store.get_many([keys[index] for index in asked])
            lost = [index for index, value in zip(asked, full, strict=True) if value is None]
            near = await self._near(where, trail, keys, lost)
        except StoreError as error:
            log.warning("hidden turns could not be read: %s", error)
            return  # nothing is decided
        values: dict[int, bytes | None] = dict(zip(asked, full, strict=True)) | near
        for index in asked:
            value = values[index]
            kept = None if value is None else self._turns.readable(value)
            self._remember(keys[index], kept)

    async def _near(
        self, where: str, trail: Mapping[int, Place], keys: Mapping[int, str], lost: Sequence[int]
    ) -> dict[int, bytes | None]:
        """The turns of those that have lost their own place.  One turn stands once in a history: who says "Done." again
        has not looked again."""
        near = [(index, key) for index in lost for key in _near_keys(where, trail[index])]
        means = await self._store.get_many([key for _, key in near])
        standing = {place.full for place in trail.values()}
        standing.update(full for key in keys.values() if (full := self._meant.get(key)) is not None)
        found: dict[int, str] = {}
        for (index, _), value in zip(near, means, strict=True):
            full = (value or b"").decode("ascii", "replace")
            if full and full not in standing and index not in found:
                found[index] = full
                standing.add(full)
                self._meant.put(keys[index], full)
        values = await self._store.get_many([_turn_key(where, full) for full in found.values()])
        return dict(zip(found, values, strict=True))

    async def _shown(self, where: str, trail: Mapping[int, Place], deletions: int) -> dict[int, KeptTable]:
        keys = {index: _table_key(where, deletions, place.full) for index, place in trail.items()}
        asked = [key for key in keys.values() if key not in self._known]
        try:
            values = await self._store.get_many(asked)
        except StoreError as error:
            log.warning("image tables could not be read: %s", error)
            values, asked = [], []
        for key, value in zip(asked, values, strict=True):
            table = None if value is None else self._tables.readable(value)
            self._known.put(key, table, _REMEMBERED_ENTRY + len(value or b""))
        found = {index: self._known.get(key) for index, key in keys.items()}
        return {index: table for index, table in found.items() if isinstance(table, KeptTable)}

    def _remember(self, key: str, kept: _Kept | None) -> None:
        words = [] if kept is None else [*kept.said, *kept.results]
        self._known.put(key, kept, _REMEMBERED_ENTRY + sum(len(str(message)) for message in words))

    # Turns that are still to be completed

    def _start(self, key: str, kept: _Kept, run: Run) -> asyncio.Task[_Kept]:
        task = asyncio.create_task(self._complete(key, kept, run))
        self._running[key] = task
        task.add_done_callback(lambda done: self._running.pop(key, None) if self._running.get(key) is done else None)
        return task

    async def _completed(self, key: str, kept: _Kept, run: Run) -> _Kept:
        """The turn with its results: ours if we are at work on them, else another's, else ours all the same."""
        while True:
            if (task := self._running.get(key)) is not None:
                try:
                    return await asyncio.shield(task)
                except asyncio.CancelledError:
                    if not task.cancelled() or _leaving():
                        raise
                    continue  # the same answer was given once more, and that one's calls are at work now
            now = await self._turns.get(key)
            if now is None:  # lost, or the store is out of reach
                now = kept
            if not now.pending:
                self._remember(key, now)
                return now
            if now.lease < self._clock():
                return await asyncio.shield(self._start(key, now, run))
            await asyncio.sleep(_POLL_SECONDS)

    async def _complete(self, key: str, kept: _Kept, run: Run) -> _Kept:
        renewing = asyncio.create_task(self._renew(key))
        try:
            results = await run([ToolCall(*call) for call in kept.pending])
        finally:
            renewing.cancel()
        cost = VisionUsage()
        for result in results:
            cost += result.usage
        done = replace(
            kept,
            results=result_messages(results),
            looks=[*kept.looks, *(list(result.images) for result in results)],
            stamp=max([kept.stamp, *(result.stamp for result in results)]),
            pending=[],
            lease=0.0,
            cost=(cost.calls, cost.prompt_tokens, cost.completion_tokens),
        )

        def complete(now: _Kept) -> _Kept:
            if not now.pending:
                return now  # somebody was faster, and their words may be in a prompt already
            for name in ("results", "looks", "stamp", "pending", "lease", "cost"):
                setattr(now, name, getattr(done, name))
            return now

        with suppress(_Gone):  # deleted, or never kept: it lives as long as this process
            done = (await self._turns.change(key, complete))[1]
        try:
            await self._erase_deleted(key.removeprefix("turn/").rpartition("/")[0], key)
        except StoreError as error:
            log.warning("it could not be seen whether an image was deleted: %s", error)
        self._remember(key, done)
        return done

    async def _renew(self, key: str) -> None:
        def renew(now: _Kept) -> None:
            now.lease = self._clock() + _LEASE_SECONDS

        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            try:
                await self._turns.change(key, renew)
            except _Gone:
                return


def _erase(kept: _Kept, deleted: Collection[int]) -> None:
    """Of our calls that name one of these images, what they asked and what they were told."""
    results = [message for message in [*kept.said, *kept.results] if message.get("role") == "tool"]
    looks = [*kept.looks, *([[]] * len(results))]
    told = {str(result["tool_call_id"]): (result, set(look)) for result, look in zip(results, looks, strict=False)}
    for message in kept.said:
        for call in message.get("tool_calls") or ():
            if call["id"] not in told:
                continue  # the client's
            result, look = told[call["id"]]
            named = image_numbers(first_of(parse_arguments(call["function"]["arguments"]), IMAGE_KEYS))
            if not look.union(named).isdisjoint(deleted):
                call["function"]["arguments"] = json.dumps({"image": ", ".join(map(str, named)), "task": "deleted"})
                result["content"] = DELETED
    erased = False
    for message in kept.said:
        if erased and message.get("role") == "assistant":  # what the brain thought of it; its words the client has too
            for name in [name for name in message if name.startswith("reasoning")]:
                del message[name]
            if isinstance(parts := message.get("content"), list):
                message["content"] = [part for part in parts if not is_thought(part)]
        erased = erased or message.get("content") == DELETED


def _leaving() -> bool:
    """Whether it is ourselves who were cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _none() -> Any:
    raise _Gone


def _dicts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [dict(message) for message in messages]


def _turn_key(where: str, full: str) -> str:
    return f"turn/{where}/{full}"


def _near_keys(where: str, place: Place) -> list[str]:
    return [f"near/{where}/{near}" for near in (place.near, place.calls) if near]


def _table_key(where: str, deletions: int, full: str) -> str:
    return f"shown/{where}/{deletions}/{full}"
