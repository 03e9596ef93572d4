"""Bytes in, an exchange, bytes out: what each address answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from router.allocator import Traffic
from router.brain import Brain, choose, unknown_model
from router.config import ServerSettings, Settings
from router.door import Caller, Endpoint, read_body, told
from router.errors import BodyTooLarge, ChiasmError, ShuttingDown
from router.intake.conversation import SESSION_HEADERS
from router.intake.counting import Counting
from router.intake.preparation import Preparation, Prepared
from router.intake.response_ids import Link, ResponseIds
from router.missing_path import explained
from router.protocol.chat.format import ChatCompletions
from router.protocol.cuts import Cuts, cut
from router.protocol.exchange import Exchange
from router.protocol.messages.format import AnthropicMessages
from router.protocol.responses.format import Responses
from router.protocol.wire_format import Envelope, WireFormat
from router.relay import Out, Relay
from router.response import ClientGone, EventStream, Receive, Send, send_json, unless_gone
from router.telemetry.watch import ExchangeWatch, Watch
from tools.vision.backend import VisionBackend

log = logging.getLogger("chiasm")

REASONING_FIELDS = {
    "reasoning_content": ("reasoning_content",),
    "reasoning": ("reasoning",),
    "both": ("reasoning_content", "reasoning"),
}

_LONGEST_HEADER = 1000
"""Characters of a header that is handed on; a longer one is neither an id nor a list of features."""

_MOST_TEXT_BYTES = 32 * 2**20
"""What remains of a body without its pictures.  A million tokens are some 4 MB; parsing stops the loop meanwhile."""


_LAST_WORDS_SECONDS = 2.0
"""For writing an error to those whose answers are cut at the end; longer only for clients that do not read."""


@dataclass(slots=True)
class Rooms:
    """What the endpoints work with; made once by the application."""

    settings: Settings
    brains: Sequence[Brain]
    preparation: Preparation
    counting: Counting
    response_ids: ResponseIds
    watch: Watch
    answering: set[asyncio.Task[Any]] = field(default_factory=set)
    """The tasks of running exchanges."""
    begun: int = 0

    def answered_by(self, task: asyncio.Task[Any] | None) -> None:
        assert task is not None
        self.begun += 1
        self.answering.add(task)
        task.add_done_callback(self.answering.discard)

    def traffic(self) -> Traffic:
        return Traffic(self.begun, len(self.answering))

    async def last_words(self) -> None:
        """At the end of the process: let those that were cut tell their clients.

        The server cancels them, then ends the lifespan and at once itself, by the signal that it was sent; without
        this, streams would break off without a word.
        """
        if self.answering:
            await asyncio.wait(set(self.answering), timeout=_LAST_WORDS_SECONDS)


def rooms_of(scope: Any) -> Rooms:
    rooms = scope["state"]["rooms"]
    assert isinstance(rooms, Rooms)
    return rooms


async def read_cut(rooms: Rooms, scope: Any, receive: Receive) -> tuple[bytes | bytearray, Cuts]:
    """A request's body without its pictures, and those.  Raises `BodyTooLarge` and what `read_body` does."""
    most = int(rooms.settings.server.max_body_mib * 2**20)
    skeleton, cuts = cut(await read_body(scope, receive, most=most), f"chiasm{secrets.token_hex(16)}x")
    if len(skeleton) > _MOST_TEXT_BYTES:
        raise BodyTooLarge(
            f"the body holds more than {_MOST_TEXT_BYTES // 2**20} MiB beside its pictures; shorten its text"
        )
    return skeleton, cuts


# Completions


async def _completion(wire: WireFormat, caller: Caller, scope: Any, receive: Receive, send: Send) -> None:
    rooms = rooms_of(scope)
    rooms.answered_by(asyncio.current_task())
    skeleton, cuts = await read_cut(rooms, scope, receive)
    request = wire.parse(skeleton)
    del skeleton
    brain = await choose(rooms.brains, request.get("model") or "")
    chat = _Chat(rooms, wire, caller, brain, await brain.name(), request, cuts)
    del request, cuts  # the pictures go when the chat has put them into the store
    if chat.streams:
        await _stream(chat, rooms.settings.server, receive, send)
    else:
        await _whole(chat, receive, send)


