"""Bytes in, an exchange, bytes out: what each address answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from router import chat_request
from router.brain import Brain, choose, unknown_model
from router.config import ServerSettings, Settings
from router.conversation import SESSION_HEADERS
from router.door import Caller, read_body, told
from router.errors import BodyTooLarge, ChiasmError, ShuttingDown
from router.preparation import Preparation, Prepared
from router.protocol.cuts import Cuts, cut
from router.protocol.dialect import Reader, Writer
from router.protocol.exchange import Exchange
from router.protocol.history import fit
from router.protocol.openai_chat import (
    ChunkReader,
    ChunkWriter,
    CompletionReader,
    CompletionWriter,
    Envelope,
    OpenAIChat,
)
from router.relay import Out, Relay
from router.response import ClientGone, EventStream, Receive, Send, send_json, unless_gone

log = logging.getLogger("chiasm")

REASONING_FIELDS = {
    "reasoning_content": ("reasoning_content",),
    "reasoning": ("reasoning",),
    "both": ("reasoning_content", "reasoning"),
}

_LONGEST_SESSION = 200
"""Characters of a session header that is handed on; a longer one is no id."""

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


# Chat Completions


async def chat_completions(caller: Caller, scope: Any, receive: Receive, send: Send) -> None:
    """`POST /v1/chat/completions`."""
    rooms = _rooms(scope)
    task = asyncio.current_task()
    assert task is not None
    rooms.answering.add(task)
    task.add_done_callback(rooms.answering.discard)
    most = int(rooms.settings.server.max_body_mib * 2**20)
    skeleton, cuts = cut(await read_body(scope, receive, most=most), f"chiasm{secrets.token_hex(16)}x")
    if len(skeleton) > _MOST_TEXT_BYTES:
        raise BodyTooLarge(f"the body holds more than {_MOST_TEXT_BYTES // 2**20} MiB beside its pictures")
    request = chat_request.parse(skeleton)
    del skeleton
    brain = await choose(rooms.brains, request.get("model") or "")
    envelope = Envelope(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), await brain.name())
    chat = _Chat(rooms, caller, brain, request, cuts)
    del request, cuts  # the pictures go when the chat has put them into the store
    if chat.streams:
        await _stream(chat, envelope, rooms.settings.server, receive, send)
    else:
        await _whole(chat, envelope, rooms.settings.server, receive, send)


async def _stream(chat: _Chat, envelope: Envelope, server: ServerSettings, receive: Receive, send: Send) -> None:
    fields = REASONING_FIELDS[server.reasoning_field]
    writer = ChunkWriter(fallback=envelope, include_usage=chat.wants_usage, reasoning_fields=fields)
    heartbeats = {"comment": writer.heartbeat, "chunk": writer.empty_chunk, "off": None}
    out = EventStream(send, chat.headers, heartbeat=heartbeats[server.heartbeat], interval=server.heartbeat_seconds)

    async def answer() -> None:
        try:
            async with out.alive():
                await chat.run(writer, out)
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


async def _whole(chat: _Chat, envelope: Envelope, server: ServerSettings, receive: Receive, send: Send) -> None:
    fields = REASONING_FIELDS[server.reasoning_field]
    writer = CompletionWriter(fallback=envelope, last_raw=lambda: chat.last_raw, reasoning_fields=fields)
    out = _Collected()
    await unless_gone(receive, chat.run(writer, out))
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

    def __init__(self, rooms: Rooms, caller: Caller, brain: Brain, request: dict[str, Any], cuts: Cuts) -> None:
        self._rooms = rooms
        self._caller = caller
        self._brain = brain
        self._request = request
        self._cuts: Cuts | None = cuts
        self.streams = bool(request.get("stream"))
        self.wants_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        self.headers = {"x-request-id": caller.request_id}
        """Of the answer; the conversation's name joins them before anything is sent."""
        self._whole_answer: CompletionReader | None = None

    async def run(self, writer: Writer, out: Out) -> None:
        """Write the whole answer.  Raises the `ChiasmError` that prevented it."""
        begun = time.monotonic()
        outcome = "failed"
        settings = self._brain.settings
        prepared = await self._prepare()
        exchange = Exchange(
            dialect=OpenAIChat(await self._brain.profile()),
            request=prepared.request,
            own=prepared.own,
            mint_id=_mint_call_id,
            max_turns=settings.max_turns,
            looked=prepared.looked,
            late_thoughts=self._rooms.settings.server.late_reasoning == "send",
        )
        relay = Relay(
            exchange=exchange,
            upstream=self._brain.upstream,
            path="/chat/completions",
            headers=_upstream_headers(self._caller),
            reader=self._reader,
            writer=writer,
            out=out,
            toolbox=prepared.toolbox,
            keep=prepared.keep,
            fill=prepared.fill,
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
        profile, settings = await self._brain.profile(), self._brain.settings
        request = chat_request.with_settings(fit(self._request, profile), settings, profile)
        cuts, self._cuts, self._request = self._cuts, None, {}
        prepared = await self._rooms.preparation.prepare(
            request,
            cuts,
            settings=settings,
            eyes=self._brain.eyes,
            tenant=self._caller.tenant,
            headers=self._caller.headers,
            thoughts=profile.history_reasoning,
        )
        if prepared.conversation:
            self.headers["x-chiasm-conversation"] = prepared.conversation
        return prepared

    @property
    def last_raw(self) -> Mapping[str, Any]:
        """The server's own object of the last turn, when it did not stream."""
        return self._whole_answer.raw if self._whole_answer else {}

    def _reader(self, content_type: str) -> Reader:
        if self.streams and "json" not in content_type:
            return ChunkReader(_mint_call_id)
        self._whole_answer = CompletionReader(_mint_call_id)
        return self._whole_answer


def _mint_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _upstream_headers(caller: Caller) -> dict[str, str]:
    """What a server may want to know: the request id, and the session for its routing.  Never the client's key."""
    sessions = {
        name: value
        for name in SESSION_HEADERS
        if (value := caller.headers.get(name))
        and len(value) <= _LONGEST_SESSION
        and value.isascii()
        and value.isprintable()
    }
    return {"x-request-id": caller.request_id, **sessions}


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
