"""Looks that go on after the answer: the owned calls of mixed turns, and their turns until the client returns."""

from __future__ import annotations

import asyncio
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
        place: str,
        said: Sequence[Mapping[str, Any]],
        results: Awaitable[Sequence[ToolResult]],
    ) -> None:
        """Let `results` come while the client works; afterwards the turn can be had by `find`.

        `said`: as in `KeptTurn`.
        """
        key = _key(conversation, place)
        if key in self._running:  # the client asked the same once more; the first answer stands
            if asyncio.iscoroutine(results):
                results.close()
            return
        task = asyncio.create_task(self._finish(key, _marker(conversation), said, results))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def find(self, conversation: Conversation, places: Mapping[int, str]) -> dict[int, KeptTurn]:
        """The kept turns among these places of a history, by index; waits for looks that still run."""
        if not places or not await self._has_any(conversation):
            return {}
        turns = {index: await self._one(_key(conversation, place)) for index, place in places.items()}
        return {index: turn for index, turn in turns.items() if turn is not None}

    async def _has_any(self, conversation: Conversation) -> bool:
        """One look into the store instead of one for every call of a long history."""
        if any(key.startswith(_key(conversation, "")) for key in self._running):
            return True
        try:
            return await self._store.get(_marker(conversation)) is not None
        except StoreError:
            return False

    async def close(self) -> None:
        """The process ends: looks that still run are lost, and the brain will ask again."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _finish(
        self,
        key: str,
        marker: str,
        said: Sequence[Mapping[str, Any]],
        results: Awaitable[Sequence[ToolResult]],
    ) -> KeptTurn:
        answers = tuple(
            {"role": "tool", "tool_call_id": result.call_id, "content": result.text} for result in await results
        )
        turn = KeptTurn(tuple(said), answers)
        try:
            await self._store.put(key, orjson.dumps(asdict(turn)), ttl=self._ttl)
            await self._store.put(marker, b"1", ttl=self._ttl)
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
            return KeptTurn(fields["said"], fields["results"])
        except (StoreError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            log.warning("a mixed turn could not be read back: %s", type(error).__name__)
            return None


def _key(conversation: Conversation, place: str) -> str:
    return f"turn/{conversation.tenant}/{conversation.key}/{place}"


def _marker(conversation: Conversation) -> str:
    return f"turns/{conversation.tenant}/{conversation.key}"