FORMATS: tuple[WireFormat, ...] = (ChatCompletions(), AnthropicMessages(), Responses())


def completion(wire: WireFormat) -> Endpoint:
    """`POST` to the format's path under `/v1`."""
    return partial(_completion, wire)


async def _stream(chat: _Chat, server: ServerSettings, receive: Receive, send: Send) -> None:
    writer = chat.writer
    heartbeats = {"comment": writer.heartbeat, "chunk": writer.empty_chunk, "off": None}
    out = EventStream(send, chat.headers, heartbeat=heartbeats[server.heartbeat], interval=server.heartbeat_seconds)

    async def answer() -> None:
        try:
            async with out.alive():
                await chat.run(out)
        except ClientGone:
            raise
        except Exception as error:
            if not out.started:
                raise
            await out.finish(writer.fail(told(error, chat.headers["x-request-id"])))

    try:
        await unless_gone(receive, answer())
    except asyncio.CancelledError:  # the time to drain is over
        if out.started and not out.finished:
            await out.finish(writer.fail(ShuttingDown("this Chiasm is shutting down; send the request again")))
        raise


async def _whole(chat: _Chat, receive: Receive, send: Send) -> None:
    out = _Collected()
    await unless_gone(receive, chat.run(out))
    await send_json(send, 200, bytes(out.body), chat.headers)


class _Collected:
    """Where the answer goes for a client that does not stream."""

    def __init__(self) -> None:
        self.body = bytearray()

    async def write(self, data: bytes) -> None:
        self.body += data

    async def finish(self, data: bytes) -> None:
        self.body += data

    async def beat(self) -> None:
        """Nobody listens yet."""


class _Chat:
    """One request, from its parsed body to its last byte."""

    def __init__(
        self,
        rooms: Rooms,
        wire: WireFormat,
        caller: Caller,
        brain: Brain,
        model: str,
        request: dict[str, Any],
        cuts: Cuts,
    ) -> None:
        """`model`: the name the client knows the brain by."""
        self._rooms = rooms
        self._wire = wire
        self._caller = caller
        self._brain = brain
        self._model = model
        self._request = request
        self._cuts: Cuts | None = cuts
        self.streams = bool(request.get("stream"))
        self._answering = wire.answering(
            request,
            Envelope(f"{wire.id_prefix}{secrets.token_hex(12)}", int(time.time()), model),
            mint_id=self._mint_call_id,
            reasoning_fields=REASONING_FIELDS[rooms.settings.server.reasoning_field],
        )
        self.writer = self._answering.writer
        self.headers = {"x-request-id": caller.request_id}
        """Of the answer; the conversation's name joins them before anything is sent."""

    async def run(self, out: Out) -> None:
        """Write the whole answer.  Raises the `ChiasmError` that prevented it."""
        seen = self._rooms.watch.exchange(self._caller, self._wire.name, self._brain, self._model, streams=self.streams)
        with seen:
            await self._run(out, seen)

    async def _run(self, out: Out, seen: ExchangeWatch) -> None:
        settings = self._brain.settings
        link = await self._link()
        prepared = await self._prepare(link)
        seen.conversation = prepared.conversation
        exchange = Exchange(
            dialect=self._wire.dialect(await self._brain.profile()),
            request=prepared.request,
            own=prepared.own,
            mint_id=self._mint_call_id,
            max_turns=settings.max_turns,
            looked=prepared.looked,
            late_thoughts=self._rooms.settings.server.late_reasoning == "send",
        )
        relay = Relay(
            exchange=exchange,
            upstream=self._brain.upstream,
            path=self._wire.path,
            headers=upstream_headers(self._caller, self._wire),
            reader=self._answering.reader,
            writer=self.writer,
            out=out if link is None else _Noting(out, partial(self._note, link, prepared.conversation)),
            toolbox=prepared.toolbox,
            keep=prepared.keep,
            fill=prepared.fill,
            as_sent=self._wire.as_sent,
            first_byte_seconds=settings.first_byte_seconds,
            idle_seconds=settings.idle_seconds,
            watch=seen,
        )
        try:
            seen.reason = (await relay.run()).reason
        except ChiasmError as failed:
            raise explained(failed, self._wire.path) from None
        finally:
            seen.turns, seen.looked = exchange.turns, exchange.vision

    async def _link(self) -> Link | None:
        """To the answers before and after, where servers keep those."""
        if self._answering.ids is None:
            return None
        model = self._brain.settings.name or ""
        return await self._rooms.response_ids.link(self._caller.tenant, model, self._request)

    async def _note(self, link: Link, conversation: str) -> None:
        if self._answering.ids is not None:
            await link.answered(*self._answering.ids, conversation)

    async def _prepare(self, link: Link | None) -> Prepared:
        request, self._request = self._request, {}
        cuts, self._cuts = self._cuts, None
        brain = self._brain
        prepared = await prepare(
            self._rooms, self._wire, self._caller, brain, request, cuts, eyes=brain.eyes, link=link
        )
        if prepared.conversation:
            self.headers["x-chiasm-conversation"] = prepared.conversation
        return prepared

    def _mint_call_id(self) -> str:
        return f"{self._wire.call_prefix}{secrets.token_hex(12)}"


