"""Keeps what is known of each image: one record an image, so that a look costs the same however many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from cache.documents import Documents, Foreign
from cache.record import ImageRecord
from cache.store import Store

A = TypeVar("A")

_VERSION = 1


class NoRow(Exception):
    """There is no row to change: it was deleted meanwhile, or never kept."""


class Rows:
    """`where` is a conversation's place in the store: `<tenant>/<conversation>/<generation>`."""

    def __init__(self, store: Store, *, ttl: float | None = None) -> None:
        self._documents = Documents(
            store, ImageRecord, kind="row of an image", version=_VERSION, empty=_no_row, ttl=ttl
        )
        self._store = store
        self._ttl = ttl

    async def get(self, where: str, number: int) -> ImageRecord | None:
        return await self._documents.get(_key(where, number))

    async def get_many(self, where: str, numbers: Sequence[int]) -> dict[int, ImageRecord]:
        """Those that are there, by number."""
        found = await self._documents.get_many([_key(where, number) for number in numbers])
        return {number: row for number, row in zip(numbers, found, strict=True) if row is not None}

    async def read_many(self, where: str, numbers: Sequence[int]) -> dict[int, ImageRecord]:
        """As `get_many`.  Raises `StoreError`."""
        values = await self._store.get_many([_key(where, number) for number in numbers])
        rows = [self._documents.readable(value) for value in values]
        return {number: row for number, row in zip(numbers, rows, strict=True) if row is not None}

    async def add(self, where: str, row: ImageRecord) -> bool:
        """Keep a new row; says whether it was new.  One that is there but damaged is none.  Raises `StoreError`."""
        key, new = _key(where, row.number), self._documents.write(row)
        if await self._store.add(key, new, ttl=self._ttl):
            return True
        old = await self._store.get(key)
        try:
            damaged = old is not None and self._documents.read(old) is None
        except Foreign:
            return False
        return damaged and old is not None and await self._store.swap(key, old, new, ttl=self._ttl)

    async def add_many(
        self, where: str, rows: Sequence[ImageRecord], *, before: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """As `add` for each; `before`: records that are to be there before any of these rows.  Raises `StoreError`."""
        new = [(_key(where, row.number), self._documents.write(row)) for row in rows]
        added = (await self._store.add_many([*before, *new], ttl=self._ttl))[len(before) :]
        there = [row for row, was_new in zip(rows, added, strict=True) if not was_new]
        readable = await self.get_many(where, [row.number for row in there]) if there else {}
        for row in there:
            if row.number not in readable:
                await self.add(where, row)

    async def change(self, where: str, number: int, change: Callable[[ImageRecord], A]) -> A | None:
        """Change the row if there is one, else answer `None`: a row that was deleted must not come back."""
        try:
            return (await self._documents.change(_key(where, number), change))[1]
        except NoRow:
            return None

    async def change_for_sure(self, where: str, number: int, change: Callable[[ImageRecord], A]) -> A | None:
        """As `change`.  Raises `StoreError` where it could not be kept."""
        try:
            return await self._documents.change_for_sure(_key(where, number), change)
        except NoRow:
            return None

    async def read(self, where: str, number: int) -> ImageRecord | None:
        """As `get`.  Raises `StoreError`."""
        return self._documents.readable(await self._store.get(_key(where, number)))

    async def delete(self, where: str, number: int) -> bool:
        """Raises `StoreError`."""
        return await self._store.delete(_key(where, number))


def _no_row() -> ImageRecord:
    raise NoRow


def _key(where: str, number: int) -> str:
    return f"row/{where}/{number}"
