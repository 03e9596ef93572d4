"""What can be asked of the image tables and done with them, for all tenants; no HTTP.

**forget**: what was seen in the image leaves the prompt with the next request (pixels, for a brain that has eyes
itself), also where it was pinned: an explicit word ends the pin.

**load**: it is loaded as if it had never been forgotten.  All that was seen in it stands in the prompt again, where it
stood.  That rewrites the prompt's past once, as a forgetting does.  An image that nobody has looked at has nothing to
bring back; it is loaded all the same.

**pin**: loaded, if it was not, and never forgotten until it is unpinned.

**analyze**: the eyes look now.  The answer goes to whoever asked and is remembered like every look: a brain that asks
the same gets it without a look, and `recallImage` tells it.  It is not put into the prompt, where nobody has asked for
it.  The image is loaded as by *load*; the brain is shown the table anew if a description or a status in it changed.

Each asked for twice is as good as once.  What changes is the table in the store, so any process shows the change to
the brain with the next request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import assert_never

from cache.blobs import Blobs
from cache.looks import Looks
from cache.record import ImageRecord
from cache.rows import Rows
from cache.store import Store, StoreError
from cache.table import ImageTable
from cache.tables import Tables, place
from cache.usage import Counted
from router.admin import shown
from router.admin.errors import Conflict, EyesFailed, NotFound
from router.admin.events import Bus
from router.admin.ids import conversation_id, named
from router.admin.listing import Begun, Order, cursor_of, page, place_of
from router.admin.models import (
    Action,
    Conversation,
    ConversationQuery,
    ImageDetails,
    ImageQuery,
    Stats,
    StoreState,
)
from router.admin.thumbnails import SIDE, Thumbnails
from router.brain import Brain
from router.config import Settings
from router.errors import Overloaded
from router.intake.conversation import Conversation as Identity
from router.intake.conversation import key_of
from router.intake.conversations import Conversations
from router.intake.images import ConversationImages, short
from router.intake.last_prompts import LastPrompt, LastPrompts
from tools.look import ImageGone, LookFailed, Picture, look
from tools.vision.backend import VisionAnswer, VisionBackend, VisionBusy, VisionError
from tools.vision.pixel_tokens import pixel_tokens

BUSY_SECONDS = 2.0
"""Until the eyes may have room again."""


@dataclass(frozen=True, slots=True)
class _At:
    """A conversation, and its table as it was found."""

    id: str
    tenant: str
    key: str
    table: ImageTable

    @property
    def where(self) -> str:
        return place(self.tenant, self.key, self.table)


@dataclass(frozen=True, slots=True)
class Admin:
    """All methods raise `StoreError`, and `NotFound` for what is not there (any more).  Ids are those of
    `router.admin.ids`."""

    settings: Settings
    store: Store
    tables: Tables
    rows: Rows
    blobs: Blobs
    looks: Looks
    deleting: Conversations
    brains: Sequence[Brain]
    eyes: Sequence[VisionBackend]
    thumbnails: Thumbnails
    bus: Bus
    order: Order
    last_prompts: LastPrompts
    _counted: Counted

    # Asking

    async def conversations(self, query: ConversationQuery) -> tuple[list[Conversation], str | None]:
        """A page, and the cursor of the next one.  Raises `BadRequest`."""
        wanted = query.q.casefold()

        async def read(chunk: Sequence[Begun]) -> list[Conversation | None]:
            tables = await self.tables.read_many([(tenant, key) for _, tenant, key in chunk])
            return [told(tenant, key, table) for (_, tenant, key), table in zip(chunk, tables, strict=True)]

        def told(tenant: str, key: str, table: ImageTable | None) -> Conversation | None:
            id_ = conversation_id(tenant, key)
            if table is None or id_ is None:
                return None
            one = shown.conversation(id_, tenant, table)
            if query.error is not None and query.error != (table.errors > 0):
                return None
            if query.status is not None and not getattr(one, query.status):
                return None
            said = (id_, tenant, one.client, table.name)
            return one if not wanted or any(wanted in words.casefold() for words in said) else None

        ahead = self.order.behind(await self.order.all(), query.cursor)
        if query.conversation is not None:
            meant, key = named(query.conversation), key_of(query.conversation)
            ahead = [one for one in ahead if one[1:] == meant or one[2] == key]
        filtered = bool(wanted) or query.status is not None or query.error is not None
        found, last = await page(ahead, query.limit, read, filtered=filtered)
        return found, None if last is None else cursor_of(*ahead[last])

    async def conversation(self, id_: str) -> Conversation:
        at = await self._at(id_)
        return shown.conversation(id_, at.tenant, at.table)

    async def images(self, id_: str, query: ImageQuery) -> tuple[list[ImageDetails], str | None]:
        """As `conversations`."""
        at = await self._at(id_)
        after = 0 if query.cursor is None else place_of(query.cursor, int)[0]
        deleted = set(at.table.deleted)
        ahead = [
            number
            for number in at.table.numbers()
            if number > after
            and number not in deleted
            and (query.status is None or (number in at.table.loaded) == (query.status == "loaded"))
        ]
        wanted = query.q.casefold()

        async def read(chunk: Sequence[int]) -> list[ImageDetails | None]:
            rows = await self.rows.read_many(at.where, chunk)
            return [told(shown.image(at.table, number, rows.get(number))) for number in chunk]

        def told(one: ImageDetails) -> ImageDetails | None:
            if query.error is not None and query.error != bool(one.reason or one.errors):
                return None
            said = (one.file, one.description, one.last_task, one.last_answer, one.reason, f"#{one.number}")
            if wanted and not one.digest.startswith(wanted) and not any(wanted in words.casefold() for words in said):
                return None
            return one

        found, last = await page(ahead, query.limit, read, filtered=bool(wanted) or query.error is not None)
        return found, None if last is None else cursor_of(ahead[last])

    async def image(self, id_: str, number: int) -> ImageDetails:
        at = await self._at(id_, number)
        return shown.image(at.table, number, await self.rows.read(at.where, number))

    async def thumbnail(self, id_: str, number: int, side: int = SIDE) -> bytes:
        """A PNG of at most `side` pixels a side.  Raises `Conflict`."""
        at = await self._at(id_, number)
        row = await self._good_row(at, number)
        try:
            return await self.thumbnails.of(at.tenant, await self._bytes(at, row), side)
        except VisionError as error:
            if error.retryable:
                raise Overloaded("too many pictures are being decoded; try again soon", retry_after=1) from None
            raise Conflict(f"image #{number} cannot be decoded", code="unreadable") from None

    async def last_prompt(self, id_: str) -> LastPrompt | None:
        """What this process has sent to a brain last; `None` where it has sent nothing, or not lately."""
        at = await self._at(id_)
        return self.last_prompts.of(at.tenant, at.key, at.table)

    async def stamp(self, id_: str) -> tuple[int, ...] | None:
        """Another one whenever something changed; `None` where there is no such conversation."""
        meant = named(id_)
        table = None if meant is None else await self.tables.read(*meant)
        return None if table is None else (table.next, table.stamp, table.looks, table.errors)

    async def stats(self) -> Stats:
        conversations, images, held = await self._counted.now()
        store = self.settings.store
        return Stats(
            version=version("chiasm"),
            brains=[shown.brain_state(brain) for brain in self.brains],
            eyes=[
                shown.eyes_state(eyes, of.kind, of.max_concurrency)
                for eyes, of in zip(self.eyes, self.settings.vision, strict=True)
            ],
            store=StoreState(
                kind=store.kind, bytes=held, max_bytes=None if store.kind == "redis" else int(store.max_gib * 2**30)
            ),
            conversations=conversations,
            images=images,
            listeners=self.bus.listeners,
        )

    # Doing

    async def do(self, action: Action, id_: str, number: int) -> ImageDetails:
        """Raises `Conflict`."""
        at = await self._at(id_, number)
        row = await self.rows.read(at.where, number)
        if action == "load" or (action == "pin" and number not in at.table.loaded):
            row = await self._good_row(at, number)
            await self._bytes(at, row)

        def change(table: ImageTable) -> None:
            match action:
                case "forget":
                    table.forget([number])
                case "load":
                    self._load(table, number, row)
                case "pin":
                    self._load(table, number, row)
                    table.pin(number)
                case "unpin":
                    table.unpin(number)
                case _:
                    assert_never(action)

        table = await self._change(at, number, change)
        self.bus.publish("image", id_, image=number, action=action)
        return shown.image(table, number, row)

    async def analyze(self, id_: str, number: int, task: str) -> str:
        """What the eyes say.  Raises `Conflict`, `Overloaded`, `EyesFailed`."""
        at = await self._at(id_, number)
        row = await self._good_row(at, number)
        eyes = next((brain.eyes for brain in self.brains if brain.eyes is not None), None)
        if eyes is None:
            raise Conflict("there are no eyes: the configuration has no [[vision]]", code="no_eyes")
        identity = Identity(at.tenant, at.key, at.table.name)
        images = ConversationImages(identity, at.table, {}, blobs=self.blobs, tables=self.tables, rows=self.rows)
        await self._bytes(at, row)  # one whose bytes are gone is not asked about, even where the answer is known
        found = await look(
            eyes,
            [Picture(row)],
            task,
            data=images.data,
            deleted=images.deleted,
            looks=self.looks,
            tenant=at.tenant,
        )
        match found:
            case ImageGone():
                raise _gone(number)
            case LookFailed(VisionBusy()):
                raise Overloaded("too many images wait to be looked at; try again soon", retry_after=BUSY_SECONDS)
            case LookFailed(reason):
                await images.failed([number], reason)
                raise EyesFailed(str(reason))
            case VisionAnswer(text):
                await images.noted_look(
                    [number], task, text, tokens=0, seconds=found.seconds, spent=found.usage, cost=found.cost
                )
                paid = found
            case _:
                assert_never(found)
        new_words = not row.description and bool(short(text))

        def change(table: ImageTable) -> None:
            table.looks += 1
            table.vision_prompt_tokens += paid.usage.prompt_tokens
            table.vision_completion_tokens += paid.usage.completion_tokens
            table.cost += paid.cost
            told = self._load(table, number, row)
            table.note(number, described=True)
            if new_words and not told:
                table.tell()

        await self._change(at, number, change)
        self.bus.publish("image", id_, image=number, action="analyze")
        return text

    async def delete_image(self, id_: str, number: int) -> bool:
        """Says whether there was anything left of it."""
        at = await self._at(id_)
        if number not in at.table:
            raise _no_image(number)
        there = await self.deleting.delete_image(at.tenant, at.key, number)
        self.last_prompts.drop(at.tenant, at.key)
        self.bus.publish("image", id_, image=number, action="delete")
        return there

    async def delete_conversation(self, id_: str) -> bool:
        """Says whether there was anything left of it."""
        meant = named(id_)
        if meant is None or not await self.deleting.delete(*meant):
            raise _no_conversation()
        self.last_prompts.drop(*meant)
        self.bus.publish("conversation", id_, change="deleted")
        return True

    # How

    async def _at(self, id_: str, number: int | None = None) -> _At:
        meant = named(id_)
        table = None if meant is None else await self.tables.read(*meant)
        if meant is None or table is None:
            raise _no_conversation()
        if number is not None and (number not in table or number in table.deleted):
            raise _no_image(number)
        return _At(id_, *meant, table)

    async def _good_row(self, at: _At, number: int) -> ImageRecord:
        row = await self.rows.read(at.where, number)
        if row is None:
            raise _gone(number)
        if row.problem:
            raise Conflict(f"image #{number} cannot be looked at: {row.problem}", code="unreadable")
        return row

    async def _bytes(self, at: _At, row: ImageRecord) -> bytes:
        data = await self.blobs.get(at.tenant, row.digest)
        if data is None:
            raise _gone(row.number)
        return data

    def _load(self, table: ImageTable, number: int, row: ImageRecord | None) -> bool:
        """Says whether it was forgotten."""
        if row is None:
            return False
        tokens = row.tokens
        if any(brain.settings.images == "native" for brain in self.brains):
            tokens += pixel_tokens(row.width, row.height)  # too much where another brain has the conversation
        back = table.load(number, tokens, tool=row.origin == "tool")
        if back:
            table.note(number, described=bool(row.description))
        return back

    async def _change(self, at: _At, number: int, change: Callable[[ImageTable], None]) -> ImageTable:
        def unless_deleted(table: ImageTable) -> bool:
            there = table.generation == at.table.generation and number in table and number not in table.deleted
            if there:
                change(table)
            return there

        table, there = await self.tables.change(at.tenant, at.key, unless_deleted)
        if there and table.kept:
            return table
        await self._at(at.id, number)  # says so where it is gone, or where the store does not answer
        raise StoreError("the image table could not be changed")


def open_admin(
    *,
    settings: Settings,
    store: Store,
    tables: Tables,
    rows: Rows,
    blobs: Blobs,
    looks: Looks,
    deleting: Conversations,
    brains: Sequence[Brain],
    eyes: Sequence[VisionBackend],
    thumbnails: Thumbnails,
    bus: Bus,
    last_prompts: LastPrompts | None = None,
) -> Admin:
    """`eyes` in the order of the configuration; `bus`: where `tables` tells of changes too; `last_prompts`: where
    requests are noted, if they are."""
    order = Order(deleting, tables)
    return Admin(
        settings,
        store,
        tables,
        rows,
        blobs,
        looks,
        deleting,
        brains,
        eyes,
        thumbnails,
        bus,
        order,
        LastPrompts() if last_prompts is None else last_prompts,
        Counted(store),
    )


def changes_to(bus: Bus) -> Callable[[str, str, ImageTable], None]:
    """For `Tables`: whatever a request changes is told to those who listen."""

    def changed(tenant: str, key: str, table: ImageTable) -> None:
        if bus.listeners and (id_ := conversation_id(tenant, key)) is not None:
            bus.publish("conversation", id_, change="changed", images=shown.count_of(table), loaded=len(table.loaded))

    return changed


def prompts_to(bus: Bus) -> Callable[[str, str], None]:
    """For `LastPrompts`, likewise."""

    def noted(tenant: str, key: str) -> None:
        if bus.listeners and (id_ := conversation_id(tenant, key)) is not None:
            bus.publish("prompt", id_)

    return noted


def _no_conversation() -> NotFound:
    return NotFound("there is no such conversation")


def _no_image(number: int) -> NotFound:
    return NotFound(f"there is no image #{number} in this conversation")


def _gone(number: int) -> Conflict:
    return Conflict(f"the bytes of image #{number} are gone", code="bytes_gone")
