"""Images out of a request and into the cache, numbered; words can take their places.

request ─▶ images found ─▶ each admitted (`admission.py`) ─▶ numbers from the conversation's table, in the same step
        new ones loaded and the oldest forgotten ─▶ rows kept
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cache.blobs import Blobs
from cache.forgetting import LoadLimits, to_forget
from cache.holders import Holders
from cache.image import ImageLimits
from cache.record import ImageRecord
from cache.remembered import Remembered
from cache.rows import Rows
from cache.sources.remote_images import FetchedImage, RemoteImages
from cache.store import StoreError
from cache.table import ImageTable
from cache.tables import Tables, place
from router.errors import BadRequest, BodyTooLarge
from router.intake.admission import Admission, Admitted
from router.intake.conversation import Conversation, identify, opening, opening_of, turns
from router.protocol.client_numbers import wanted_numbers, with_our_numbers
from router.protocol.cuts import Cuts
from router.protocol.file_names import file_names
from router.protocol.image_parts import (
    MOST_INSIDE,
    FoundImage,
    RemoteImage,
    images_outside,
    inside_json,
    origin_of,
    replace_images,
)
from router.protocol.placeholders import inline_placeholder

log = logging.getLogger("chiasm.ingest")

_REMEMBERED = 20_000
"""Rows that are known to be there, about 200 bytes each."""

DELETED = "deleted"
"""What the placeholder of a deleted image says is wrong with it."""

PLACEHOLDER_TOKENS = 40
"""What the words in an image's place add to a prompt."""

MOST_IMAGES = 5_000
"""In the messages of one request.  A day of screenshots, one a minute, is 1,440; each costs the event loop 50 µs."""

_USED_SECONDS = 60.0
"""The table notes when it was last used, but not more often than this: a note is a write."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """The images of a request, and the conversation it belongs to."""

    conversation: Conversation
    table: ImageTable
    images: tuple[ImageRecord, ...]
    """The rows of the images that this request brought, in order of appearance; one image may stand in several
    places."""
    with_pictures: list[Any]
    """The history as the client sent it, but for the client's own numbers."""
    _found: tuple[FoundImage, ...]
    _called: tuple[int | None, ...]
    _plain: tuple[bool, ...]
    _changing: frozenset[int]
    """The messages that hold them, and what else becomes words."""
    _token: str
    _flat_results: bool

    @property
    def placed(self) -> list[Placed]:
        """Every image where it stands, in order of appearance."""
        places = zip(self._found, self.images, self._called, self._plain, strict=True)
        return [Placed(*place) for place in places]

    def messages(self, words: Words) -> list[Any]:
        """The history with `words` in each image's place, on lines of their own, because templates put the parts of a
        message together with nothing in between; in the middle of a text, the short form."""
        return self.replaced(
            [
                inline_placeholder(one.record) if one.image.inline else words(one.record, one.called) + "\n"
                for one in self.placed
            ]
        )

    def replaced(self, words: Sequence[str]) -> list[Any]:
        """The history with these words for the images, in order of appearance."""
        if not self._found:
            return self.with_pictures
        said = iter(words)
        return replace_images(
            self.with_pictures,
            lambda _: next(said),
            self._token,
            flat_results=self._flat_results,
            only=self._changing,
        )

    def without_pictures(self, messages: Sequence[Any]) -> list[Any]:
        """`messages`, which are those that came, with `[picture #3]` in the images' places, for people to read."""
        said = iter([f"[picture #{record.number}]" for record in self.images])
        with_images = {image.message for image in self._found}
        return replace_images(
            list(messages), lambda _: next(said), self._token, flat_results=self._flat_results, only=with_images
        )


@dataclass(frozen=True, slots=True)
class Placed:
    """One image where it stands."""

    image: FoundImage
    record: ImageRecord
    called: int | None
    """The number that the client calls it by, if that is another."""
    plain: bool
    """As in `Admitted`."""


Tokens = Callable[[FoundImage, Admitted], int]
"""What a loaded image that stands there adds to the prompt by itself; 0 for one that cannot be seen there, which is not
loaded then."""


