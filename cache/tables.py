"""Keeps each conversation's image table in a store, so that a rival's change is never lost and no number is ever given
twice.

A table holds the numbers given last.  Older ones move out into records of their own *before* the table without them
is exchanged, so at every moment each number stands somewhere, wherever a process is killed.  Since a number never
changes, each process remembers those it has met.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from cache.documents import Documents, Foreign
from cache.remembered import Remembered
from cache.store import Store, StoreError
from cache.table import ImageTable

A = TypeVar("A")

_VERSION = 2
"""Form 1 had no version in front of it; a table of that form begins anew."""

_REMEMBERED = 50_000
"""Numbers remembered by one process, some 250 bytes each."""

_TRUSTED_SECONDS = 3600.0
"""For so long a number that was met is taken to be still in the store.  Afterwards it is asked for, which counts as a
use, and put there again if it is gone: a store forgets what is longest unused."""

_ATTEMPTS = 8
"""Each is lost only to a rival that moved 128 numbers out of the table in the meantime."""

log = logging.getLogger("chiasm.cache")

Wanted = Sequence[tuple[str, int | None]]
"""Images by digest, each with the client's own number for it."""

Then = Callable[[ImageTable, list[int], set[int]], A]
"""Told the table, the numbers of the images in their order, and which of them are new."""


Changed = Callable[[str, str, ImageTable], None]
"""Told the tenant, the conversation and its table."""


@dataclass(frozen=True, slots=True)
class Moved:
    """How many images of a table a change has numbered, loaded as new ones, brought back, and forgotten."""

    new: int
    loaded: int
    back: int
    forgotten: int


class _Standing:
    """What a table held, to be compared with what a change has made of it."""

    __slots__ = ("_gaps", "_images", "_loaded", "_next")

    def __init__(self, table: ImageTable) -> None:
        self._images, self._loaded = len(table), frozenset(table.loaded)
        self._next, self._gaps = table.next, table.gaps  # the list is replaced, never changed

    def moved_to(self, table: ImageTable) -> Moved:
        arrived = [number for number in table.loaded if number not in self._loaded]
        back = sum(map(self._had, arrived))
        gone = sum(number not in table.loaded and number not in table.deleted for number in self._loaded)
        return Moved(len(table) - self._images, len(arrived) - back, back, gone)

    def _had(self, number: int) -> bool:
        return number < self._next and not any(first <= number <= last for first, last in self._gaps)


_UNMOVED = Moved(0, 0, 0, 0)


class _MovedMeanwhile(Exception):
    """A rival moved numbers out of the table after we looked for them there."""


