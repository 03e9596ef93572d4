"""Writes Messages in one canonical form, which every client we know can read:

*   one `message_start`, with the server's id and the name by which the client asked for the model;
*   blocks numbered from 0, each ended before the next begins.  Text goes on in the open text block and thoughts in the
    open thought, whichever turn they are of.  A thought that was signed is over: with more in it, the server would not
    take it back.  The signature is told at its end;
*   a text block even where nothing was said: clients read `content[0]`;
*   `message_delta` with the stop reason and the usage of the whole answer, then `message_stop`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, assert_never

import orjson

from router.errors import ChiasmError
from router.protocol.messages.errors import error_body
from router.protocol.messages.inputs import input_of
from router.protocol.parts import (
    Block,
    ErrorFrame,
    Finish,
    Head,
    Opaque,
    Part,
    Reasoning,
    Text,
    ToolArgs,
    ToolStart,
    Usage,
)
from router.protocol.sse import comment
from router.protocol.wire_format import Envelope

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_NOTHING_USED: Mapping[str, Any] = {"input_tokens": 0, "output_tokens": 0}
"""SDKs refuse a message without usage."""


class EventWriter:
    """Writes the client's stream.  Hot: one call per delta, so the constant bytes are made once for each block."""

    def __init__(self, *, fallback: Envelope) -> None:
        self._fallback = fallback
        self._begun = False
        self._index = -1
        self._kind = ""
        """Of the open block; empty where none is."""
        self._before = b""
        """A delta of the open block up to what it says."""
        self._signature: str | None = None
        self._ending: Mapping[str, Any] = {}

    def write(self, part: Part) -> bytes:
        match part:
            case Text(text):
                return self._say("text", text)
            case Reasoning(text):
                return self._say("thinking", text)
            case ToolStart(_, id_, name, extra):
                block = {"type": "tool_use", "id": id_, "name": name, "input": {}, **extra}
                return self._start(block, "input_json_delta", "partial_json")
            case ToolArgs(_, text):
                return self._before + orjson.dumps(text) + b"}}\n\n"
            case Head():
                return self._open(part)
            case Opaque(delta):
                return self._opaque(delta)
            case Finish() | Usage() | ErrorFrame() | Block():
                return b""
            case _:
                assert_never(part)

    def heartbeat(self) -> bytes:
        """A ping has no place before the message, and what stands there clients skip."""
        return _PING if self._begun else comment("keep-alive")

    def empty_chunk(self) -> bytes:
        return self._opening() + _PING

    def complete(self, reason: str, usage: Mapping[str, Any] | None) -> bytes:
        nothing = b"" if self._index >= 0 else self._start(*_text_block())
        stop = _stop(reason, self._ending)
        last = {"type": "message_delta", "delta": stop, "usage": _NOTHING_USED if usage is None else usage}
        return b"".join(
            (self._opening(), nothing, self._end(), _event("message_delta", last), _event("message_stop", {}))
        )

    def fail(self, error: ChiasmError) -> bytes:
        return _event("error", error_body(error))

    def _say(self, kind: str, text: str) -> bytes:
        begun = b""
        if self._kind != kind or self._signature:
            text = _at_head(kind, text)
            if not text:
                return b""
            begun = self._start(*(_text_block() if kind == "text" else _thought()))
        return begun + self._before + orjson.dumps(text) + b"}}\n\n"

    def _opaque(self, delta: Mapping[str, Any]) -> bytes:
        match delta:
            case {"signature": str(signature)}:
                if self._kind == "thinking" and not self._signature:
                    self._signature = signature
            case {"ending": Mapping() as ending}:
                self._ending = ending
            case {"end": str(kind)}:
                return self._end() if kind == self._kind else b""
            case {"citation": citation}:
                begun = b"" if self._kind == "text" else self._start(*_text_block())
                return begun + self._delta({"type": "citations_delta", "citation": citation})
            case {"block": Mapping() as block}:
                return self._start(block) + self._end()
            case _:
                pass  # of another format
        return b""

    def _start(self, block: Mapping[str, Any], delta: str = "", name: str = "") -> bytes:
        """`delta` and `name`: the type of its deltas, and the field in which they say what they say."""
        begun = self._opening() + self._end()
        self._index += 1
        self._kind = str(block["type"])
        self._before = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,' % self._index
        self._before += f'"delta":{{"type":"{delta}","{name}":'.encode()
        value = {"index": self._index, "content_block": block}
        return begun + _event("content_block_start", value)

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})

    def _end(self) -> bytes:
        if not self._kind:
            return b""
        signature, self._signature, self._kind = self._signature, None, ""
        signed = b"" if signature is None else self._delta({"type": "signature_delta", "signature": signature})
        return signed + _event("content_block_stop", {"index": self._index})

    def _opening(self) -> bytes:
        return b"" if self._begun else self._open(Head())

    def _open(self, head: Head) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        extra = {name: value for name, value in head.extra.items() if name != "usage"}
        message = {
            **_envelope(head, self._fallback),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**_NOTHING_USED, **head.extra.get("usage", {})},
            **extra,
        }
        return _event("message_start", {"message": message})


