"""Bytes in, an exchange, bytes out: what each address answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from router.brain import Brain, choose, unknown_model
from router.config import ServerSettings, Settings
from router.conversation import SESSION_HEADERS
from router.door import Caller, read_body, told
from router.errors import BodyTooLarge, ChiasmError, ShuttingDown
from router.preparation import Preparation, Prepared
from router.protocol.chat.format import ChatCompletions
from router.protocol.cuts import Cuts, cut
from router.protocol.exchange import Exchange
from router.protocol.wire_format import Envelope, WireFormat
from router.relay import Out, Relay
from router.response import ClientGone, EventStream, Receive, Send, send_json, unless_gone

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


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the endpoints work with; made once by the application."""

    settings: Settings
    brains: Sequence[Brain]
    preparation: Preparation
    answering: set[asyncio.Task[Any]] = field(default_factory=set)
    """The tasks of running exchanges."""

    async def last_words(self) -> None:
        """At the end of the process: let those that were cut tell their clients.

        The server cancels them, then ends the lifespan and at once itself, by the signal that it was sent; without
        this, streams would break off without a word.
        """
        if self.answering:
            await asyncio.wait(set(self.answering), timeout=_LAST_WORDS_SECONDS)


def _rooms(scope: Any) -> Rooms:
    rooms = scope["state"]["rooms"]
    assert isinstance(rooms, Rooms)
    return rooms


# Completions


async def _completion(wire: WireFormat, caller: Caller, scope: Any, receive: Receive, send: Send) -> None:
    rooms = _rooms(scope)
    task = asyncio.current_task()
    assert task is not None
    rooms.answering.add(task)
    task.add_done_callback(rooms.answering.discard)
    most = int(rooms.settings.server.max_body_mib * 2**20)
    skeleton, cuts = cut(await read_body(scope, receive, most=most), f"chiasm{secrets.token_hex(16)}x")
    if len(skeleton) > _MOST_TEXT_BYTES:
        raise BodyTooLarge(f"the body holds more than {_MOST_TEXT_BYTES // 2**20} MiB beside its pictures")
    request = wire.parse(skeleton)
    del skeleton
    brain = await choose(rooms.brains, request.get("model") or "")
    chat = _Chat(rooms, wire, caller, brain, await brain.name(), request, cuts)
    del request, cuts  # the pictures go when the chat has put them into the store
    if chat.streams:
        await _stream(chat, rooms.settings.server, receive, send)
    else:
        await _whole(chat, receive, send)


chat_completions = partial(_completion, ChatCompletions())
"""`POST /v1/chat/completions`."""


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
            await out.finish(writer.fail(ShuttingDown("the server is shutting down")))
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
        begun = time.monotonic()
        outcome = "failed"
        settings = self._brain.settings
        prepared = await self._prepare()
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
            out=out,
            toolbox=prepared.toolbox,
            keep=prepared.keep,
            fill=prepared.fill,
            as_sent=self._wire.as_sent,
            first_byte_seconds=settings.first_byte_seconds,
            idle_seconds=settings.idle_seconds,
        )
        try:
            outcome = (await relay.run()).reason
        except ChiasmError as error:
            outcome = error.code or error.type
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            log.info(
                "%s model=%s turns=%d looks=%d outcome=%s ms=%d",
                self._caller.request_id,
                settings.name or "-",
                exchange.turns,
                exchange.vision.calls,
                outcome,
                (time.monotonic() - begun) * 1000,
            )

    async def _prepare(self) -> Prepared:
        request, self._request = self._request, {}
        cuts, self._cuts = self._cuts, None
        prepared = await prepare(self._rooms, self._wire, self._caller, self._brain, request, cuts)
        if prepared.conversation:
            self.headers["x-chiasm-conversation"] = prepared.conversation
        return prepared

    def _mint_call_id(self) -> str:
        return f"{self._wire.call_prefix}{secrets.token_hex(12)}"


async def prepare(
    rooms: Rooms, wire: WireFormat, caller: Caller, brain: Brain, request: dict[str, Any], cuts: Cuts | None
) -> Prepared:
    """The client's request, as `wire.parse` answered it, made into the brain's."""
    profile, settings = await brain.profile(), brain.settings
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
        eyes=brain.eyes,
        tenant=caller.tenant,
        headers=caller.headers,
        thoughts=wire.thoughts(profile),
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
    rows = [_model_row(await brain.name(), brain) for brain in _rooms(scope).brains]
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
