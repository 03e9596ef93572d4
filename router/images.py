"""The images of one conversation, as the tools see them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from cache.blobs import Blobs
from cache.store import StoreError
from cache.table import ImageRecord, ImageTable
from cache.tables import Tables
from router.conversation import Conversation

log = logging.getLogger("chiasm.images")

_KEPT_ANSWER = 2000
"""Characters of an answer kept in the table: enough to stand in for an image whose bytes are gone."""


class ConversationImages:
    """A number names an image of this conversation's table, as it stood when the request came, or nothing at all: what
    a number means must not change while the brain works with it."""

    def __init__(self, conversation: Conversation, table: ImageTable, *, blobs: Blobs, tables: Tables) -> None:
        self._conversation = conversation
        self._table = table
        self._blobs = blobs
        self._tables = tables

    def records(self) -> Mapping[int, ImageRecord]:
        return self._table.records

    async def data(self, number: int) -> bytes | None:
        record = self._table.get(number)
        if record is None:
            return None
        try:
            return await self._blobs.get(self._conversation.tenant, record.digest)
        except StoreError as error:
            log.warning("an image could not be read: %s", error)
            return None

    async def looked(self, numbers: Sequence[int], task: str, answer: str) -> None:
        """Noted on the rows of these very images: while the store failed, a number may have meant another one."""
        digests = [self._table.records[number].digest for number in numbers]

        def note(table: ImageTable) -> None:
            for digest in digests:
                if (record := table.of_digest(digest)) is not None:
                    record.looks += 1
                    record.last_task = task[:_KEPT_ANSWER]
                    record.last_answer = answer[:_KEPT_ANSWER]

        await self._tables.update(self._conversation.tenant, self._conversation.key, note)