class MessageWriter:
    """Collects the parts of all turns and writes one message at the end."""

    def __init__(self, *, fallback: Envelope, last_raw: Callable[[], Mapping[str, Any]]) -> None:
        """`last_raw`: the server's own object of the last turn; what we do not understand in it rides along."""
        self._fallback = fallback
        self._last_raw = last_raw
        self._head = Head()
        self._blocks: list[dict[str, Any]] = []
        self._pieces: list[str] = []
        """Of the last block."""
        self._open = ""
        """The kind of the last block, if more may come to it."""

    def write(self, part: Part) -> bytes:
        match part:
            case Text(text):
                self._say("text", text)
            case Reasoning(text):
                self._say("thinking", text)
            case ToolStart(_, id_, name, extra):
                self._begin({"type": "tool_use", "id": id_, "name": name, "input": {}, **extra})
            case ToolArgs(_, text):
                self._pieces.append(text)
            case Head():
                self._head = part
            case Opaque(delta):
                self._opaque(delta)
            case Finish() | Usage() | ErrorFrame() | Block():
                pass
            case _:
                assert_never(part)
        return b""

    def heartbeat(self) -> bytes:
        return b""

    def empty_chunk(self) -> bytes:
        return b""

    def complete(self, reason: str, usage: Mapping[str, Any] | None) -> bytes:
        self._end()
        raw = self._last_raw()
        return orjson.dumps(
            {
                **raw,
                **_envelope(self._head, self._fallback),
                "content": self._blocks or [_text_block()[0]],
                **_stop(reason, raw),
                "usage": _NOTHING_USED if usage is None else usage,
            }
        )

    def fail(self, error: ChiasmError) -> bytes:
        return orjson.dumps(error_body(error))

    def _say(self, kind: str, text: str) -> None:
        if self._open != kind or self._blocks[-1].get("signature"):
            text = _at_head(kind, text)
            if not text:
                return
            self._begin((_text_block() if kind == "text" else _thought())[0])
        self._pieces.append(text)

    def _begin(self, block: dict[str, Any]) -> None:
        self._end()
        self._blocks.append(block)
        self._open = block["type"]

    def _end(self) -> None:
        said, self._pieces = "".join(self._pieces), []
        if self._open in ("text", "thinking"):
            self._blocks[-1][self._open] = said
        elif self._open == "tool_use":
            self._blocks[-1]["input"] = input_of(said)  # one that the limit cut has no place here
        self._open = ""

    def _opaque(self, delta: Mapping[str, Any]) -> None:
        match delta:
            case {"signature": str(signature)}:
                if self._open == "thinking" and not self._blocks[-1]["signature"]:
                    self._blocks[-1]["signature"] = signature
            case {"end": str(kind)}:
                if self._open == kind:
                    self._end()
            case {"citation": citation}:
                if self._open != "text":
                    self._begin(_text_block()[0])
                self._blocks[-1].setdefault("citations", []).append(citation)
            case {"block": Mapping() as block}:
                self._end()
                self._blocks.append(dict(block))
            case _:
                pass


def _envelope(head: Head, fallback: Envelope) -> dict[str, Any]:
    return {"id": head.id or fallback.id, "type": "message", "role": "assistant", "model": fallback.model}


def _at_head(kind: str, text: str) -> str:
    """What of it begins a block: nothing that is blank, which servers refuse when it comes back.  A thought needs no
    line between it and others; words do, because clients put those of all blocks together."""
    return "" if text.isspace() else text.lstrip("\n") if kind == "thinking" else text


def _text_block() -> tuple[dict[str, Any], str, str]:
    return {"type": "text", "text": ""}, "text_delta", "text"


def _thought() -> tuple[dict[str, Any], str, str]:
    return {"type": "thinking", "thinking": "", "signature": ""}, "thinking_delta", "thinking"


def _stop(reason: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """`told`: what the server said of how its last turn ended."""
    sequence = told.get("stop_sequence") if reason == "stop_sequence" else None
    more = {name: value for name, value in told.items() if name.startswith("stop_") and reason == "refusal"}
    return {**more, "stop_reason": _REASONS.get(reason, reason), "stop_sequence": sequence}


def _event(kind: str, value: Mapping[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **value}) + b"\n\n"
