"""A client's request made into the brain's, with our tools where they can work.  Text only, but for a brain that has
eyes itself (`router.intake.native`).

    images out and numbered (ingest) ─▶ words in their places ─▶ hidden turns and shown tables back in (ledger)
        ─▶ the image table at the tail, if the brain does not know it as it is ─▶ tools behind the client's

The way back is here too: what the answer holds that the client will not see is kept under the place of the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cache.blobs import Blobs
from cache.looks import Looks
from cache.record import ImageRecord
from cache.rows import Rows
from cache.tables import Tables
from router.config import TextSettings
from router.intake import last_prompts, native
from router.intake.afterwards import Afterwards
from router.intake.caption import Captions
from router.intake.hidden_turns import HiddenTurns, Woven
from router.intake.images import ConversationImages
from router.intake.ingest import Ingest, Ingested, placeholder_tokens
from router.intake.last_prompts import LastPrompts
from router.intake.response_ids import Link
from router.intake.since import Since
from router.protocol import ledger
from router.protocol.cuts import Cuts
from router.protocol.events import Keep
from router.protocol.image_list import chosen, render
from router.protocol.image_parts import without_pictures
from router.protocol.ledger import KeptTable, KeptTurn, Place, Trail, of_one_line, weave, without_thoughts
from router.protocol.outline import last_words
from router.protocol.own_tools import OwnTools
from router.protocol.pictures import label, referenced
from router.protocol.placeholders import placeholder
from router.protocol.plain import PlainMessages
from router.protocol.wire_format import WireFormat
from tools import analyze_image, recall_image
from tools.analyze_image import AnalyzeImage
from tools.call import VisionUsage
from tools.quotation import estimated
from tools.recall_image import RecallImage
from tools.recall_pixels import RecallPixels
from tools.toolbox import Toolbox, free_name
from tools.vision.backend import VisionBackend
from tools.vision.courteous import Courteous


@dataclass(frozen=True, slots=True)
class Prepared:
    request: dict[str, Any]
    """As the brain gets it."""
    toolbox: Toolbox
    own: OwnTools
    looked: VisionUsage
    """What looking has cost before the first turn."""
    keep: Callable[[Keep], Awaitable[None]]
    """What the client will not know of the answer."""
    conversation: str
    """Its name, for the client; empty where nothing is remembered."""
    fill: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
    """The last that is done to each of its turns before it goes out."""


async def _as_it_is(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Words hold nothing that could be missing."""
    return request


async def _keep_nothing(kept: Keep) -> None:
    """Without tools of ours no turn is hidden."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What it takes; made once by the application."""

    ingest: Ingest
    tables: Tables
    rows: Rows
    blobs: Blobs
    looks: Looks
    captions: Captions
    hidden_turns: HiddenTurns
    afterwards: Afterwards
    since: Since
    always_offer: bool
    """Whether our tools are there before the conversation's first image."""
    last_prompts: LastPrompts | None = None
    """Where people can look at what was made; without it nobody can."""
    plain: PlainMessages = field(default_factory=PlainMessages)
    """What counts of the messages that were met last."""

    async def prepare(
        self,
        wire: WireFormat,
        request: dict[str, Any],
        cuts: Cuts | None,
        *,
        settings: TextSettings,
        eyes: VisionBackend | None,
        tenant: str,
        headers: Mapping[str, str],
        thoughts: Collection[str],
        link: Link | None = None,
        request_id: str = "",
    ) -> Prepared:
        """`request`: in outline.  `headers`: names in lower case.  `thoughts`: the fields in which the server takes a
        turn's thoughts back.  `link`: where the server keeps answers.  Raises `BadRequest` for picture data where none
        belongs."""
        sees = settings.images == "native"
        if settings.images == "off" or (eyes is None and not sees):
            restored = cuts.restored(request) if cuts else request
            return Prepared(restored, Toolbox([]), OwnTools(), VisionUsage(), _keep_nothing, "", _as_it_is)
        if "tools" in request:
            request["tools"] = without_pictures(request["tools"], cuts.word if cuts else "")
        tokens = native.tokens if sees else placeholder_tokens
        taken = await self.ingest.take(
            request, tenant=tenant, headers=headers, cuts=cuts, tokens=tokens, flat_results=wire.flat_results
        )
        images = ConversationImages(
            taken.conversation,
            taken.table,
            {record.number: record for record in taken.images},
            blobs=self.blobs,
            tables=self.tables,
            rows=self.rows,
        )
        sight = native.NativeSight(taken, images, self.since, cuts) if sees else None
        del cuts  # the pictures are in the store
        can_call = settings.images != "caption"
        chat = _Chat(self, wire, request, taken, images, eyes, sight, tenant, thoughts, can_call=can_call, link=link)
        prepared = await chat.prepared()
        if self.last_prompts is not None:
            chat.note_in(
                self.last_prompts, prepared, brain=settings.name or settings.model or "", request_id=request_id
            )
        return prepared


