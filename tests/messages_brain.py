"""What a brain says in Messages, piece by piece, for `tests.brain.Brain`:

    brain.will(says_message(thinks("Hm.", "sig"), "Let me look.", looks(1, "What?")), says_message("A cat."))

Streams come as Anthropic's own; whole messages where none was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

import orjson

from tests.brain import Asked, Calls, Script, Waits, Wire, whole

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Thought:
    text: str
    signature: str | None = "signed"


@dataclass(frozen=True, slots=True)
class Raw:
    """A block that comes whole."""

    block: Mapping[str, Any]


Said: TypeAlias = str | Thought | Calls | Raw | Waits


def event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **fields}) + b"\n\n"


def start(id_: str = "msg_1", **usage: int) -> bytes:
    message = {"id": id_, "type": "message", "role": "assistant", "content": [], "model": "brain-7b"}
    told = {"input_tokens": 100, "output_tokens": 1, **usage}
    return event("message_start", message={**message, "stop_reason": None, "stop_sequence": None, "usage": told})


def opens(index: int, kind: str, **fields: Any) -> bytes:
    return event("content_block_start", index=index, content_block={"type": kind, **fields})


def grows(index: int, kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def closes(index: int) -> bytes:
    return event("content_block_stop", index=index)


def words(index: int, *pieces: str) -> bytes:
    deltas = b"".join(grows(index, "text_delta", text=piece) for piece in pieces)
    return opens(index, "text", text="") + deltas + closes(index)


def thoughts(index: int, *pieces: str, signature: str | None = "signed") -> bytes:
    deltas = b"".join(grows(index, "thinking_delta", thinking=piece) for piece in pieces)
    signed = b"" if signature is None else grows(index, "signature_delta", signature=signature)
    return opens(index, "thinking", thinking="", signature="") + deltas + signed + closes(index)


def call(index: int, name: str, *pieces: str, id_: str = "") -> bytes:
    deltas = b"".join(grows(index, "input_json_delta", partial_json=piece) for piece in pieces)
    id_ = id_ or f"toolu_{name}_{index}"
    return opens(index, "tool_use", id=id_, name=name, input={}) + deltas + closes(index)


def ends(reason: str | None = "end_turn", *, sequence: str | None = None, **usage: int) -> bytes:
    told = {"output_tokens": 10, **usage}
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    return event("message_delta", delta=delta, usage=told) + event("message_stop")


def says_message(
    *pieces: Said,
    reason: str | None = None,
    read: int = 100,
    written: int = 10,
    usage: Mapping[str, int] | None = None,
    before: Sequence[bytes] = (),
) -> Script:
    """`read`, `written`: tokens.  `before`: bytes ahead of the stream."""
    id_ = f"msg_{next(_numbers):08}"
    ids = {piece: piece.id or f"toolu_{next(_numbers):08}" for piece in pieces if isinstance(piece, Calls)}
    stop = reason or ("tool_use" if ids else "end_turn")
    told = {"input_tokens": read, **(usage or {})}

    async def script(asked: Asked, wire: Wire) -> None:
        if asked.json.get("stream"):
            await streamed(asked, wire)
            return
        for piece in pieces:
            if isinstance(piece, Waits):
                await _waited(piece)
        message = {
            "id": id_,
            "type": "message",
            "role": "assistant",
            "model": "brain-7b",
            "content": [block for piece in pieces if (block := _block(piece, ids)) is not None],
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {**told, "output_tokens": written},
        }
        await whole(message)(asked, wire)

    async def streamed(asked: Asked, wire: Wire) -> None:
        await wire.head(200, {"content-type": "text/event-stream; charset=utf-8"})
        for data in before:
            await wire.send(data)
        await wire.send(start(id_, **told))
        index = 0
        for piece in pieces:
            if isinstance(piece, Waits):
                await _waited(piece)
                continue
            await wire.send(_bytes(index, piece, ids))
            index += 1
        await wire.send(ends(stop, output_tokens=written))
        await wire.end()

    return script


def _bytes(index: int, piece: Said, ids: Mapping[Calls, str]) -> bytes:
    match piece:
        case str():
            return words(index, piece)
        case Thought(text, signature):
            return thoughts(index, text, signature=signature)
        case Calls(name, arguments):
            middle = len(arguments) // 2
            return call(index, name, arguments[:middle], arguments[middle:], id_=ids[piece])
        case Raw(block):
            return event("content_block_start", index=index, content_block=block) + closes(index)
        case Waits():
            return b""


def _block(piece: Said, ids: Mapping[Calls, str]) -> dict[str, Any] | None:
    match piece:
        case str():
            return {"type": "text", "text": piece}
        case Thought(text, signature):
            return {"type": "thinking", "thinking": text, "signature": signature or ""}
        case Calls(name, arguments):
            return {"type": "tool_use", "id": ids[piece], "name": name, "input": orjson.loads(arguments)}
        case Raw(block):
            return dict(block)
        case Waits():
            return None


async def _waited(piece: Waits) -> None:
    if isinstance(piece.until, asyncio.Event):
        await piece.until.wait()
    else:
        await asyncio.sleep(piece.until)