def placeholder_tokens(image: FoundImage, facts: Admitted) -> int:
    return PLACEHOLDER_TOKENS


Words = Callable[[ImageRecord, int | None], str]
"""What stands in an image's place, given its row and the number that the client calls it by, if that is another."""


class Ingest:
    """Shared by all requests."""

    def __init__(
        self,
        *,
        blobs: Blobs,
        tables: Tables,
        rows: Rows,
        limits: ImageLimits,
        load_limits: LoadLimits,
        holders: Holders | None = None,
        remote: RemoteImages | None = None,
        threads: int = 2,
        bad: Callable[[str], None] | None = None,
    ) -> None:
        """`holders`: where it is noted which conversation holds an image's bytes.  `remote`: fetches images by URL;
        without it they are none that anybody could look at.  `bad` is told what is wrong with a new image."""
        self._admission = Admission(blobs=blobs, limits=limits, threads=threads)
        self._blobs = blobs
        self._tables = tables
        self._rows = rows
        self._holders = holders
        self._remote = remote
        self._bad = bad
        self._load_limits = load_limits
        self._has_row: Remembered[bool] = Remembered(_REMEMBERED)

    def close(self) -> None:
        self._admission.close()

    async def take(
        self,
        request: Mapping[str, Any],
        *,
        tenant: str,
        headers: Mapping[str, str],
        cuts: Cuts | None,
        tokens: Tokens = placeholder_tokens,
        flat_results: bool = True,
    ) -> Ingested:
        """Find, admit and number the images of `request["messages"]`.  Raises `BadRequest` for picture data where none
        belongs.

        `headers`: names in lower case.  `flat_results`: as in `WireFormat`.
        """
        token = cuts.word if cuts is not None and cuts.spans else ""
        if (field := images_outside(request, token)) is not None:
            raise BadRequest(f"picture data in {field!r}; images belong into messages", param=field)
        messages: list[Any] = request["messages"]
        found, without = _find(messages, token, flat_results)
        if not found:
            conversation = identify(tenant, headers, request, opening_of(without))
            table = await self._without_too_much(tenant, conversation.key)
            return Ingested(conversation, table, (), without, (), (), (), frozenset(), token, flat_results)
        begun = self._admission.clock()
        seen = await self._admission.admit(tenant, found, cuts)
        admitted: Sequence[Admitted] = [one.facts for one in seen]
        digests = iter(admitted)
        said_first = opening_of(replace_images(opening(messages), lambda _: next(digests).digest, token))
        conversation = identify(tenant, headers, request, said_first)
        wanted = wanted_numbers(messages, found, moved=flat_results)
        client = headers.get("user-agent", "").partition("/")[0][:40]
        arrival = _Arrival(conversation, client, time.time(), messages, found, admitted)
        if self._remote is not None and any(isinstance(image.source, RemoteImage) for image in found):
            admitted = await self._with_remote(self._remote, arrival)
            arrival = replace(arrival, admitted=admitted)
        table, numbers, new = await self._tables.number(
            tenant,
            conversation.key,
            [(facts.digest, want) for facts, want in zip(admitted, wanted, strict=True)],
            lambda table, numbers, new: arrival.settle(table, numbers, new, tokens, self._load_limits),
        )
        if self._bad is not None:
            problems = {number: facts.problem for facts, number in zip(admitted, numbers, strict=True) if number in new}
            for problem in filter(None, problems.values()):
                self._bad(problem)
        lost = [
            image
            for image, one, number in zip(found, seen, numbers, strict=True)
            if number in new and one.kept_at < begun and await self._is_lost(tenant, one.facts)
        ]
        await self._admission.admit(tenant, lost, cuts, since=begun)
        files = file_names(messages, found) if new else [""] * len(found)  # the others have theirs in their rows
        turn_of = turns(messages)
        records = [
            _record(
                number,
                origin_of(messages, image),
                facts,
                file,
                arrival.now,
                first_turn=turn_of[image.message],
                deleted=number in table.deleted,
            )
            for number, image, facts, file in zip(numbers, found, admitted, files, strict=True)
        ]
        put = {facts.digest for facts, one in zip(admitted, seen, strict=True) if one.kept_at >= begun}
        await self._drop_deleted(tenant, [row for row in records if row.digest in put])
        if table.kept:  # else a number may be another image's by the next request
            fresh = {number for one, number in zip(seen, numbers, strict=True) if one.kept_at >= begun}
            await self._keep_rows(place(tenant, conversation.key, table), records, fresh)
        renumbered, called = with_our_numbers(messages, found, wanted, numbers)
        plain = tuple(facts.plain for facts in admitted)
        others = {at for at, (a, b) in enumerate(zip(without, messages, strict=True)) if a is not b}
        changing = frozenset(others.union(image.message for image in found))
        return Ingested(
            conversation,
            table,
            tuple(records),
            renumbered,
            tuple(found),
            tuple(called),
            plain,
            changing,
            token,
            flat_results,
        )

    async def _without_too_much(self, tenant: str, key: str) -> ImageTable:
        """The table for a request that brings no images: what was looked at since the last one that did may be too
        much."""
        table = await self._tables.get(tenant, key)
        if not to_forget(table, self._load_limits, ()):
            return table
        table, _ = await self._tables.change(
            tenant, key, lambda table: table.forget(to_forget(table, self._load_limits, ()))
        )
        return table

    async def _is_lost(self, tenant: str, facts: Admitted) -> bool:
        """Where the image was before it may have been deleted, by another process."""
        try:
            return not facts.problem and await self._blobs.get(tenant, facts.digest) is None
        except StoreError as error:
            log.warning("an image could not be read: %s", error)
            return False

    async def _drop_deleted(self, tenant: str, records: Sequence[ImageRecord]) -> None:
        """The client still sends what was deleted, and letting it in has put its bytes back."""
        for digest in {row.digest for row in records if row.problem == DELETED}:
            try:
                if self._holders is not None and not await self._holders.held(tenant, digest):
                    await self._blobs.delete(tenant, digest)
            except StoreError as error:
                log.warning("a deleted image could not be dropped: %s", error)

    async def _keep_rows(self, where: str, records: Sequence[ImageRecord], fresh: Collection[int]) -> None:
        """Each image has a row of its own from the first request on that brings it.  `fresh`: those whose bytes have
        just been put into the store; their rows are used then too, so that no part of an image goes before others."""
        due = {
            row.number: row
            for row in records
            if row.problem != DELETED and (row.number in fresh or f"{where}/{row.number}" not in self._has_row)
        }
        if not due:
            return
        rows = list(due.values())
        marks = [
            self._holders.mark(where, row.digest, row.number)
            for row in rows
            if self._holders is not None and not row.problem
        ]
        try:
            await self._rows.add_many(where, rows, before=marks)  # the marks first: who deletes goes by the rows
            for number in due:
                self._has_row.put(f"{where}/{number}", True)
            await self._take_back(where, rows)
        except StoreError as error:
            log.warning("the row of an image could not be kept: %s", error)

    async def _with_remote(self, remote: RemoteImages, arrival: _Arrival) -> list[Admitted]:
        """What was admitted, and those by URL as they were found the first time in this conversation.

        Only now is it known which conversation that is.  Its opening has the URL, not what is there: a page that
        changes must not make another conversation of it.
        """
        tenant, key = arrival.conversation.tenant, arrival.conversation.key
        table = await self._tables.get(tenant, key)
        if not table.kept:
            table, _ = await self._tables.change(tenant, key, arrival.begin)
        fetched = await remote.of(
            tenant,
            place(tenant, key, table) if table.kept else None,
            [image.source.url for image in arrival.found if isinstance(image.source, RemoteImage)],
            newest=arrival.newest_urls(),
            deleted={digest for digest, number in table.recent.items() if number in table.deleted},
        )
        return [
            _of_fetched(facts, fetched[image.source.url]) if isinstance(image.source, RemoteImage) else facts
            for image, facts in zip(arrival.found, arrival.admitted, strict=True)
        ]

    async def _take_back(self, where: str, rows: Sequence[ImageRecord]) -> None:
        """What was deleted while it was kept.  Raises `StoreError`."""
        table = await self._tables.at(where)
        tenant = where.partition("/")[0]
        for row in rows:
            if table is None or row.number in table.deleted:
                if self._holders is None or await self._holders.let_go(where, row.digest, row.number):
                    await self._blobs.delete(tenant, row.digest)
                await self._rows.delete(where, row.number)


