"""The last prompt of each conversation as it was made, beside what the client had sent: for people who want to know why
a brain said what it said (`router.admin`).

It is a room of memory, of one process, and small: never in the store, never in a log, never a picture.  What a client
sent and what the brain got hold the same words but in a few messages, so those alone are held twice.  Everything is
one string of JSON: what a request shares with others would otherwise live on in here, and be counted by nobody.

A conversation or an image that was deleted is gone from here too: whoever shows a prompt says which table he sees it
by, and one that was made before a deletion is dropped.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cache.table import ImageTable
from router.protocol.ledger import KeptTable, with_table

MOST = 200
"""Conversations: more than anybody looks at before the next request comes."""

MOST_BYTES = 64 * 2**20

LONGEST = 8 * 2**20
"""Of one prompt, so that some stay whatever one client sends; two million tokens are as much."""

PIXELS = "[pixels]"
"""What stands here where a brain with eyes got a picture."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One message as the brain got it."""

    message: Mapping[str, Any]
    of: int | None
    """Which of the client's it is, by index; `None`: the client has none of it."""
    same: bool
    """As the client sent it."""
    table: str = ""
    """The image table at its end."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Both sides of one request."""

    client: Sequence[Mapping[str, Any]]
    """In outline (`router.protocol.wire_format`), `[picture #3]` in the places of images."""
    pictures: Mapping[int, Sequence[int]]
    """The numbers of the images that stand in a message, by its index in `client`."""
    picture_bytes: int
    """Of all of them, as the client sent them."""
    sent: Sequence[Sent]
    answers: Sequence[int]
    """The indexes of the client's messages in whose places hidden turns stand."""
    tools: Sequence[str]
    """Ours, by the names under which they were offered."""


@dataclass(frozen=True, slots=True)
class LastPrompt:
    """`at`: seconds since 1970.  `body`: the JSON of a `Prompt`; empty where it was too long to be kept."""

    at: float
    request_id: str
    brain: str
    wire: str
    generation: str
    deleted: int
    body: bytes

    def read(self) -> Prompt | None:
        if not self.body:
            return None
        held = orjson.loads(self.body)
        client = held["client"]
        sent = [Sent(client[of] if same else message, of, same, table) for message, of, same, table in held.pop("sent")]
        pictures = {int(index): numbers for index, numbers in held.pop("pictures").items()}
        return Prompt(client, pictures, held["picture_bytes"], sent, held["answers"], held["tools"])


class LastPrompts:
    """Of this process."""

    def __init__(
        self,
        *,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.time,
        noted: Callable[[str, str], None] | None = None,
    ) -> None:
        """`noted` is told the tenant and the key of a conversation that has a newer prompt."""
        self._most = most
        self._most_bytes = most_bytes
        self._clock = clock
        self._noted = noted
        self._held: OrderedDict[tuple[str, str], LastPrompt] = OrderedDict()
        self.bytes_held = 0

    def __len__(self) -> int:
        return len(self._held)

    def note(
        self,
        tenant: str,
        key: str,
        table: ImageTable,
        body: Callable[[], bytes],
        *,
        request_id: str,
        brain: str,
        wire: str,
    ) -> None:
        """`body`: of `written`; asked only where the conversation is one that anybody can look at."""
        if not table.kept:
            return
        self.drop(tenant, key)
        made = LastPrompt(self._clock(), request_id, brain, wire, table.generation, len(table.deleted), body())
        self._held[tenant, key] = made
        self.bytes_held += len(made.body)
        while len(self._held) > self._most or self.bytes_held > self._most_bytes:
            self.drop(*next(iter(self._held)))
        if self._noted is not None:
            self._noted(tenant, key)

    def of(self, tenant: str, key: str, table: ImageTable) -> LastPrompt | None:
        """`table`: as it is now."""
        held = self._held.get((tenant, key))
        if held is None:
            return None
        if (held.generation, held.deleted) != (table.generation, len(table.deleted)):
            self.drop(tenant, key)
            return None
        return held

    def drop(self, tenant: str, key: str) -> None:
        """What was deleted is not to be seen here either."""
        held = self._held.pop((tenant, key), None)
        self.bytes_held -= len(held.body) if held is not None else 0


def written(
    client: Sequence[Any],
    history: Sequence[Any],
    sent: Sequence[Any],
    *,
    came: Sequence[Any],
    pictures: Mapping[int, Sequence[int]],
    picture_bytes: int,
    answers: Collection[int],
    tables: Mapping[int, KeptTable],
    tools: Sequence[str],
) -> bytes:
    """A `Prompt` as JSON; empty where it cannot be kept.

    `client`: what is to be shown of the client's messages; `came`: the same as they came.  `history`: the same with
    words in the images' places, before anything was put between them.  `sent`: all of it, as the brain gets it.
    """
    places = {id(message): index for index, message in enumerate(history)}
    with_tables = [(with_table(history[index], table.text), index, table.text) for index, table in tables.items()]
    entries: list[tuple[Any, int | None, bool, str]] = []
    for message in sent:
        of, table = places.get(id(message)), ""
        if of is None:
            of, table = next(((index, text) for one, index, text in with_tables if one == message), (None, ""))
        same = of is not None and not table and history[of] is came[of]
        entries.append((None if same else _without_pixels(message), of, same, table))
    held = {
        "client": list(map(_without_pixels, client)),
        "pictures": {str(index): numbers for index, numbers in pictures.items()},
        "picture_bytes": picture_bytes,
        "sent": entries,
        "answers": sorted(answers),
        "tools": tools,
    }
    try:
        body = orjson.dumps(held, default=_nothing, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError:  # half a surrogate pair, a number beyond 64 bits, nested too deep
        return b""
    return body if len(body) <= LONGEST else b""


def _nothing(value: object) -> None:
    """Marks by which a format knows its messages again are no part of what was said."""


def _without_pixels(message: Any) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list) or not any(_is_picture(part) for part in content):
        return message
    words = {"type": "text", "text": PIXELS}
    return {**message, "content": [words if _is_picture(part) else part for part in content]}


def _is_picture(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "image_url"
