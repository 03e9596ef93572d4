"""Writes Responses in one canonical form:

*   `response.created`, `response.in_progress`, then items one after the other, then one of `response.completed`,
    `response.incomplete` and `response.failed`, which holds the whole response;
*   each item is added, grows and is done before the next one begins; `output_index` and `sequence_number` count from 0
    without gaps; one response id, and no two items with the same;
*   no `[DONE]`: here the last event says that it is the last.

What the server said of the response rides along (its temperature, its tiers); what the client asked for stands there as
the client said it, so that neither tools of ours nor what we made of its history is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, assert_never

import orjson

from router.errors import ChiasmError
from router.protocol.chat.writer import error_body
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
from router.protocol.responses.open_items import Emit, OpenCall, OpenItem, OpenMessage, OpenThought
from router.protocol.responses.outline import ITEM
from router.protocol.sse import comment
from router.protocol.wire_format import Envelope

_OF_CLIENT: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "tool_choice": "auto",
    "tools": [],
}
"""What the response repeats of the request as the client sent it, and what stands there where it did not."""

_OF_SERVER: Mapping[str, Any] = {"metadata": {}, "temperature": None, "top_p": None}
"""What every response has, and what stands there where the server leaves it out."""

_NEVER_SHOWN = ("input", "input_messages", "output_messages", "output_text", "usage", "kv_transfer_params")
"""What some servers add to a response that would show hidden turns."""


class ResponseWriter:
    """Collects the parts of all turns and writes one `response` at the end."""

    def __init__(
        self, request: Mapping[str, Any], fallback: Envelope, *, last: Callable[[], Mapping[str, Any]]
    ) -> None:
        """`request`: as the client sent it.  `last`: what the server said of its last response."""
        self._of_client = {name: request.get(name, default) for name, default in _OF_CLIENT.items()}
        self._fallback = fallback
        self._last = last
        self._head = Head()
        self._opened = False
        self._open: OpenItem | None = None
        self._output: list[dict[str, Any] | None] = []
        """Items that are done; `None` where one is not yet."""
        self._ids: set[str] = set()
        self._foreign: dict[str, tuple[int, dict[str, Any]]] = {}
        """Items that pass as their own events: where they stand, and as they were added."""
        self._message: Mapping[str, Any] = {}
        self._thought: Mapping[str, Any] = {}
        """What the server said of the message, or the thought, that begins next."""
        self._kind = "text"
        """Of the thought's text."""
        self._spoken = False
        """Whether the client has seen any words."""

    @property
    def id(self) -> str:
        return self._head.id or self._fallback.id

    def write(self, part: Part) -> bytes:
        match part:
            case Text(text, logprobs):
                self._text(text, logprobs)
            case Reasoning(text):
                self._reasoning(text)
            case ToolArgs(_, text):
                if isinstance(self._open, OpenCall):
                    self._open.grow(text)
            case ToolStart():
                self._call(part)
            case Head():
                self._begin(part)
            case Opaque(delta, choice):
                self._begin(Head())
                if choice is not None:
                    self._pass_on(choice["event"], choice["key"])
                else:
                    self._beside(delta)
            case Finish() | Usage() | ErrorFrame() | Block():
                pass
            case _:
                assert_never(part)
        return self._written()

    def heartbeat(self) -> bytes:
        return b""

    def empty_chunk(self) -> bytes:
        return b""

    def complete(self, reason: str, usage: Mapping[str, Any] | None) -> bytes:
        self._begin(Head())
        whole = reason in ("stop", "tool_calls")
        self._close("completed" if whole else "incomplete")
        for key, (index, item) in self._foreign.items():
            if self._output[index] is None:
                self._foreign_done(key, item)
        status = "completed" if whole else "incomplete"
        details = None if whole else {"reason": "max_output_tokens" if reason == "length" else reason}
        return self._ended(self._response(status, usage=usage, incomplete_details=details))

    def fail(self, error: ChiasmError) -> bytes:
        return orjson.dumps(error_body(error))

    # The response

    def _begin(self, head: Head) -> None:
        if self._opened:  # heartbeats opened the stream already, perhaps
            return
        self._opened = True
        self._head = head
        response = self._response("in_progress")
        self._emit("response.created", response=response)
        self._emit("response.in_progress", response=response)

    def _response(self, status: str, **fields: Any) -> dict[str, Any]:
        said = {name: value for name, value in {**self._head.extra, **self._last()}.items() if name not in _NEVER_SHOWN}
        created = self._head.created or self._fallback.created
        if status == "in_progress":
            said.pop("completed_at", None)
        return {
            **_OF_SERVER,
            **said,
            **self._of_client,
            "id": self.id,
            "object": "response",
            "created_at": created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self._fallback.model,
            "output": [item for item in self._output if item is not None],
            "usage": None,
            **fields,
        }

    def _ended(self, response: Mapping[str, Any]) -> bytes:
        return orjson.dumps(response)

    def _emit(self, kind: str, /, **fields: Any) -> None:
        """An event of the client's stream."""

    def _written(self) -> bytes:
        return b""

    # Items

    def _place(self) -> tuple[int, Emit]:
        """Of the item that begins now."""
        index = len(self._output)
        self._output.append(None)

        def emit(kind: str, /, **fields: Any) -> None:
            self._emit(kind, output_index=index, **fields)

        return index, emit

    def _named(self, id_: object, prefix: str) -> str:
        """The server's id for an item, unless there is one of that name already."""
        if not isinstance(id_, str) or not id_ or id_ in self._ids:
            id_ = f"{prefix}_{self._fallback.id.rpartition('_')[2]}{len(self._output)}"
        self._ids.add(id_)
        return id_

    def _begun(self, item: OpenItem) -> OpenItem:
        self._begin(Head())
        self._close()
        index, emit = self._place()
        item.begin(index, emit)
        self._open = item
        return item

    def _close(self, status: str = "completed") -> None:
        item, self._open = self._open, None
        if item is not None:
            self._output[item.index] = item.end(status)

    def _text(self, text: str, logprobs: Any) -> None:
        message = self._words(text)
        if message is not None:
            # A blank line between items stays: `output_text` of OpenAI's libraries puts them together as they are.
            message.grow("output_text", text if self._spoken else text.lstrip("\n"), logprobs)
            self._spoken = True

    def _words(self, text: str) -> OpenMessage | None:
        """The message that this belongs to; `None`: not worth one."""
        message = self._open
        if not isinstance(message, OpenMessage) or self._message.get("n"):
            if text.isspace():
                return None
            of = self._message.get("of") or {}
            message = OpenMessage({**of, "id": self._named(of.get("id"), "msg")})
            self._begun(message)
        self._message = {}
        return message

    def _reasoning(self, text: str) -> None:
        thought = self._open
        if not isinstance(thought, OpenThought):
            if text.isspace():
                return
            of = self._thought.get("of") or {}
            self._thought = {}
            thought = OpenThought({**of, "id": self._named(of.get("id"), "rs")})
            self._begun(thought)
        thought.grow(self._kind, text if thought.begun else text.lstrip("\n"))

    def _call(self, part: ToolStart) -> None:
        rest: Mapping[str, Any] = part.extra.get(ITEM) or {"type": "function_call"}
        prefix = "ctc" if rest.get("type") == "custom_tool_call" else "fc"
        item = {**rest, "id": self._named(rest.get("id"), prefix)}
        self._begun(OpenCall(item, part.id, part.name))

    def _beside(self, delta: Mapping[str, Any]) -> None:
        """What the reader tells of items."""
        for name, value in delta.items():
            match name:
                case "message":
                    self._message = value
                case "reasoning":
                    self._thought = value
                    if isinstance(self._open, OpenThought):
                        self._close()
                case "reasoning_part":
                    self._kind = value
                    if isinstance(self._open, OpenThought):
                        self._open.part()
                case "reasoning_done":
                    self._thought_done(value)
                case "refusal":
                    if (message := self._words(value)) is not None:
                        message.grow("refusal", value)
                case "annotation":
                    if isinstance(self._open, OpenMessage):
                        self._open.annotate(value)
                case _:
                    pass

    def _thought_done(self, rest: Mapping[str, Any]) -> None:
        thought = self._open
        if not isinstance(thought, OpenThought):
            if not self._thought:
                return  # its words were over before: something else has begun since
            # Without a word of it, as OpenAI's are, and yet wanted back.
            thought = OpenThought({**(self._thought.get("of") or {}), "id": self._named(rest.get("id"), "rs")})
            self._begun(thought)
        self._thought = {}
        thought.rest = {name: value for name, value in rest.items() if name not in ("id", "type")}
        self._close()

    def _pass_on(self, event: Mapping[str, Any], key: str) -> None:
        """An item of which we know nothing but its place."""
        kind, item = str(event.get("type")).removeprefix("response."), event.get("item")
        if kind == "output_item.added" and isinstance(item, Mapping) and key not in self._foreign:
            self._close()
            index, emit = self._place()
            self._foreign[key] = index, dict(item)
            emit("response.output_item.added", item=item)
        elif key in self._foreign and self._output[self._foreign[key][0]] is None:
            if kind == "output_item.done" and isinstance(item, Mapping):
                self._foreign_done(key, item)
            elif not kind.startswith("output_item."):
                fields = {name: value for name, value in event.items() if name not in ("type", "sequence_number")}
                self._emit(f"response.{kind}", **{**fields, "output_index": self._foreign[key][0]})

    def _foreign_done(self, key: str, item: Mapping[str, Any]) -> None:
        index, added = self._foreign[key]
        done = dict(item) | {name: added[name] for name in ("id", "type") if name in added}
        self._output[index] = done
        self._emit("response.output_item.done", output_index=index, item=done)


class EventWriter(ResponseWriter):
    """Writes the client's stream."""

    def __init__(
        self, request: Mapping[str, Any], fallback: Envelope, *, last: Callable[[], Mapping[str, Any]]
    ) -> None:
        super().__init__(request, fallback, last=last)
        self._number = 0
        self._frames: list[bytes] = []

    def heartbeat(self) -> bytes:
        return comment("keep-alive")

    def empty_chunk(self) -> bytes:
        """Clients whose clocks count events take one that says again that the response is in progress."""
        self._begin(Head())
        self._emit("response.in_progress", response=self._response("in_progress"))
        return self._written()

    def fail(self, error: ChiasmError) -> bytes:
        self._begin(Head())
        told = {"code": error.code or error.type, "message": error.message}
        return self._ended(self._response("failed", error=told))

    def _ended(self, response: Mapping[str, Any]) -> bytes:
        self._emit(f"response.{response['status']}", response=response)
        return self._written()

    def _emit(self, kind: str, /, **fields: Any) -> None:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        self._frames += (b"event: ", kind.encode(), b"\ndata: ", orjson.dumps(event), b"\n\n")

    def _written(self) -> bytes:
        frames, self._frames = self._frames, []
        return b"".join(frames)
