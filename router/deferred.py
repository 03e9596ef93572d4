"""Looks that go on after the answer: the owned calls of mixed turns, and their turns until the client returns."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson

from cache.store import Store, StoreError
from router.conversation import Conversation
from router.protocol.ledger import KeptTurn
from tools.call import ToolResult

log = logging.getLogger("chiasm.deferred")


class DeferredTurns:
    """Holds the running looks of this process and keeps finished turns in the store."""

    def __init__(self, store: Store, *, ttl: float) -> None:
        self._store = store
        self._ttl = ttl
        self._running: dict[str, asyncio.Task[KeptTurn]] = {}

    def begin(
        self,
        conversation: Conversation,
        message: Mapping[str, Any],
        client_ids: tuple[str, ...],
        results: Awaitable[Sequence[ToolResult]],
    ) -> None:
        """Let `results` come while the client works; afterwards the turn can be had by `find`."""
        key = _key(conversation, client_ids[0])
        task = asyncio.create_task(self._finish(key, message, client_ids, results))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def find(self, conversation: Conversation, first_ids: Sequence[str]) -> dict[str, KeptTurn]:
        """The kept turns among these ids; waits for looks that still run."""
        found: dict[str, KeptTurn] = {}
        for id_ in dict.fromkeys(first_ids):
            turn = await self._one(_key(conversation, id_))
            if turn is not None:
                found[id_] = turn
        return found

    async def close(self) -> None:
        """The process ends: looks that still run are lost, and the brain will ask again."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _finish(
        self,
        key: str,
        message: Mapping[str, Any],
        client_ids: tuple[str, ...],
        results: Awaitable[Sequence[ToolResult]],
    ) -> KeptTurn:
        answers = tuple(
            {"role": "tool", "tool_call_id": result.call_id, "content": result.text} for result in await results
        )
        turn = KeptTurn(message, client_ids, answers)
        try:
            await self._store.put(key, orjson.dumps(asdict(turn)), ttl=self._ttl)
        except StoreError as error:
            log.warning("a mixed turn could not be kept: %s", error)
        return turn

    async def _one(self, key: str) -> KeptTurn | None:
        running = self._running.get(key)
        if running is not None:
            return await asyncio.shield(running)
        try:
            value = await self._store.get(key)
            if value is None:
                return None
            fields = orjson.loads(value)
            return KeptTurn(fields["message"], tuple(fields["client_ids"]), fields["results"])
        except (StoreError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            log.warning("a mixed turn could not be read back: %s", type(error).__name__)
            return None


def _key(conversation: Conversation, client_id: str) -> str:
    digest = hashlib.sha256(client_id.encode("utf-8", "surrogatepass")).hexdigest()[:40]
    return f"turn/{conversation.tenant}/{conversation.key}/{digest}"