def _of_fetched(unknown: Admitted, image: FetchedImage) -> Admitted:
    if not image.is_there:
        return replace(unknown, problem=image.problem)
    return Admitted(image.digest, image.media_type, image.width, image.height, image.bytes)


def _find(messages: list[Any], token: str, flat_results: bool) -> tuple[list[FoundImage], list[Any]]:
    """The images, and the messages without them and without what nobody can open."""
    found: list[FoundImage] = []
    if inside_json(messages) > MOST_INSIDE:
        raise BodyTooLarge(f"what tools said holds images in more than {MOST_INSIDE} lists and objects")

    def note(image: FoundImage) -> str:
        found.append(image)
        if len(found) > MOST_IMAGES:
            raise BodyTooLarge(f"the messages hold more than {MOST_IMAGES} images")
        return ""

    return found, replace_images(messages, note, token, flat_results=flat_results)


def _record(
    number: int, origin: str, facts: Admitted, file: str, now: float, *, first_turn: int, deleted: bool
) -> ImageRecord:
    return ImageRecord(
        number=number,
        digest=facts.digest,
        media_type=facts.media_type,
        width=facts.width,
        height=facts.height,
        bytes=facts.size,
        origin=origin,
        problem=DELETED if deleted else facts.problem,
        file=file,
        first_seen=now,
        last_used=now,
        first_turn=first_turn,
    )


