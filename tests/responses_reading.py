"""What a client of Responses gets, read as strictly as the canonical form is: that is where its rules stand as code of
the tests.  openai-python's own accumulator reads along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
from openai import omit
from openai._models import construct_type
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent

_OURS = ("message", "reasoning", "function_call", "custom_tool_call")
"""The others come as the server says them."""
_LAST = ("response.completed", "response.incomplete", "response.failed")


@dataclass(slots=True)
class Read:
    """One answer."""

    events: list[dict[str, Any]] = field(default_factory=list)
    response: dict[str, Any] = field(default_factory=dict)
    """As it is in the end."""

    @property
    def kinds(self) -> list[str]:
        return [event["type"].removeprefix("response.") for event in self.events]

    @property
    def output(self) -> list[dict[str, Any]]:
        output = self.response["output"]
        assert isinstance(output, list)
        return output

    @property
    def text(self) -> str:
        """The words of all messages, as openai-python puts them together."""
        parts = [part for item in self.output if item["type"] == "message" for part in item["content"]]
        return "".join(part["text"] for part in parts if part["type"] == "output_text")

    @property
    def thoughts(self) -> str:
        items = [item for item in self.output if item["type"] == "reasoning"]
        return "|".join(part["text"] for item in items for part in (*item["summary"], *item.get("content", ())))

    @property
    def calls(self) -> list[tuple[str, str, str]]:
        return [
            (item["call_id"], item["name"], item["arguments"])
            for item in self.output
            if item["type"] == "function_call"
        ]


def read_events(stream: bytes) -> Read:
    """Raises AssertionError at the first event that breaks a rule."""
    read, open_items, texts = Read(), {}, {}  # type: ignore[var-annotated]
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    assert stream.endswith(b"\n\n"), "the last event is not whole"
    for frame in stream.split(b"\n\n")[:-1]:
        if frame.startswith(b":"):
            continue
        name, _, data = frame.partition(b"\ndata: ")
        event = orjson.loads(data)
        kind = event["type"]
        assert name == b"event: " + kind.encode()
        assert event["sequence_number"] == len(read.events), "sequence numbers have a gap"
        assert not read.response, f"{kind} after the end"
        read.events.append(event)
        state.handle_event(cast(Any, construct_type(type_=ResponseStreamEvent, value=event)))
        _follow(read, event, kind.removeprefix("response."), open_items, texts)
    assert read.kinds[:2] == ["created", "in_progress"]
    assert read.response, "the stream does not say that it is over"
    assert len({event["response"]["id"] for event in read.events if "response" in event}) == 1
    failed = read.response["status"] == "failed"
    assert failed or all(item is None for item in open_items.values()), "an item is not done"
    return read


def _follow(
    read: Read, event: dict[str, Any], kind: str, open_items: dict[int, Any], texts: dict[Any, list[str]]
) -> None:
    if event["type"] in _LAST:
        read.response = event["response"]
        assert read.response["status"] == kind
        done = [one["item"] for one in read.events if one["type"] == "response.output_item.done"]
        assert read.response["output"] == sorted(done, key=lambda item: _index(read, item))
        return
    if kind in ("created", "in_progress"):
        assert event["response"]["output"] == [] or len(read.events) > 2
        assert event["response"]["status"] == "in_progress"
        return
    index = event["output_index"]
    if kind == "output_item.added":
        assert index == len(open_items), "output_index has a gap"
        assert all(item is None or item["type"] not in _OURS for item in open_items.values()), "two items at once"
        open_items[index] = event["item"]
        return
    item = open_items[index]
    assert item is not None, f"{kind} of an item that is done"
    if kind == "output_item.done":
        assert (item.get("id"), item["type"]) == (event["item"].get("id"), event["item"]["type"])
        open_items[index] = None
        return
    if item["type"] not in _OURS:
        return
    assert event["item_id"] == item["id"]
    place = (index, event.get("content_index"), event.get("summary_index"), kind.rpartition(".")[0])
    if kind.endswith(".delta"):
        texts.setdefault(place, []).append(event["delta"])
    elif kind.endswith(".done") and not kind.endswith("part.done"):
        whole = next(event[name] for name in ("text", "arguments", "input", "refusal") if name in event)
        assert "".join(texts.get(place, ())) == whole, "the deltas are not the whole"


def _index(read: Read, item: Mapping[str, Any]) -> int:
    return next(
        int(one["output_index"])
        for one in read.events
        if one["type"] == "response.output_item.done" and one["item"] is item
    )
