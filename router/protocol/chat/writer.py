"""Writes Chat Completions in one canonical form, which every client we know can read:

*   one `id`, `created`, `model`; the role in the first chunk only;
*   text and reasoning in chunks of their own; tool calls one after the other, counted from 0, with `id`, `type`
    and `name` in the first fragment only;
*   one chunk with the finish reason and the delta `{"content":""}` (claude-code-router drops a chunk whose delta is
    empty); usage in a last chunk with `choices: []` when the client asked for that, else with the finish reason;
*   `[DONE]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

import orjson

from router.errors import ChiasmError
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
from router.protocol.reasoning_details import FIELD as DETAILS
from router.protocol.reasoning_details import fragments
from router.protocol.sse import comment, data_event
from router.protocol.wire_format import Envelope

DONE = b"data: [DONE]\n\n"


class ChunkWriter:
    """Writes the client's stream.  Hot: one call per chunk, so the constant bytes are made once."""

    def __init__(
        self, *, fallback: Envelope, include_usage: bool, reasoning_fields: Sequence[str] = ("reasoning_content",)
    ) -> None:
        self._fallback = fallback
        self._include_usage = include_usage
        # Joined, which makes new bytes: those of orjson hold 4 KiB as long as they live, however few they are.
        self._reasoning_fields = [b"%b:" % orjson.dumps(name) for name in reasoning_fields]
        self._before = b""
        """A chunk up to its first choice; empty until the stream is open."""

    def write(self, part: Part) -> bytes:
        match part:
            case Text(text, logprobs):
                return self._delta(b'"content":' + orjson.dumps(text), logprobs)
            case Reasoning(text, logprobs):
                value = orjson.dumps(text)
                return self._delta(b",".join([name + value for name in self._reasoning_fields]), logprobs)
            case ToolStart(slot, id_, name, extra):
                function = {"name": name, "arguments": ""}
                call = {"index": slot, "id": id_, "type": "function", "function": function, **extra}
                return self._delta(b'"tool_calls":' + orjson.dumps([call]))
            case ToolArgs(slot, text):
                return self._delta(b'"tool_calls":' + orjson.dumps([{"index": slot, "function": {"arguments": text}}]))
            case Head():
                return self._open(part)
            case Opaque(delta, choice):
                if choice is not None:
                    return self._opening() + data_event(self._before + orjson.dumps(choice) + b"]}")
                return self._delta(orjson.dumps(delta)[1:-1])
            case Finish() | Usage() | ErrorFrame() | Block():
                return b""
            case _:
                assert_never(part)

    def heartbeat(self) -> bytes:
        return comment("keep-alive")

    def empty_chunk(self) -> bytes:
        """A heartbeat for clients whose clocks only count chunks."""
        return self._delta(b"")

    def complete(self, reason: str, usage: Mapping[str, Any] | None) -> bytes:
        opening = self._opening()
        finish = b'{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":' + orjson.dumps(reason) + b"}]"
        if usage is None:
            return opening + data_event(self._before + finish + b"}") + DONE
        tail = b',"usage":' + orjson.dumps(usage) + b"}"
        if self._include_usage:
            return opening + data_event(self._before + finish + b"}") + data_event(self._before + b"]" + tail) + DONE
        return opening + data_event(self._before + finish + tail) + DONE

    def fail(self, error: ChiasmError) -> bytes:
        return data_event(orjson.dumps(error_body(error))) + DONE

    def _delta(self, members: bytes, logprobs: Any = None) -> bytes:
        told = b"null" if logprobs is None else orjson.dumps(logprobs)
        return b"".join(
            (
                self._opening(),
                b"data: ",
                self._before,
                b'{"index":0,"delta":{',
                members,
                b'},"logprobs":',
                told,
                b',"finish_reason":null}]}\n\n',
            )
        )

    def _opening(self) -> bytes:
        return b"" if self._before else self._open(Head())

    def _open(self, head: Head) -> bytes:
        """The first chunk: the role, and the envelope that all later ones repeat."""
        if self._before:  # heartbeats opened the stream already
            return b""
        envelope = {
            "id": head.id or self._fallback.id,
            "object": "chat.completion.chunk",
            "created": head.created or self._fallback.created,
            "model": self._fallback.model,
            **head.extra,
        }
        self._before = orjson.dumps(envelope)[:-1] + b',"choices":['
        return self._delta(b'"role":"assistant","content":""')


class CompletionWriter:
    """Collects the parts of all turns and writes one `chat.completion` at the end."""

    def __init__(
        self,
        *,
        fallback: Envelope,
        last_raw: Callable[[], Mapping[str, Any]],
        reasoning_fields: Sequence[str] = ("reasoning_content",),
    ) -> None:
        self._fallback = fallback
        self._last_raw = last_raw
        """The server's own object of the last turn: what we do not understand in it rides along."""
        self._reasoning_fields = reasoning_fields
        self._head = Head()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._details: list[Any] = []

    def write(self, part: Part) -> bytes:
        match part:
            case Text(text):
                self._text.append(text)
            case Reasoning(text):
                self._reasoning.append(text)
            case ToolStart(_, id_, name, extra):
                function = {"name": name, "arguments": ""}
                self._calls.append({"id": id_, "type": "function", "function": function, **extra})
            case ToolArgs(slot, text):
                self._calls[slot]["function"]["arguments"] += text
            case Head():
                self._head = part
            case Opaque(delta):
                self._details += fragments(delta)
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
        raw = dict(self._last_raw())
        choices = [dict(choice) for choice in raw.get("choices") or [{}] if isinstance(choice, dict)]
        message = dict(choices[0].get("message") or {})
        text, reasoning = "".join(self._text), "".join(self._reasoning)
        if "tool_calls" in message:
            message.pop("function_call", None)  # llama-cpp-python says every call in both ways
        for name in ("reasoning", "reasoning_content", DETAILS, "tool_calls"):
            message.pop(name, None)
        message |= {"role": "assistant", "content": text or (None if self._calls else "")}
        if reasoning:
            message |= dict.fromkeys(self._reasoning_fields, reasoning)
        if self._details:
            message[DETAILS] = self._details
        if self._calls:
            message["tool_calls"] = self._calls
        choices[0] |= {"index": 0, "message": message, "finish_reason": reason}
        choices[0].setdefault("logprobs", None)
        raw |= {
            "id": self._head.id or self._fallback.id,
            "object": "chat.completion",
            "created": self._head.created or self._fallback.created,
            "model": self._fallback.model,
            "choices": choices,
        }
        raw.pop("usage", None)
        if usage is not None:
            raw["usage"] = usage
        return orjson.dumps(raw)

    def fail(self, error: ChiasmError) -> bytes:
        return orjson.dumps(error_body(error))


def error_body(error: ChiasmError) -> dict[str, Any]:
    """The error envelope: `{"error": {"message", "type", "param", "code"}}`."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": getattr(error, "param", None),
            "code": error.code,
        }
    }
