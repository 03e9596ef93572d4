"""Pages of long lists.

A page costs a bounded amount of work however long the list is and whatever is looked for: after `MOST_READ` records it
ends, shorter than was asked for, and says where to go on.  What arrives meanwhile moves nothing: images stand in the
order of their numbers, conversations in the order in which they began, the newest first, and a cursor is a place in
that order.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import orjson

from cache.tables import Tables
from router.errors import BadRequest
from router.intake.conversations import Conversations

A = TypeVar("A")
B = TypeVar("B")

MOST_READ = 1000
"""Records for one page: some 50 ms where each is looked through."""

CHUNK = 100
"""Records read in one go; between two the loop serves others."""

_NO_CURSOR = "the cursor is none that was given: begin without one"


def cursor_of(*place: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(place)).rstrip(b"=").decode()


def place_of(cursor: str, *kinds: type) -> list[Any]:
    """What the cursor was made of.  Raises `BadRequest`."""
    try:
        place = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise BadRequest(_NO_CURSOR, param="cursor") from None
    if not isinstance(place, list) or list(map(type, place)) != list(kinds):
        raise BadRequest(_NO_CURSOR, param="cursor")
    return place


async def page(
    ahead: Sequence[A], limit: int, read: Callable[[Sequence[A]], Awaitable[Iterable[B | None]]], *, filtered: bool
) -> tuple[list[B], int | None]:
    """Up to `limit` entries, and the index of the last one looked at if there are more behind it.

    `ahead`: all that may still come, in order.  `read`: what each is shown as; `None`: it is not wanted, or not there
    any more.
    """
    found: list[B] = []
    at = 0
    while at < min(len(ahead), MOST_READ):
        missing = limit - len(found)
        chunk = ahead[at : min(at + (CHUNK if filtered else missing), MOST_READ)]
        for one in await read(chunk):
            at += 1
            if one is not None:
                found.append(one)
                if len(found) == limit:
                    return found, at - 1 if at < len(ahead) else None
        await asyncio.sleep(0)
    return found, at - 1 if at < len(ahead) else None


Begun = tuple[float, str, str]
"""When a conversation began, its tenant and its key."""


class Order:
    """The conversations there are, in their order.

    When one began never changes, so each table is read for it once in the life of the process.
    """

    def __init__(self, conversations: Conversations, tables: Tables) -> None:
        self._conversations = conversations
        self._tables = tables
        self._began: dict[tuple[str, str], float] = {}
        self._lock = asyncio.Lock()

    async def all(self) -> list[Begun]:
        """The newest first.  Raises `StoreError`."""
        async with self._lock:  # two who come first must not read everything twice
            there = [place async for place in self._conversations.all()]
            unknown = [place for place in there if place not in self._began]
            for at in range(0, len(unknown), CHUNK):
                chunk = unknown[at : at + CHUNK]
                for place, table in zip(chunk, await self._tables.read_many(chunk), strict=True):
                    if table is not None:
                        self._began[place] = table.created
            self._began = {place: self._began[place] for place in there if place in self._began}
            return sorted(
                ((began, *place) for place, began in self._began.items()),
                key=lambda one: (-one[0], one[1], one[2]),
            )

    def behind(self, order: Sequence[Begun], cursor: str | None) -> Sequence[Begun]:
        """Raises `BadRequest`."""
        if cursor is None:
            return order
        began, tenant, key = place_of(cursor, float, str, str)
        return [one for one in order if (-one[0], one[1], one[2]) > (-began, tenant, key)]