class _Noting:
    """The way out of an answer that is noted before it ends, so that the next request finds it."""

    def __init__(self, out: Out, note: Callable[[], Awaitable[None]]) -> None:
        self._out = out
        self._note = note

    async def write(self, data: bytes) -> None:
        await self._out.write(data)

    async def finish(self, data: bytes) -> None:
        await self._note()
        await self._out.finish(data)

    async def beat(self) -> None:
        await self._out.beat()


async def prepare(
    rooms: Rooms,
    wire: WireFormat,
    caller: Caller,
    brain: Brain,
    request: dict[str, Any],
    cuts: Cuts | None,
    *,
    eyes: VisionBackend | None,
    link: Link | None = None,
) -> Prepared:
    """The client's request, as `wire.parse` answered it, made into the brain's."""
    profile, settings = await brain.profile(), brain.settings
    if link is not None:
        request = link.request(request)
    return await rooms.preparation.prepare(
        wire,
        wire.with_settings(
            wire.fit(wire.outlined(request), profile),
            profile,
            thinking=THINKING[settings.thinking],
            preset=settings.sampling == "preset",
        ),
        cuts,
        settings=settings,
        eyes=eyes,
        tenant=caller.tenant,
        headers=caller.headers if link is None else link.headers(caller.headers),
        thoughts=wire.thoughts(profile),
        link=link,
        request_id=caller.request_id,
    )


THINKING = {"on": True, "off": False, "client": None}


def upstream_headers(caller: Caller, wire: WireFormat) -> dict[str, str]:
    """What a server may want to know: the request id, the session for its routing, what the format asks for.  Never the
    client's key."""
    sessions = {name: value for name in SESSION_HEADERS if (value := caller.headers.get(name))}
    told = {
        name: value
        for name, value in {**sessions, **wire.upstream_headers(caller.headers)}.items()
        if len(value) <= _LONGEST_HEADER and value.isascii() and value.isprintable()
    }
    return {"x-request-id": caller.request_id, **told}


# Models


async def models(caller: Caller, scope: Any, receive: Receive, send: Send) -> None:
    """`GET /v1/models` and `GET /v1/models/{id}`."""
    rows = [_model_row(await brain.name(), brain) for brain in rooms_of(scope).brains]
    wanted = scope["path_params"].get("model")
    if wanted is None:
        answer: dict[str, Any] = {"object": "list", "data": rows}
    else:
        found = next((row for row in rows if row["id"] == wanted), None)
        if found is None:
            raise unknown_model(wanted, [row["id"] for row in rows])
        answer = found
    await send_json(send, 200, orjson.dumps(answer), {"x-request-id": caller.request_id})


def _model_row(name: str, brain: Brain) -> dict[str, Any]:
    """Clients decide by this whether a user may attach an image at all, each by a field of its own."""
    inputs = ["text"] if brain.settings.images == "off" else ["text", "image"]
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "chiasm",
        "modalities": {"input": inputs, "output": ["text"]},
        "architecture": {"input_modalities": inputs, "output_modalities": ["text"]},
        "input_modalities": inputs,
        "output_modalities": ["text"],
        "capabilities": {"vision": "image" in inputs, "function_calling": True},
    }
