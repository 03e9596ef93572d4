"""Reads what servers of Messages send: event streams and whole messages.

Anthropic's own stream ends one block before it begins the next, numbers them and ends with `message_stop`.  Of the
others, llama.cpp leaves thoughts open until the end, some give a call's whole input at its start, some forget ends,
numbers or usage.  The readers here take all of it and say the same parts, and of each finished block a `Block`, in the
order in which they began.

What has no part of its own is `Opaque`, under one of these names:

*   `signature`: of the thought that was just said;
*   `citation`: of the text that is being said, and `end` where that text's block is over;
*   `block`: a whole block that we do not understand, or a thought that nobody may read;
*   `ending`: what else a message says when it stops, such as the stop sequence that it met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from router.protocol.messages.blocks import Blocks
from router.protocol.messages.errors import STATUSES
from router.protocol.parts import ErrorFrame, Finish, Head, Opaque, Part, Usage
from router.protocol.server_json import parsed
from router.protocol.sse import EventTooLarge, SSEDecoder
from router.protocol.turn import count_of

MOST_MESSAGE_BYTES = 64 * 2**20
"""Of an answer that is not streamed; as in Chat Completions."""

_NO_WORDS = "the text model's server reported an error and gave no words for it"
_REASONS = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
_ENVELOPE = frozenset({"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"})
_READ = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
"""What a model has read is the sum of these."""


class EventReader:
    """Reads a stream of events."""

    def __init__(self, mint_id: Callable[[], str]) -> None:
        self.clean = False
        self.first: Mapping[str, Any] = {}
        self._decoder = SSEDecoder()
        self._blocks = Blocks(mint_id)
        self._usage: dict[str, Any] = {}

    def feed(self, data: bytes) -> Sequence[Part]:
        try:
            events = self._decoder.feed(data)
        except EventTooLarge as error:
            return [ErrorFrame(f"the text model's server sent garbage: {error}")]
        return [part for event in events for part in self._event(event.event, event.data)]

    def close(self) -> Sequence[Part]:
        return [part for event in self._decoder.close() for part in self._event(event.event, event.data, last=True)]

    def _event(self, name: str, data: bytes, *, last: bool = False) -> Iterable[Part]:
        """`last`: the body ended without the line that ends an event; one that was cut says nothing."""
        if self.clean:
            return
        if data.strip() == b"[DONE]":  # gateways add it
            yield from self._stopped()
            return
        try:
            event = parsed(data)
        except ValueError:
            if data.lstrip().startswith(b"{") and not last:
                yield ErrorFrame("the text model's server sent an event that is not JSON")
            return
        if not isinstance(event, dict):
            return
        kind = _text(event.get("type")) or name
        if kind == "error" or event.get("error"):
            yield _error_frame(event.get("error"))
            return
        match kind:
            case "message_start":
                yield from self._started(_mapping(event.get("message")))
            case "content_block_start":
                yield from self._blocks.start(_index(event), _mapping(event.get("content_block")))
            case "content_block_delta":
                yield from self._blocks.delta(_index(event), _mapping(event.get("delta")))
            case "content_block_stop":
                yield from self._blocks.stop(_index(event))
            case "message_delta":
                yield from self._blocks.finish()
                yield from _ending(_mapping(event.get("delta")))
                self._usage |= _told(event.get("usage"))
                if self._usage:
                    yield _usage(self._usage)
            case "message_stop":
                yield from self._stopped()

    def _started(self, message: Mapping[str, Any]) -> Iterable[Part]:
        if self.first:
            return
        self.first = message or {"type": "message"}
        self._usage = _told(message.get("usage"))
        yield _head(message)
        if self._usage:
            yield _usage(self._usage)

    def _stopped(self) -> Iterable[Part]:
        yield from self._blocks.finish()
        self.clean = True


class MessageReader:
    """Reads one whole message, as the answer to a request that did not ask for a stream."""

    def __init__(self, mint_id: Callable[[], str]) -> None:
        self.clean = False
        self.raw: dict[str, Any] = {}
        """The object itself, for the fields that we do not understand."""
        self.first: Mapping[str, Any] = {}
        self._body = bytearray()
        self._blocks = Blocks(mint_id)

    def feed(self, data: bytes) -> Sequence[Part]:
        if len(self._body) + len(data) > MOST_MESSAGE_BYTES:
            self._body.clear()
            return [ErrorFrame(f"the text model's server answered more than {MOST_MESSAGE_BYTES // 2**20} MiB")]
        self._body += data
        return ()

    def close(self) -> Sequence[Part]:
        try:
            raw = parsed(self._body.strip())
        except ValueError:
            return [ErrorFrame("the text model's server answered something that is not JSON")]
        if not isinstance(raw, dict):
            return [ErrorFrame("the text model's server answered something that is not a message")]
        if raw.get("error"):
            return [_error_frame(raw["error"])]
        content = raw.get("content")
        if not isinstance(content, list):
            return [ErrorFrame("the text model's server answered without content")]
        self.raw = self.first = raw
        self.clean = True
        parts: list[Part] = [_head(raw)]
        for index, block in enumerate(content):
            if isinstance(block, dict):
                parts += self._blocks.start(index, block)
                citations = block.get("citations")
                for citation in citations if isinstance(citations, list) else ():
                    parts += self._blocks.delta(index, {"type": "citations_delta", "citation": citation})
                parts += self._blocks.stop(index)
        parts += _ending(raw)
        if usage := _told(raw.get("usage")):
            parts.append(_usage(usage))
        return parts


def _head(message: Mapping[str, Any]) -> Head:
    extra = {name: value for name, value in message.items() if name not in _ENVELOPE and value is not None}
    return Head(id=_text(message.get("id")), extra={**extra, "usage": _told(message.get("usage"))})


def _ending(delta: Mapping[str, Any]) -> Iterable[Part]:
    more = {
        name: value
        for name, value in delta.items()
        if value is not None and (name == "stop_sequence" or (name not in _ENVELOPE and name.startswith("stop_")))
    }
    if more:
        yield Opaque({"ending": more})
    if reason := _text(delta.get("stop_reason")):
        yield Finish(_REASONS.get(reason, reason))


def _told(usage: object) -> dict[str, Any]:
    return {name: value for name, value in _mapping(usage).items() if value is not None}


def _usage(told: Mapping[str, Any]) -> Usage:
    read = sum(count_of(told, name) for name in _READ)
    return Usage({**told, "prompt_tokens": read, "completion_tokens": count_of(told, "output_tokens")})


def _error_frame(error: object) -> ErrorFrame:
    if not isinstance(error, Mapping):
        return ErrorFrame(_text(error) or _NO_WORDS)
    code = STATUSES.get(_text(error.get("type")), error.get("code"))
    return ErrorFrame(_text(error.get("message")) or _NO_WORDS, code if isinstance(code, int) else None)


def _index(event: Mapping[str, Any]) -> int | None:
    index = event.get("index")
    return index if isinstance(index, int) else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
