"""`GET /admin/api/events`: what changes, as it changes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from cache.store import StoreError
from router.admin.door import SECURITY_HEADERS, Call
from router.admin.errors import NotFound
from router.admin.events import POLL_SECONDS, Listener
from router.admin.service import Admin
from router.response import EventStream, unless_gone

_NOTICE_SECONDS = 1.0
"""Until an end of the server is noticed."""

_RETRY = b"retry: 3000\n"


async def stream(call: Call, conversation: str | None) -> None:
    """Writes the whole answer.  Raises `NotFound`, `Overloaded`, `StoreError` before it begins."""
    admin = call.admin
    before = None if conversation is None else await admin.stamp(conversation)
    if conversation is not None and before is None:
        raise NotFound("there is no such conversation")
    with admin.bus.listen(conversation) as listener:
        out = EventStream(
            call.send,
            {**SECURITY_HEADERS, "x-request-id": call.request_id},
            heartbeat=lambda: b": heartbeat\n\n",
            interval=admin.settings.server.heartbeat_seconds,
        )
        polling = None if conversation is None else asyncio.create_task(_poll(admin, conversation, before, listener))

        async def tell() -> None:
            await out.write(_RETRY + b"event: ready\ndata: {}\n\n")
            async with out.alive():
                while not listener.dropped and not _stopping(call.scope):
                    event = await listener.next(_NOTICE_SECONDS)
                    if event is not None:
                        await out.write(event.encoded())
            last = b"event: dropped\ndata: {}\n\n" if listener.dropped else b""
            await out.finish(last)

        try:
            await unless_gone(call.receive, tell())
        finally:
            if polling is not None:
                polling.cancel()
                await asyncio.gather(polling, return_exceptions=True)


async def _poll(admin: Admin, conversation: str, before: tuple[int, ...] | None, listener: Listener) -> None:
    """What other processes do to this conversation."""
    while True:
        await asyncio.sleep(POLL_SECONDS)
        with suppress(StoreError):
            now = await admin.stamp(conversation)
            if now != before:
                before = now
                change = "deleted" if now is None else "changed"
                listener.tell(admin.bus.event("conversation", conversation, change=change))


def _stopping(scope: Any) -> bool:
    """Whether the process has been told to end, which waits for answers that run; this one would run for ever."""
    return bool(getattr(scope["state"]["readiness"], "draining", False))
