"""The images of one conversation, as the tools see them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from cache.blobs import Blobs
from cache.record import ImageRecord
from cache.rows import Rows
from cache.store import StoreError
from cache.table import ImageTable
from cache.tables import Tables, place
from router.intake.conversation import Conversation
from router.intake.readable import CONVERTED, ReadableBlobs
from tools.call import VisionUsage
from tools.vision.backend import VisionBusy, VisionError

log = logging.getLogger("chiasm.images")

_KEPT_ANSWER = 2000
"""Characters of an answer kept in a row: enough to stand in for an image whose bytes are gone."""

_KEPT_REASON = 200

_SHORT = 80
"""Characters of a description in the table."""


class ConversationImages:
    """For one request.  A number names an image of this conversation's table, or nothing at all.

    `brought`: the rows of the images that came with the request, as far as they are known without a store.
    """

    def __init__(
        self,
        conversation: Conversation,
        table: ImageTable,
        brought: Mapping[int, ImageRecord],
        *,
        blobs: Blobs,
        tables: Tables,
        rows: Rows,
    ) -> None:
        self._conversation = conversation
        self._table = table
        self._brought = brought
        self._blobs = blobs
        self._tables = tables
        self._rows = rows

    @property
    def tenant(self) -> str:
        return self._conversation.tenant

    @property
    def where(self) -> str:
        """The conversation's place in the store."""
        return place(self._conversation.tenant, self._conversation.key, self._table)

    @property
    def table(self) -> ImageTable:
        """As this request last saw it."""
        return self._table

    def numbers(self) -> Sequence[int]:
        return list(self._table.numbers())

    async def records(self, numbers: Sequence[int]) -> Mapping[int, ImageRecord]:
        """The rows of those of these images that there are, by number."""
        there = [number for number in numbers if number in self._table]
        rows = await self._rows.get_many(self.where, there)
        found = {number: rows.get(number) or self._brought.get(number) for number in there}
        deleted = {number: ImageRecord(number, "", problem="it was deleted") for number in self._table.deleted}
        return {number: row for number in there if (row := deleted.get(number) or found[number]) is not None}

    async def facts(self, numbers: Sequence[int]) -> Mapping[int, ImageRecord]:
        """As `records`, for what never changes: of images that came with the request nothing is read."""
        brought = {number: self._brought[number] for number in numbers if number in self._brought}
        others = [number for number in numbers if number not in brought or number in self._table.deleted]
        return {**brought, **await self.records(others)} if others else brought

    async def data(self, number: int) -> bytes | None:
        """The bytes as the client sent them; `None` if they are gone."""
        record = self._brought.get(number) or (await self.records([number])).get(number)
        if record is None or number in self._table.deleted:
            return None
        try:
            return await self._blobs.get(self._conversation.tenant, record.digest)
        except StoreError as error:
            log.warning("an image could not be read: %s", error)
            return None

    async def readable(self, record: ImageRecord) -> tuple[bytes, str] | None:
        """Its bytes as any server reads them, and their media type; `None` if they are gone."""
        data = await self.data(record.number)
        if data is None or record.media_type not in CONVERTED:
            return None if data is None else (data, record.media_type)
        if not isinstance(self._blobs, ReadableBlobs):
            return None
        return await self._blobs.converted(self._conversation.tenant, record.digest, data)

    async def begin(self) -> None:
        """Keep an empty table: something is to be remembered before the conversation's first image."""

        def begin(table: ImageTable) -> None:
            if not table.created:
                table.name, table.created, table.used = self._conversation.name, time.time(), time.time()

        self._table, _ = await self._tables.change(self._conversation.tenant, self._conversation.key, begin)

    async def read_again(self) -> None:
        """The table as it is now: somebody may have looked meanwhile."""
        await self._change(lambda table: None)

    async def deleted(self, numbers: Sequence[int]) -> Collection[int]:
        """Those of these images that were deleted by now, alone or with the conversation."""
        try:
            table = await self._tables.at(self.where)
        except StoreError as error:
            log.warning("the image table could not be read: %s", error)
            return ()
        return numbers if table is None else [number for number in numbers if number in table.deleted]

    def is_loaded(self, number: int) -> bool:
        return number in self._table.loaded

    async def looked(
        self,
        numbers: Sequence[int],
        task: str,
        answer: str,
        *,
        tokens: int,
        seconds: float = 0.0,
        spent: VisionUsage = VisionUsage(),  # noqa: B008 (frozen)
        cost: float = 0.0,
    ) -> int:
        """Somebody looked at these images and `tokens` of it stand in the prompt now: they are loaded, and most
        recently used.  `seconds`: how long the eyes took; 0 where it was remembered.  `spent`, `cost`: what they
        charged for it.  Answers the table's stamp."""

        def count(table: ImageTable) -> None:
            table.looks += 1
            table.vision_prompt_tokens += spent.prompt_tokens
            table.vision_completion_tokens += spent.completion_tokens
            table.cost += cost

        _, stamp = await asyncio.gather(
            self.noted_look(numbers, task, answer, tokens=tokens, seconds=seconds, spent=spent, cost=cost),
            self._use(numbers, tokens, described=len(numbers) == 1, beside=count),
        )
        return stamp

    async def noted_look(
        self,
        numbers: Sequence[int],
        task: str,
        answer: str,
        *,
        tokens: int,
        seconds: float = 0.0,
        spent: VisionUsage = VisionUsage(),  # noqa: B008 (frozen)
        cost: float = 0.0,
    ) -> None:
        """As `looked`, in the rows alone: what is loaded stays as it is."""
        now, several = time.time(), max(1, len(numbers))
        share = tokens // several

        def note(row: ImageRecord) -> None:
            row.last_beside = [number for number in numbers if number != row.number]
            row.looks += 1
            row.tokens += share
            row.seconds = round(seconds, 3) or row.seconds
            row.vision_prompt_tokens += spent.prompt_tokens // several
            row.vision_completion_tokens += spent.completion_tokens // several
            row.cost += cost / several
            row.last_task = task[:_KEPT_ANSWER]
            row.last_answer = answer[:_KEPT_ANSWER]
            row.last_used = now
            row.last_turn = self._conversation.turn or row.last_turn
            if not row.description and len(numbers) == 1:
                row.description = short(answer)

        for number in numbers:
            await self._rows.change(self.where, number, note)

    async def failed(self, numbers: Sequence[int], error: VisionError) -> None:
        """The eyes could not look.  One whose turn did not come says nothing of the images, and is not noted: in a
        crowd each such note would be a write more."""
        if isinstance(error, VisionBusy):
            return
        reason = str(error).partition(":")[0][:_KEPT_REASON]  # behind it stand the server's words

        def note(row: ImageRecord) -> None:
            row.errors += 1
            row.last_error = reason

        def count(table: ImageTable) -> None:
            table.errors += 1

        for number in numbers:
            await self._rows.change(self.where, number, note)
        await self._change(count)

    async def recalled(self, number: int, *, tokens: int) -> int:
        """A forgotten image is loaded again.  Answers the table's stamp."""
        now = time.time()

        def note(row: ImageRecord) -> None:
            row.last_used = now
            row.last_turn = self._conversation.turn or row.last_turn

        await self._rows.change(self.where, number, note)
        return await self._use([number], tokens)

    async def noted(self, number: int, *, likeness: str = "", description: str | None = None) -> None:
        """Something was found out while nobody waited for it."""
        if description:

            def note(row: ImageRecord) -> None:
                row.description = row.description or short(description)

            await self._rows.change(self.where, number, note)
        described = description is not None
        await self._change(lambda table: table.note(number, likeness=likeness, described=described))

    async def _use(
        self,
        numbers: Sequence[int],
        tokens: int,
        *,
        described: bool = False,
        beside: Callable[[ImageTable], None] = lambda table: None,
    ) -> int:
        share = tokens // max(1, len(numbers))
        # What is loaded here may have been forgotten by another process; only for what is sent anew is it free to ask.
        perhaps_back = [number for number in numbers if number in self._brought or number not in self._table.loaded]
        rows = await self.facts(perhaps_back)
        of_tools = {number for number, row in rows.items() if row.origin == "tool"}

        def use(table: ImageTable) -> None:
            for number in numbers:
                table.use(number, share, tool=number in of_tools)
            if described:
                table.note(numbers[0], described=True)
            beside(table)

        await self._change(use)
        return self._table.stamp

    async def _change(self, change: Callable[[ImageTable], None]) -> None:
        generation = self._table.generation

        def unless_deleted(table: ImageTable) -> None:
            if table.generation == generation:  # else the conversation was deleted under us
                change(table)

        table, _ = await self._tables.change(self._conversation.tenant, self._conversation.key, unless_deleted)
        if table.generation == generation:
            self._table = table


def short(answer: str) -> str:
    """The beginning of an answer as a description: up to the end of its first sentence, or of a word."""
    line = next((line.strip(" #*>-") for line in answer.splitlines() if line.strip(" #*>-")), "")
    sentence = line.partition(". ")[0].rstrip(".")
    if len(sentence) <= _SHORT:
        return sentence
    return sentence[: _SHORT - 1].rpartition(" ")[0].rstrip(",;:") + "…"