@dataclass(frozen=True, slots=True)
class _Arrival:
    """What a request brings to the table of its conversation."""

    conversation: Conversation
    client: str
    now: float
    messages: Sequence[Any]
    found: Sequence[FoundImage]
    admitted: Sequence[Admitted]

    def begin(self, table: ImageTable) -> None:
        if not table.created:
            table.name, table.client, table.created = self.conversation.name, self.client, self.now

    def newest_urls(self) -> set[str]:
        """Of the newest turn."""
        newest_from = _newest_turn(self.messages)
        late = (image.source for image in self.found if image.message >= newest_from)
        return {source.url for source in late if isinstance(source, RemoteImage)}

    def settle(
        self,
        table: ImageTable,
        numbers: Sequence[int],
        new: Collection[int],
        tokens: Tokens,
        limits: LoadLimits,
    ) -> Collection[int]:
        """New images are loaded, and those that the newest turn shows again; then what is too much is forgotten.
        Answers the new ones."""
        self.begin(table)
        if self.now - table.used > _USED_SECONDS:
            table.used = self.now
        newest_from = _newest_turn(self.messages)
        newest: set[int] = set()
        for image, facts, number in zip(self.found, self.admitted, numbers, strict=True):
            if facts.problem or number in table.deleted:
                continue
            if image.message >= newest_from:
                newest.add(number)
            adds = tokens(image, facts)
            if number in table.loaded and number not in new and image.message >= newest_from:
                table.use(number)  # shown again is used again
            if number in table.loaded or not adds:
                continue
            of_tool = origin_of(self.messages, image) == "tool"
            if number in new:
                table.arrive(number, tool=of_tool, tokens=adds)
            elif image.message >= newest_from:
                table.use(number, adds, tool=of_tool)
        table.forget(to_forget(table, limits, newest))
        return new


def _newest_turn(messages: Sequence[Any]) -> int:
    """The index of the first message that no answer has followed yet."""
    for index in range(len(messages), 0, -1):
        message = messages[index - 1]
        if isinstance(message, dict) and message.get("role") == "assistant":
            return index
    return 0
