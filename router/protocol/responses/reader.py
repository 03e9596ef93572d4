"""Reads what servers of Responses send: streams of events, and whole `response` objects.

OpenAI says everything three times: in deltas, in `….done` events, and in the response at the end.  Others leave some of
that out: llama.cpp numbers nothing and says `output_item.done` only when all is over, vLLM has part events of its own,
gateways send whole items without a delta.  Whatever comes first is taken, and of what repeats it only the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from router.protocol.chat.reader import MOST_COMPLETION_BYTES
from router.protocol.parts import ErrorFrame, Finish, Head, Opaque, Part, Usage
from router.protocol.responses.said_items import Items, is_item, objects, text_of
from router.protocol.server_json import is_json, parsed
from router.protocol.sse import EventTooLarge, SSEDecoder
from router.protocol.turn import count_of

_NO_WORDS = "the text model's server reported an error and gave no words for it"
_BEGINS = frozenset({"response.created", "response.in_progress", "response.queued"})
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


class _Reader:
    """What both readers share: the parts that came of one piece, and the end."""

    def __init__(self, mint_id: Callable[[], str]) -> None:
        self.clean = False
        self.first: Mapping[str, Any] = {}
        self.last: Mapping[str, Any] = {}
        """The newest `response` object."""
        self._parts: list[Part] = []
        self._items = Items(mint_id, lambda part: self._parts.append(part))

    def _head(self, response: Mapping[str, Any]) -> None:
        self.last = response
        if not self.first:
            self.first = response or {"object": None}
            self._parts.append(Head(text_of(response.get("id")), _time(response.get("created_at")), response))

    def _end(self, response: Mapping[str, Any], status: str) -> None:
        """The response as it is in the end."""
        self._head(response)
        if status in ("failed", "cancelled"):
            self._parts.append(_error(response.get("error"), "the text model's server broke its answer off"))
            return
        if not len(self._items):
            for index, item in enumerate(objects(response.get("output"))):
                if is_item(item):
                    self._whole(item, index)
        self._items.blocks(response.get("output"))
        usage = response.get("usage")
        if isinstance(usage, Mapping):
            counts = {
                "prompt_tokens": count_of(usage, "input_tokens"),
                "completion_tokens": count_of(usage, "output_tokens"),
            }
            self._parts.append(Usage({**usage, **counts}))
        self._parts.append(Finish(self._reason(response, status)))
        self.clean = True

    def _whole(self, item: dict[str, Any], index: int) -> None:
        self._items.begin(_unsaid(item), index)
        self._items.pass_on({"type": "response.output_item.added", "output_index": index, "item": item})
        self._items.end(item, index)
        self._items.pass_on({"type": "response.output_item.done", "output_index": index, "item": item})

    def _reason(self, response: Mapping[str, Any], status: str) -> str:
        if status != "incomplete":
            return "tool_calls" if self._items.calls else "stop"
        details = response.get("incomplete_details")
        reason = text_of(details.get("reason")) if isinstance(details, Mapping) else ""
        return "length" if reason in ("", "max_output_tokens", "max_tokens") else reason

    def _taken(self) -> Sequence[Part]:
        parts, self._parts = self._parts, []
        return parts


class EventReader(_Reader):
    """Reads a stream of `response.…` events."""

    def __init__(self, mint_id: Callable[[], str]) -> None:
        super().__init__(mint_id)
        self._decoder = SSEDecoder()

    def feed(self, data: bytes) -> Sequence[Part]:
        try:
            events = self._decoder.feed(data)
        except EventTooLarge as error:
            return [ErrorFrame(f"the text model's server sent garbage: {error}")]
        for event in events:
            self._event(event.data, event.event)
        return self._taken()

    def close(self) -> Sequence[Part]:
        for event in self._decoder.close():
            if event.data.startswith(b"{") and not is_json(event.data):
                break  # an event cut in half: the missing end says enough
            self._event(event.data, event.event)
        self._items.blocks(None)
        return self._taken()

    def _event(self, data: bytes, name: str) -> None:
        if self.clean:
            return
        if data.strip() == b"[DONE]":
            self.clean = True
            return
        try:
            event = parsed(data)
        except ValueError:
            if data.lstrip().startswith(b"{"):
                self._parts.append(ErrorFrame("the text model's server sent an event that is not JSON"))
            return  # a keep-alive in the wrong clothes
        if isinstance(event, dict):
            self._told(text_of(event.get("type")) or name, event)

    def _told(self, kind: str, event: dict[str, Any]) -> None:
        response = event.get("response")
        response = response if isinstance(response, dict) else {}
        if kind == "error" or (event.get("error") and not response):
            self._parts.append(_error(event.get("error") or event, _NO_WORDS))
        elif kind in _BEGINS:
            self._head(response)
        elif kind in _ENDS:
            self._end(response, text_of(response.get("status")) if kind == "response.completed" else kind[9:])
        else:
            self._head(self.last)
            self._of_item(kind, event)

    def _of_item(self, kind: str, event: dict[str, Any]) -> None:
        items, item, index = self._items, event.get("item"), event.get("output_index")
        if item is not None and not is_item(item):
            return
        match kind.removeprefix("response."):
            case "output_item.added" if isinstance(item, dict):
                items.begin(item, index)
                items.pass_on(event)
            case "output_item.done" if isinstance(item, dict):
                items.end(item, index)
                items.pass_on({**event, "type": "response.output_item.added"})  # where nobody said that before
                items.pass_on(event)
            case "output_text.delta":
                one = items.meant(event, "message")
                items.grow(one, "output_text", _at(event), text_of(event.get("delta")), event.get("logprobs"))
            case "output_text.done":
                items.whole(items.meant(event, "message"), "output_text", _at(event), event.get("text"))
            case "refusal.delta":
                items.grow(items.meant(event, "message"), "refusal", _at(event), text_of(event.get("delta")))
            case "refusal.done":
                items.whole(items.meant(event, "message"), "refusal", _at(event), event.get("refusal"))
            case "output_text.annotation.added":
                self._parts.append(Opaque({"annotation": event.get("annotation")}))
            case "reasoning_text.delta" | "reasoning.delta":
                items.grow(items.meant(event, "reasoning"), "text", _at(event), text_of(event.get("delta")))
            case "reasoning_text.done":
                items.whole(items.meant(event, "reasoning"), "text", _at(event), event.get("text"))
            case "reasoning_summary_text.delta":
                one = items.meant(event, "reasoning")
                items.grow(one, "summary", _at(event, "summary_index"), text_of(event.get("delta")))
            case "reasoning_summary_text.done":
                one = items.meant(event, "reasoning")
                items.whole(one, "summary", _at(event, "summary_index"), event.get("text"))
            case "function_call_arguments.delta":
                items.grow_call(items.meant(event, "function_call"), text_of(event.get("delta")))
            case "function_call_arguments.done":
                items.whole_call(items.meant(event, "function_call"), event.get("arguments"), event.get("name"))
            case "custom_tool_call_input.delta":
                items.grow_call(items.meant(event, "custom_tool_call"), text_of(event.get("delta")))
            case "custom_tool_call_input.done":
                items.whole_call(items.meant(event, "custom_tool_call"), event.get("input"), event.get("name"))
            case _:
                items.pass_on(event)


class ResponseReader(_Reader):
    """Reads one whole `response` object, as the answer to a request that did not ask for a stream."""

    def __init__(self, mint_id: Callable[[], str]) -> None:
        super().__init__(mint_id)
        self._body = bytearray()

    def feed(self, data: bytes) -> Sequence[Part]:
        if len(self._body) + len(data) > MOST_COMPLETION_BYTES:
            self._body.clear()
            return [ErrorFrame(f"the text model's server answered more than {MOST_COMPLETION_BYTES // 2**20} MiB")]
        self._body += data
        return ()

    def close(self) -> Sequence[Part]:
        try:
            raw = parsed(self._body.strip())
        except ValueError:
            return [ErrorFrame("the text model's server answered something that is not JSON")]
        if not isinstance(raw, dict):
            return [ErrorFrame("the text model's server answered something that is not a response")]
        if raw.get("error"):
            return [_error(raw["error"], _NO_WORDS)]
        if not isinstance(raw.get("output"), list):
            return [ErrorFrame("the text model's server answered without an output")]
        self._end(raw, text_of(raw.get("status")))
        return self._taken()


def _unsaid(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as it stood when it began."""
    return {name: value for name, value in item.items() if name not in ("arguments", "input")}


def _time(created: object) -> int:
    """In seconds since 1970; 0 for what is none."""
    return int(created) if isinstance(created, int | float) and 0 <= created < 2**53 else 0


def _at(event: Mapping[str, Any], name: str = "content_index") -> int:
    index = event.get(name)
    return index if isinstance(index, int) else 0


def _error(error: object, otherwise: str) -> ErrorFrame:
    """The word that OpenAI calls `code` is what clients decide by."""
    if not isinstance(error, Mapping):
        return ErrorFrame(text_of(error) or otherwise)
    code = error.get("code") or error.get("type")
    told = text_of(error.get("message")) or otherwise
    if not isinstance(code, int | str):
        return ErrorFrame(told)
    return ErrorFrame(told, code, _REFUSALS.get(code) if isinstance(code, str) else None)


_REFUSALS = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "invalid_request_error": 400,
}
"""As a response's first word these are what other servers say by a status."""