class _Chat:
    """One request on its way to the brain."""

    def __init__(
        self,
        rooms: Preparation,
        wire: WireFormat,
        request: dict[str, Any],
        taken: Ingested,
        images: ConversationImages,
        eyes: VisionBackend | None,
        sight: native.NativeSight | None,
        tenant: str,
        thoughts: Collection[str],
        *,
        can_call: bool,
        link: Link | None,
    ) -> None:
        """`sight`: of a brain that has eyes itself; without it there are `eyes`."""
        self._rooms = rooms
        self._wire = wire
        self._request = request
        self._taken = taken
        self._images = images
        self._eyes = eyes
        self._sight = sight
        self._thoughts = thoughts
        self._link = link
        self._can_look = can_call and wire.loop_can_work(request)
        self._of_client = wire.tool_names(request)
        self._look = free_name(analyze_image.NAME, self._of_client)
        self._recall = free_name(recall_image.NAME, self._of_client)
        self._question = last_words(request["messages"])
        self._toolbox = self._tools(tenant)
        self._sides: tuple[list[Any], Woven] = ([], Woven({}, {}, {}))
        """The client's messages as the brain is to see them, and what was woven into them."""

    def _tools(self, tenant: str) -> Toolbox:
        if self._sight is not None:
            return Toolbox([RecallPixels(images=self._images, name=self._recall, in_view=self._sight.in_view)])
        assert self._eyes is not None
        look = AnalyzeImage(
            eyes=self._eyes,
            images=self._images,
            name=self._look,
            default_task=self._question,
            looks=self._rooms.looks,
            tenant=tenant,
            deleted=self._images.deleted,
        )
        return Toolbox([look, RecallImage(images=self._images, name=self._recall, look=self._look)])

    async def prepared(self) -> Prepared:
        messages, trail, looked = await self._history()
        woven = await self._found(messages, trail) if trail else Woven({}, {}, {})
        if trail and self._can_look:
            woven = await self._with_tail(messages, trail, woven)
        self._sides = messages, woven
        request = {**self._request, "messages": self._woven(messages, woven)}
        if self._link is not None and self._link.unanswered is not None:
            request["messages"], late = await self._answered(request["messages"], self._link.unanswered)
            looked += late
        if self._sight is not None:
            self._sight.in_view.update(referenced(request["messages"]))
        offered = self._can_look and (self._rooms.always_offer or len(self._images.table) > 0)
        if offered:
            request["tools"] = [*(request.get("tools") or ()), *map(self._wire.tool, self._toolbox.definitions)]

        async def keep(kept: Keep) -> None:
            await self._keep(kept, trail or self._trail())

        self._rooms.afterwards.consider(self._images, self._eyes if isinstance(self._eyes, Courteous) else None)
        names = [definition.name for definition in self._toolbox.definitions] if offered else []
        return Prepared(
            request,
            self._toolbox,
            OwnTools(names, self._of_client),
            looked + _cost_of_last(messages, woven),
            keep,
            self._taken.conversation.name,
            _as_it_is if self._sight is None else self._sight.fill,
        )

    def note_in(self, prompts: LastPrompts, made: Prepared, *, brain: str, request_id: str) -> None:
        """For people, once it is made."""
        came, (history, woven) = self._request["messages"], self._sides
        pictures: dict[int, list[int]] = {}
        for one in self._taken.placed:
            pictures.setdefault(one.image.message, []).append(one.record.number)

        def body() -> bytes:
            return last_prompts.written(
                self._taken.without_pictures(came),
                history,
                made.request["messages"],
                came=came,
                pictures=pictures,
                picture_bytes=sum(one.record.bytes for one in self._taken.placed),
                answers=woven.turns.keys(),
                tables=woven.tables,
                tools=sorted(made.own.names),
            )

        of = self._taken.conversation
        prompts.note(
            of.tenant, of.key, self._images.table, body, request_id=request_id, brain=brain, wire=self._wire.name
        )

    async def _history(self) -> tuple[list[Any], Trail | None, VisionUsage]:
        """The client's messages as the brain is to see them, their places if there are images, and what that cost."""
        there_are_images = len(self._images.table) > 0
        if self._sight is None:
            messages, looked = await self._text_only()
            begun = there_are_images or self._images.table.kept
            return messages, self._trail() if begun else None, looked
        if not there_are_images:
            return self._taken.with_pictures, None, VisionUsage()
        trail = self._trail()
        messages = await self._sight.history(trail.places, self._recall if self._can_look else None)
        return messages, trail, VisionUsage()

    def _trail(self) -> Trail:
        """Of the history with nothing but numbers in the images' places: the words there depend on what this request
        allows, on what is forgotten, on what was deleted."""
        history = self._taken.replaced([label(one.record.number) for one in self._taken.placed])
        wire = f"{self._wire.name}{self._link.opening if self._link else ''}"
        return Trail(history, wire, self._rooms.plain, tenant=self._taken.conversation.tenant)

    async def _text_only(self) -> tuple[list[Any], VisionUsage]:
        """The client's messages with words in the images' places."""
        assert self._eyes is not None
        if self._can_look:

            def words(record: ImageRecord, called: int | None) -> str:
                return placeholder(record, self._look, called)

            return self._taken.messages(words), VisionUsage()
        captions, looked = await self._rooms.captions.describe(
            self._taken.images, images=self._images, eyes=self._eyes, question=self._question
        )
        return self._taken.messages(lambda record, _: captions[record.number]), looked

    # The ledger

    async def _found(self, messages: list[Any], trail: Trail) -> Woven:
        answers = {index: trail.places[index] for index, message in enumerate(messages) if _is_answer(message)}
        others: dict[int, Place] = {}
        if self._images.table.forgot:
            others = {index: trail.of_table(index) for index in range(len(messages)) if index not in answers}
        woven = await self._rooms.hidden_turns.find(
            self._images.where,
            answers,
            others,
            self._toolbox.call_all,
            deleted=self._images.table.deleted,
        )
        woven = replace(woven, tables=of_one_line(woven.tables))
        return woven if self._sight else await self._with_unseen(messages, trail, woven)

    async def _with_unseen(self, messages: list[Any], trail: Trail, woven: Woven) -> Woven:
        """What a mixed turn looked at stands when the brain sees it for the first time, even if its image was forgotten
        for those that the client's own results have brought: the brain asked for it, and nobody has answered yet."""
        last = _last_answer(messages)
        turn = woven.turns.get(last)
        if turn is None or not turn.results:
            return woven
        images, looks = self._images, turn.looks[-len(turn.results) :]
        if all(images.table.stands(numbers, turn.stamp) for numbers in looks):
            return woven
        await images.read_again()  # the look may have ended after this request had its table
        for numbers, result in zip(looks, turn.results, strict=True):
            for number in numbers:
                if not images.is_loaded(number):
                    await images.recalled(number, tokens=estimated(result["content"]) // len(numbers))
        stamp = max(turn.stamp, images.table.stamp)
        await self._rooms.hidden_turns.seen_at(images.where, trail.places[last], stamp)
        return replace(woven, turns={**woven.turns, last: replace(turn, stamp=stamp)})

    async def _answered(self, messages: list[Any], place: Place) -> tuple[list[Any], VisionUsage]:
        """The messages with the results of our calls of a mixed turn that the server keeps, before the client's."""
        woven = await self._rooms.hidden_turns.find(
            self._images.where, {0: place}, {}, self._toolbox.call_all, deleted=self._images.table.deleted
        )
        turn = woven.turns.get(0)
        if turn is None:
            return messages, VisionUsage()
        turn = turn if self._sight else ledger.without_pictures(turn)
        return ledger.with_results(messages, turn.results), woven.costs.get(0, VisionUsage())

    def _woven(self, messages: list[Any], woven: Woven) -> list[Any]:
        if not woven.turns and not woven.tables:
            return messages
        turns = {index: without_thoughts(turn, self._thoughts) for index, turn in woven.turns.items()}
        if self._sight is None:
            turns = {index: ledger.without_pictures(turn) for index, turn in turns.items()}
        return weave(messages, turns, woven.tables, stands=self._images.table.stands, recall=self._recall)

    async def _with_tail(self, messages: list[Any], trail: Trail, woven: Woven) -> Woven:
        """A table at the tail, from the first forgetting on, whenever the last one shown is no longer true."""
        table = self._images.table
        last = len(messages) - 1
        if last in woven.tables:
            return woven  # asked once more: whoever has gone on from here has this table in his past
        shown = woven.tables[max(woven.tables)].stamp if woven.tables else 0
        if shown >= table.forgot or messages[last].get("role") not in ("user", "tool"):
            return woven
        numbers = self._images.numbers()
        listed = chosen(numbers, table.loaded)
        rows = await self._images.records(listed)
        text = render(
            [rows[number] for number in listed if number in rows],
            table.status,
            recall=self._recall,
            left_out=len(numbers) - len(listed),
            undescribed="not looked at yet" if self._sight is None else "-",
        )
        kept = KeptTable(text, table.forgot)
        deletions = len(table.deleted)
        await self._rooms.hidden_turns.show(self._images.where, trail.of_table(last), kept, deletions=deletions)
        return Woven(woven.turns, {**woven.tables, last: kept}, woven.costs)

    async def _keep(self, kept: Keep, trail: Trail) -> None:
        if not self._images.table.kept and not len(self._images.table):
            if len(kept.said) == 1 and not kept.calls:
                return
            await self._images.begin()  # a call before the first image, where our tools are always offered
        place = trail.follow(kept.visible)
        turn = KeptTurn(kept.said, looks=kept.looks, stamp=kept.stamp)
        hidden_turns, where = self._rooms.hidden_turns, self._images.where
        if len(kept.said) == 1 and not kept.calls:
            await hidden_turns.keep_plain(where, place)
        elif kept.calls:
            if self._link is not None:
                self._link.left_open(place)
            await hidden_turns.begin(where, place, turn, kept.calls, self._toolbox.call_all)
        else:
            await hidden_turns.keep(where, place, turn)


def _is_answer(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant"


def _cost_of_last(messages: list[Any], woven: Woven) -> VisionUsage:
    """Looks of a mixed turn are paid after its answer is over; the next request, which continues it, counts them."""
    return woven.costs.get(_last_answer(messages), VisionUsage())


def _last_answer(messages: list[Any]) -> int:
    """Its index; -1 where there is none."""
    return max((index for index, message in enumerate(messages) if _is_answer(message)), default=-1)
