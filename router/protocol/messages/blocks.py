"""The blocks of one message, while a server says them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from router.protocol.messages.inputs import input_of
from router.protocol.parts import CALL, Block, Opaque, Part, Reasoning, Text, ToolArgs, ToolStart

_CALL_FIELDS = frozenset({"type", "id", "name", "input"})

_KINDS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
    "citations_delta": "text",
}
"""The block that a delta belongs to; input belongs to any."""


@dataclass(slots=True)
class _Open:
    """A block while it is being said."""

    kind: str
    value: dict[str, Any]
    """As it began."""
    pieces: list[str] = field(default_factory=list)
    """Of its text, thought or input."""
    slot: int = -1
    """Of a call."""
    citations: list[Any] = field(default_factory=list)
    done: Mapping[str, Any] | None = None
    """As it stands in a history; empty for what is not worth it."""

    @property
    def said(self) -> str:
        return "".join(self.pieces)


class Blocks:
    """The blocks of one message."""

    def __init__(self, mint_id: Callable[[], str]) -> None:
        self._mint_id = mint_id
        self._waiting: deque[_Open] = deque()
        """Those that began and were not reported yet."""
        self._at: dict[int | None, _Open] = {}
        self._last: _Open | None = None
        self._ids: set[str] = set()
        self._slots = 0

    def start(self, index: int | None, raw: Mapping[str, Any]) -> Iterable[Part]:
        if (before := self._at.get(index)) is not None:
            yield from self._end(before)
        kind = _text(raw.get("type")) or "text"
        if kind == "thinking" and self._last is not None and self._last.value.get("signature"):
            yield Opaque({"end": kind})  # what was signed is signed as it is
        block = self._last = self._at[index] = _Open(kind, dict(raw))
        self._waiting.append(block)
        if kind == "tool_use":
            yield from self._start_call(block)
        elif kind in ("text", "thinking") and (text := _text(raw.get(kind))):
            yield from self._grow(block, text)

    def _start_call(self, block: _Open) -> Iterable[Part]:
        id_ = _text(block.value.get("id"))
        if not id_ or id_ in self._ids:
            id_ = self._mint_id()
        self._ids.add(id_)
        block.slot = self._slots
        self._slots += 1
        extra = {name: value for name, value in block.value.items() if name not in _CALL_FIELDS}
        yield ToolStart(block.slot, id_, _text(block.value.get("name")), extra)

    def delta(self, index: int | None, delta: Mapping[str, Any]) -> Iterable[Part]:
        said = _text(delta.get("type"))
        block = self._at.get(index) if index is not None else self._last
        kind = _KINDS.get(said)
        if block is None or block.done is not None or (kind is not None and block.kind != kind):
            if kind is None:
                return  # input without a call
            yield from self.start(index, {"type": kind, kind: ""})
            block = self._at[index]
        match said:
            case "text_delta":
                yield from self._grow(block, _text(delta.get("text")))
            case "thinking_delta":
                yield from self._grow(block, _text(delta.get("thinking")))
            case "input_json_delta":
                yield from self._grow(block, _text(delta.get("partial_json")))
            case "signature_delta":
                block.value["signature"] = _text(delta.get("signature"))
            case "citations_delta":
                block.citations.append(delta.get("citation"))
                yield Opaque({"citation": delta.get("citation")})
            case _:
                block.value |= {name: value for name, value in delta.items() if name != "type"}

    def _grow(self, block: _Open, text: str) -> Iterable[Part]:
        if not text:
            return
        block.pieces.append(text)
        if block.kind == "text":
            yield Text(text)
        elif block.kind == "thinking":
            yield Reasoning(text)
        elif block.kind == "tool_use":
            yield ToolArgs(block.slot, text)

    def stop(self, index: int | None) -> Iterable[Part]:
        block = self._at.get(index) if index is not None else self._last
        if block is not None:
            yield from self._end(block)

    def finish(self) -> Iterable[Part]:
        """The message says that it is over."""
        for block in [*self._waiting]:
            yield from self._end(block)

    def _end(self, block: _Open) -> Iterable[Part]:
        if block.done is not None:
            return
        match block.kind:
            case "text":
                yield from self._end_text(block)
            case "thinking":
                yield from self._end_thought(block)
            case "tool_use":
                if not block.said.strip():
                    yield ToolArgs(block.slot, _written(block.value.get("input") or {}))
                block.done = CALL
            case _:
                if block.pieces:
                    block.value["input"] = input_of(block.said)
                block.done = block.value
                yield Opaque({"block": block.done})
        while self._waiting and (done := self._waiting[0].done) is not None:
            self._waiting.popleft()
            if done:
                yield Block(done)

    def _end_text(self, block: _Open) -> Iterable[Part]:
        block.done = {**block.value, "text": block.said} if block.pieces else {}
        if block.citations:
            block.done = {**block.done, "citations": block.citations}
            yield Opaque({"end": "text"})

    def _end_thought(self, block: _Open) -> Iterable[Part]:
        signature = block.value.get("signature")
        block.done = {**block.value, "thinking": block.said, "signature": signature or ""}
        if block.pieces:
            if signature is not None:
                yield Opaque({"signature": signature})
        elif signature:
            yield Opaque({"block": block.done})
        else:
            block.done = {}


def _written(given: object) -> str:
    try:
        return orjson.dumps(given).decode()
    except TypeError:  # nested deeper than it writes
        return "{}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
