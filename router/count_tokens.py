"""How many tokens a request would have: the text model's server counts what it would get of it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import Final

import orjson

from router.brain import Brain, choose
from router.door import Caller
from router.endpoints import prepare, read_cut, rooms_of, upstream_headers
from router.errors import UpstreamBroken, UpstreamError
from router.intake.counting import ClosedEyes
from router.missing_path import explained
from router.protocol.messages.format import AnthropicMessages
from router.protocol.wire_format import WireFormat
from router.relay import RETRY_SECONDS, silence_limit
from router.response import Receive, Send, send_json, unless_gone
from router.upstream import UNREACHED

log = logging.getLogger("chiasm")

_PATH: Final = "/count_tokens"
"""Behind the format's own."""

_MOST_BYTES: Final = 64 * 1024
"""Of an answer that holds one number."""


async def _count(wire: WireFormat, caller: Caller, scope: object, receive: Receive, send: Send) -> None:
    rooms = rooms_of(scope)
    rooms.answered_by(asyncio.current_task())
    skeleton, cuts = await read_cut(rooms, scope, receive)
    request = wire.parse(skeleton)
    del skeleton
    brain = await choose(rooms.brains, request.get("model") or "")

    async def answer() -> None:
        async with rooms.counting.preparation(caller.tenant) as preparation:
            eyes = None if brain.eyes is None else ClosedEyes(brain.eyes)
            prepared = await prepare(
                replace(rooms, preparation=preparation), wire, caller, brain, request, cuts, eyes=eyes
            )
            asked = wire.as_sent(await prepared.fill(prepared.request))
        body = await _told(wire, brain, caller, asked)
        await send_json(send, 200, body, {"x-request-id": caller.request_id})

    await unless_gone(receive, answer())


messages = partial(_count, AnthropicMessages())
"""`POST /v1/messages/count_tokens`."""


async def _told(wire: WireFormat, brain: Brain, caller: Caller, asked: object) -> bytes:
    """Asks once more at most, and only where nobody has answered.  Raises `UpstreamError`."""
    begun, outcome, path = time.monotonic(), "cancelled", wire.path + _PATH
    try:
        try:
            told = await _once(path, wire, brain, caller, asked)
        except UpstreamError as error:
            if error.code not in UNREACHED:
                raise
            await asyncio.sleep(RETRY_SECONDS)
            told = await _once(path, wire, brain, caller, asked)
        outcome = "passed"
    except UpstreamError as error:
        failed = explained(brain.upstream.redacted(error), path)
        outcome = failed.code or failed.type
        raise failed from None
    finally:
        ms = (time.monotonic() - begun) * 1000
        name = brain.settings.name or "-"
        log.info("%s model=%s path=%s outcome=%s ms=%d", caller.request_id, name, path, outcome, ms)
    return told


async def _once(path: str, wire: WireFormat, brain: Brain, caller: Caller, asked: object) -> bytes:
    body = bytearray()
    assert isinstance(asked, dict)
    async with (
        silence_limit(brain.settings.first_byte_seconds),
        brain.upstream.complete(path, asked, upstream_headers(caller, wire)) as answer,
    ):
        async for data in answer.chunks:
            body += data
            if len(body) > _MOST_BYTES:
                raise UpstreamBroken("the text model's server answered more than a number of tokens")
    try:
        counted = isinstance(orjson.loads(body)["input_tokens"], int)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        counted = False
    if not counted:
        raise UpstreamBroken("the text model's server did not answer with a number of tokens")
    return bytes(body)