class Tables:
    """A conversation is named by its tenant and its key."""

    def __init__(
        self,
        store: Store,
        *,
        ttl: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        changed: Changed | None = None,
        moved: Callable[[Moved], None] | None = None,
    ) -> None:
        """`changed` is told of every table that this process has changed and kept, `moved` of how many of its images
        that concerns; they must not wait."""
        self._documents = Documents(store, ImageTable, kind="image table", version=_VERSION, empty=new_table, ttl=ttl)
        self._store = store
        self._ttl = ttl
        self._clock = clock
        self._changed = changed
        self._moved = moved
        self._known: Remembered[_Known] = Remembered(_REMEMBERED)

    async def get(self, tenant: str, conversation: str) -> ImageTable:
        """The table as it is kept; an empty one where there is none or the store fails."""
        table = await self._documents.get(_key(tenant, conversation))
        if table is None:
            table = new_table()
            table.kept = False
        return table

    async def read(self, tenant: str, conversation: str) -> ImageTable | None:
        """The table as it is kept; `None` where there is none.  Raises `StoreError`."""
        try:
            return self._documents.read(await self._store.get(_key(tenant, conversation)))
        except Foreign as error:
            raise StoreError(str(error)) from None

    async def read_many(self, places: Sequence[tuple[str, str]]) -> list[ImageTable | None]:
        """As `read` for each tenant and key, in their order; `None` also for what cannot be read."""
        values = await self._store.get_many([_key(tenant, conversation) for tenant, conversation in places])
        return [self._documents.readable(value) for value in values]

    async def at(self, where: str) -> ImageTable | None:
        """The table at this place; `None` if there is none any more.  Raises `StoreError`.

        Who keeps something there asks afterwards: what came in beside a deletion has to go by itself.
        """
        tenant, conversation, generation = where.split("/")
        table = await self.read(tenant, conversation)
        return table if table is not None and table.generation == generation else None

    async def change(self, tenant: str, conversation: str, change: Callable[[ImageTable], A]) -> tuple[ImageTable, A]:
        """Change the table in one step, as `Documents.change`."""
        moved = False
        counted = _UNMOVED

        def watched(table: ImageTable) -> A:
            nonlocal moved, counted
            before, standing = _looks_of(table), _Standing(table)
            answer = change(table)
            moved = _looks_of(table) != before
            counted = standing.moved_to(table) if moved else _UNMOVED
            return answer

        table, answer, kept = await self._documents.attempt(_key(tenant, conversation), watched)
        table.kept = kept
        if kept and moved and self._changed is not None:
            self._changed(tenant, conversation, table)
        if kept and self._moved is not None and counted != _UNMOVED:
            self._moved(counted)
        return table, answer

    async def number(
        self, tenant: str, conversation: str, wanted: Wanted, then: Then[A]
    ) -> tuple[ImageTable, list[int], A]:
        """The numbers of these images, new ones where they have none; and in the same step `then`.

        Where the store cannot say which number an image has, it gets one for this request only: see
        `ImageTable.kept`.
        """
        for _ in range(_ATTEMPTS):
            seen = await self.get(tenant, conversation)
            try:
                elsewhere = await self._elsewhere(place(tenant, conversation, seen), seen, wanted)
            except StoreError as error:
                log.warning("the numbers of images could not be read: %s", error)
                break
            try:
                table, given = await self.change(tenant, conversation, _giving(seen, elsewhere, wanted, then))
            except _MovedMeanwhile:
                continue
            if table.kept:
                self._remember(table, [digest for digest, _ in wanted if digest not in elsewhere])
                await self._move_out(tenant, conversation, table)
            return table, *given
        else:
            log.warning("numbers were moved out of the image table %d times in a row; not kept", _ATTEMPTS)
        seen.kept = False
        return seen, *_give(seen, self._remembered(seen, wanted), wanted, then)

    async def _elsewhere(self, where: str, table: ImageTable, wanted: Wanted) -> dict[str, int]:
        """The numbers that moved out of the table.  Raises `StoreError`."""
        known = self._remembered(table, wanted)
        missing = _not_in(table, wanted)
        asked = [digest for digest in missing if digest not in known or self._is_due(table, digest)]
        values = await self._store.get_many([_number_key(where, digest) for digest in asked]) if asked else []
        lost: dict[str, int] = {}
        for digest, value in zip(asked, values, strict=True):
            number = int(value) if value is not None and value.isdigit() and len(value) < _DIGITS else None
            if number is not None and number in table:
                known[digest] = number
            elif digest in known:
                lost[digest] = known[digest]
            if digest in known:
                self._known.put(_known_key(table, digest), (known[digest], self._clock()))
        try:
            await self._put(where, lost)
        except StoreError as error:
            log.warning("numbers of images could not be kept: %s", error)
        return known

    def _remembered(self, table: ImageTable, wanted: Wanted) -> dict[str, int]:
        entries = {digest: self._known.get(_known_key(table, digest)) for digest in _not_in(table, wanted)}
        return {digest: entry[0] for digest, entry in entries.items() if entry is not None}

    def _is_due(self, table: ImageTable, digest: str) -> bool:
        entry = self._known.get(_known_key(table, digest))
        return entry is None or self._clock() - entry[1] > _TRUSTED_SECONDS

    def _remember(self, table: ImageTable, digests: Iterable[str]) -> None:
        for digest in digests:
            self._known.put(_known_key(table, digest), (table.recent[digest], self._clock()))

    async def _move_out(self, tenant: str, conversation: str, table: ImageTable) -> None:
        moving = table.overflow()
        if not moving:
            return
        try:
            await self._put(place(tenant, conversation, table), moving)
        except StoreError as error:
            log.warning("numbers of images could not be kept: %s", error)
            return  # they stay where they are

        def change(now: ImageTable) -> None:
            if now.generation == table.generation:
                now.move_out(moving)

        await self.change(tenant, conversation, change)

    async def _put(self, where: str, numbers: Mapping[str, int]) -> None:
        for digest, number in numbers.items():
            await self._store.put(_number_key(where, digest), b"%d" % number, ttl=self._ttl)


def _looks_of(table: ImageTable) -> tuple[int, ...]:
    """What somebody who watches a table can see of it."""
    pinned = sum(image.pinned for image in table.loaded.values())
    return table.next, table.stamp, pinned, table.looks, table.errors


def new_table() -> ImageTable:
    return ImageTable(generation=secrets.token_hex(8))


def place(tenant: str, conversation: str, table: ImageTable) -> str:
    """Where the records of this conversation stand."""
    return f"{tenant}/{conversation}/{table.generation}"


_Given: TypeAlias = tuple[list[int], A]
_Known: TypeAlias = tuple[int, float]
"""A number, and when it was last seen in the store, in seconds of the clock."""

_DIGITS = 12


def _giving(
    seen: ImageTable, elsewhere: Mapping[str, int], wanted: Wanted, then: Then[A]
) -> Callable[[ImageTable], _Given[A]]:
    """A change of a table; `elsewhere` was looked up by what was `seen` of it."""

    def change(table: ImageTable) -> _Given[A]:
        if (table.moved_out or seen.moved_out) and _moves(table) != _moves(seen):
            raise _MovedMeanwhile
        return _give(table, elsewhere, wanted, then)

    return change


def _give(table: ImageTable, elsewhere: Mapping[str, int], wanted: Wanted, then: Then[A]) -> _Given[A]:
    before = {*table.recent, *elsewhere}
    numbers = [elsewhere[digest] if digest in elsewhere else table.give(digest, want) for digest, want in wanted]
    new = {number for (digest, _), number in zip(wanted, numbers, strict=True) if digest not in before}
    return numbers, then(table, numbers, new)


def _moves(table: ImageTable) -> tuple[str, int]:
    """Two tables of which these are equal have the same numbers elsewhere."""
    return table.generation, table.moved_out


def _not_in(table: ImageTable, wanted: Wanted) -> list[str]:
    """Images whose numbers may stand elsewhere."""
    if not table.moved_out:
        return []
    return [digest for digest in dict.fromkeys(digest for digest, _ in wanted) if digest not in table.recent]


def _key(tenant: str, conversation: str) -> str:
    return f"table/{tenant}/{conversation}"


def _number_key(where: str, digest: str) -> str:
    return f"number/{where}/{digest}"


def _known_key(table: ImageTable, digest: str) -> str:
    return f"{table.generation}/{digest}"
