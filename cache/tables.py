"""Keeps each conversation's image table in a store, so that a rival's change is never lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from cache.store import Store, StoreError
from cache.table import ImageRecord, ImageTable

T = TypeVar("T")

_RECORDS = TypeAdapter(list[ImageRecord])
_ATTEMPTS = 32
"""More rivals than this on one conversation at one moment is not traffic but a fault."""

log = logging.getLogger("chiasm.cache")


class Tables:
    def __init__(self, store: Store, *, ttl: float | None = None) -> None:
        self._store = store
        self._ttl = ttl

    async def get(self, tenant: str, conversation: str) -> ImageTable:
        """The table as it is kept; an empty one where there is none or the store fails."""
        try:
            return _read(await self._store.get(_key(tenant, conversation)))
        except StoreError as error:
            log.warning("the image table could not be read: %s", error)
            return ImageTable()

    async def update(self, tenant: str, conversation: str, change: Callable[[ImageTable], T]) -> tuple[ImageTable, T]:
        """Change the table in one step; `change` may be asked again on a newer table when a rival was faster.

        A store that fails costs the memory of it and nothing else: the change is made on what the request tells.
        """
        key = _key(tenant, conversation)
        old: bytes | None = None
        try:
            for _ in range(_ATTEMPTS):
                old = await self._store.get(key)
                table = _read(old)
                answer = change(table)
                new = _RECORDS.dump_json(list(table))
                if old is None:
                    if not len(table) or await self._store.add(key, new, ttl=self._ttl):
                        return table, answer
                elif new == old or await self._store.swap(key, old, new, ttl=self._ttl):
                    return table, answer
            log.warning(
                "the image table was changed by others %d times in a row; going on without keeping it", _ATTEMPTS
            )
        except StoreError as error:
            log.warning("the image table could not be kept: %s", error)
        table = _read(old)  # as it was last seen; the change must not be made twice on the same rows
        return table, change(table)


def _key(tenant: str, conversation: str) -> str:
    return f"table/{tenant}/{conversation}"


def _read(value: bytes | None) -> ImageTable:
    if value is None:
        return ImageTable()
    try:
        records = _RECORDS.validate_json(value)
    except ValidationError:
        log.warning("an image table in the store is damaged; starting it anew")
        return ImageTable()
    return ImageTable({record.number: record for record in records})
