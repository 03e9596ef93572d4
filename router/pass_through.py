"""What goes to the text model's server as it came and comes back as it is.

Only what must be is changed: the key and the model's id are ours, and fields by which one client could reach what
belongs to others (`router.protocol.body`) are left out.  Picture data for a server that reads text is refused, since
nothing here could stand in its place; so is an address that a server with eyes would fetch.

The answer is passed on byte by byte, streamed or not, and never held whole: embeddings are megabytes.  So an error is a
status until its first byte has come.  Afterwards it is an event where the answer is a stream of events, and else the
end of the connection in the middle of the answer; both are errors to whoever reads it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any, Final

import orjson

from router.brain import Brain, choose
from router.door import Caller, told
from router.endpoints import read_cut, rooms_of, upstream_headers
from router.errors import BadRequest, ChiasmError, ShuttingDown, UpstreamBroken, UpstreamError
from router.protocol.body import check_common_fields, check_fields, drop_what_is_never_sent, json_object
from router.protocol.chat.format import ChatCompletions
from router.protocol.chat.request import MOST_ANSWERS
from router.protocol.cuts import Cuts
from router.protocol.image_parts import addresses_in, images_outside, without_pictures
from router.protocol.sse import data_event
from router.relay import RETRY_SECONDS, silence_limit
from router.response import GIVE_UP, ClientGone, Receive, Send, start, unless_gone
from router.upstream import UNREACHED, Answer

log = logging.getLogger("chiasm")


async def _pass_through(path: str, caller: Caller, scope: Any, receive: Receive, send: Send) -> None:
    rooms = rooms_of(scope)
    rooms.answered_by(asyncio.current_task())
    skeleton, cuts = await read_cut(rooms, scope, receive)
    request = json_object(skeleton)
    del skeleton
    check_common_fields(request)
    for name in ("n", "best_of"):
        check_fields(request, (name, int, "a whole number"))
        if (request.get(name) or 1) > MOST_ANSWERS:
            raise BadRequest(f"{name} must be at most {MOST_ANSWERS}", param=name)
    messages = request.get("messages")
    drop_what_is_never_sent(request, messages if isinstance(messages, list) else [])
    brain = await choose(rooms.brains, request.get("model") or "")
    request = _as_it_may_go(request, cuts, brain)
    del cuts
    out = _Out(send, caller.request_id)
    try:
        await unless_gone(receive, _answer(path, request, brain, caller, out))
    except ClientGone:
        raise
    except asyncio.CancelledError:  # the time to drain is over
        if not out.started:
            raise
        await out.fail(ShuttingDown("this Chiasm is shutting down; send the request again"), scope)
        raise
    except Exception as error:
        if not out.started:
            raise
        await out.fail(told(error, caller.request_id), scope)


completions = partial(_pass_through, "/completions")
"""`POST /v1/completions`."""

embeddings = partial(_pass_through, "/embeddings")
"""`POST /v1/embeddings`."""

tokenize = partial(_pass_through, "/tokenize")
"""`POST /tokenize`, also under `/v1`."""

detokenize = partial(_pass_through, "/detokenize")
"""`POST /detokenize`, also under `/v1`."""


def _as_it_may_go(request: dict[str, Any], cuts: Cuts, brain: Brain) -> dict[str, Any]:
    """With its pictures back, if the server may have them.  Raises `BadRequest` if not."""
    images = brain.settings.images
    if images == "native" and (field := addresses_in(request)) is not None:
        raise BadRequest(f"{field} holds an address, and nothing is fetched at this one; send the data", param=field)
    if images in _SEEING:
        restored = cuts.restored(request)
        assert isinstance(restored, dict)
        return restored
    field = images_outside(request, cuts.word)
    messages = request.get("messages")
    if field is None and without_pictures(messages, cuts.word) is not messages:
        field = "messages"
    if field is not None:
        raise BadRequest(f"{field} holds an image, and the model reads text only at this address", param=field)
    return request


_SEEING = ("off", "native")


async def _answer(path: str, request: dict[str, Any], brain: Brain, caller: Caller, out: _Out) -> None:
    """Asks once more at most, and only while nothing has come.  Raises the `ChiasmError` that prevented the answer or
    broke it off."""
    begun = time.monotonic()
    outcome = "failed"
    try:
        try:
            await _once(path, request, brain, caller, out)
        except UpstreamError as error:
            if out.started or error.code not in UNREACHED:
                raise
            await asyncio.sleep(RETRY_SECONDS)
            await _once(path, request, brain, caller, out)
        outcome = "passed"
    except UpstreamError as error:
        outcome = error.code or error.type
        raise brain.upstream.redacted(error) from None
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    finally:
        ms = (time.monotonic() - begun) * 1000
        name = brain.settings.name or "-"
        log.info("%s model=%s path=%s outcome=%s ms=%d", caller.request_id, name, path, outcome, ms)


async def _once(path: str, request: dict[str, Any], brain: Brain, caller: Caller, out: _Out) -> None:
    settings = brain.settings
    async with (
        silence_limit(settings.first_byte_seconds) as silence,
        brain.upstream.complete(path, request, upstream_headers(caller, _CHAT)) as answer,
    ):
        _check(answer)
        async for data in answer.chunks:
            silence.pause()
            await out.write(data, answer)
            silence.listen(settings.idle_seconds)
        silence.pause()
        if not out.started:
            raise UpstreamBroken("the text model's server answered nothing")
        await out.finish()


def _check(answer: Answer) -> None:
    """Raises `UpstreamBroken` for what is no answer of a model's server."""
    if answer.status != 200:
        raise UpstreamBroken(f"the text model's server answered with status {answer.status}")
    if "html" in answer.content_type.lower():
        raise UpstreamBroken("the text model's server answered with a web page")


class _Out:
    """The client's side.  Nothing is sent before the first byte of the answer is here."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self._tail = b""
        self._events = False
        """Whether the answer is a stream of events."""
        self._finished = False
        self.started = False

    async def write(self, data: bytes, answer: Answer) -> None:
        if not self.started:
            await self._start(answer)
        self._tail = (self._tail + data[-4:])[-4:]
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        self._finished = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, error: ChiasmError, scope: Any) -> None:
        """Break off what has begun, in a way that nobody takes for its end."""
        if self._finished:
            return
        if not self._events:
            scope["extensions"][GIVE_UP]()
            return
        between = b"" if self._tail.endswith(_BETWEEN_EVENTS) else b"\n\n"
        body = between + data_event(orjson.dumps(_CHAT.error_body(error))) + b"data: [DONE]\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, answer: Answer) -> None:
        self.started = True
        self._events = "event-stream" in answer.content_type
        headers = {name: answer.headers[name] for name in _TOLD if name in answer.headers}
        if self._events:
            headers |= {"cache-control": "no-store", "x-accel-buffering": "no"}  # nginx would hold the stream back
        await self._send(start(200, {**headers, "x-request-id": self._request_id}))


_TOLD = ("content-type", "content-encoding", "content-length")
"""Headers that the client needs to read the body."""

_BETWEEN_EVENTS: Final = (b"\n\n", b"\r\r", b"\r\n\r\n")

_CHAT = ChatCompletions()
"""Errors have its form here, and it adds no headers of its own."""
