"""What is asked beside the exchanges of `benchmarks.soak`: by people at the admin page, scripts, scrapers, balancers.

Each visit is one request over a connection of its own, to a door that the dice choose, about a conversation that is
there.  What changes a table (forgetting, loading, pinning, deleting) does so while exchanges of the same conversation
are under way.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from tests.brain import Asked, Script, whole
from tests.live import Line, post

API: Final = "/admin/api/conversations"
PAGE: Final = "/admin/conversations"

FOUND: Final = (200,)
READY: Final = (200, 503)
"""Not where the brain has failed five times in a row."""

THERE: Final = (200, 404)
"""Another visit may have deleted it meanwhile."""

AT_HAND: Final = (200, 404, 409)
"""Or its bytes are gone, or this process never sent a prompt of it."""

DOORS: Final[dict[tuple[str, str], tuple[int, tuple[int, ...]]]] = {
    ("GET", "/metrics"): (6, FOUND),
    ("GET", "/healthz"): (3, FOUND),
    ("GET", "/readyz"): (3, READY),
    ("GET", "/v1/models"): (2, FOUND),
    ("POST", "/v1/messages/count_tokens"): (3, (200, 503)),
    ("POST", "/tokenize"): (2, (200, 503)),
    ("GET", "/admin"): (3, FOUND),
    ("GET", "/admin/conversations.csv"): (1, FOUND),
    ("GET", "/admin/api/stats"): (2, FOUND),
    ("GET", "/admin/api/openapi.json"): (1, FOUND),
    ("GET", "/admin/api/events"): (2, FOUND),
    ("GET", "/admin/api/events?conversation={id}"): (2, THERE),
    ("GET", f"{PAGE}/{{id}}"): (2, THERE),
    ("GET", f"{PAGE}/{{id}}/images.csv"): (1, THERE),
    ("GET", f"{PAGE}/{{id}}/prompt"): (2, THERE),
    ("GET", f"{PAGE}/{{id}}/prompt.json"): (1, AT_HAND),
    ("GET", f"{PAGE}/{{id}}/images/1"): (1, THERE),
    ("GET", f"{PAGE}/{{id}}/images/1/picture"): (1, THERE),
    ("GET", f"{API}?q=soak"): (1, FOUND),
    ("GET", f"{API}/{{id}}/images?details=true"): (2, THERE),
    ("GET", f"{API}/{{id}}/images/1/thumbnail"): (2, AT_HAND),
    ("POST", f"{API}/{{id}}/images/1/forget"): (1, AT_HAND),
    ("POST", f"{API}/{{id}}/images/1/load"): (1, AT_HAND),
    ("POST", f"{API}/{{id}}/images/1/pin"): (1, AT_HAND),
    ("POST", f"{API}/{{id}}/images/1/unpin"): (1, AT_HAND),
    ("POST", f"{API}/{{id}}/images/1/analyze"): (1, (*AT_HAND, 502)),
    ("DELETE", f"{API}/{{id}}"): (1, THERE),
}
"""How often, and with which statuses it may answer.  404 of an image also where a conversation has shown none yet."""

BODIES: Final[dict[str, Any]] = {
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "How long is this?"}]},
    "/tokenize": {"prompt": "How long is this?"},
    f"{API}/{{id}}/images/1/analyze": {"task": "What is in it?"},
}

ANSWERS: Final = {
    "/v1/messages/count_tokens": {"input_tokens": 5},
    "/tokenize": {"count": 5, "tokens": [1, 2, 3, 4, 5]},
}
"""Of the brain."""


def told(asked: Asked) -> Script | None:
    """What the brain says to a visit that comes through to it."""
    return whole(ANSWERS[asked.path]) if asked.path in ANSWERS else None


@dataclass(slots=True)
class Visitors:
    """`results` counts the statuses of each door."""

    port: int
    chance: random.Random
    results: Counter[tuple[str, int]] = field(default_factory=Counter)
    known: list[str] = field(default_factory=list)
    """Ids of conversations."""

    async def visit(self) -> None:
        """Raises AssertionError for an answer that this door must not give."""
        method, path = self.chance.choices(list(DOORS), [often for often, _ in DOORS.values()])[0]
        if "{id}" in path and not self.known:
            method, path = "GET", f"{API}?q=soak"
        body = orjson.dumps(BODIES[path]) if path in BODIES else b""
        there = path.replace("{id}", self.chance.choice(self.known)) if "{id}" in path else path
        line = Line(self.port, self._request(method, there, body))
        async with line:
            if "/events" in path:
                await self._listen(line)
            else:
                await line.rest()
            status = int(line.raw.split()[1])
            self.results[f"{method} {path}", status] += 1
            assert status in DOORS[method, path][1], (method, there, bytes(line.raw[:500]))
            if path == f"{API}?q=soak":
                self.known = [one["id"] for one in (await line.rest()).json["data"]]

    async def _listen(self, line: Line) -> None:
        """For a moment, and then away without a word."""
        await line.until(b"\r\n\r\n")
        with suppress(TimeoutError):
            async with asyncio.timeout(self.chance.uniform(0, 0.5)):
                while await line.more():
                    pass

    @staticmethod
    def _request(method: str, path: str, body: bytes) -> bytes:
        return post(body, path=path).replace(b"POST", method.encode(), 1)
