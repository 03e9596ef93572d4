"""Items of an answer while they grow: each says its own events and what it is in the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Emit(Protocol):
    def __call__(self, kind: str, /, **fields: Any) -> None:
        """An event about this item."""


class OpenItem:
    """One item: added by `begin`, done by `end`."""

    index: int
    """Its `output_index`."""
    _emit: Emit

    def __init__(self, item: Mapping[str, Any]) -> None:
        self._item = dict(item)
        self.begun = False
        """Whether anything was said of it."""

    @property
    def id(self) -> Any:
        return self._item["id"]

    def begin(self, index: int, emit: Emit) -> None:
        self.index, self._emit = index, emit
        emit("response.output_item.added", item=self._added())

    def end(self, status: str) -> dict[str, Any]:
        """The item as it is in the end."""
        item = self._done(status)
        self._emit("response.output_item.done", item=item)
        return item

    def _added(self) -> dict[str, Any]:
        raise NotImplementedError

    def _done(self, status: str) -> dict[str, Any]:
        raise NotImplementedError

    def _say(self, kind: str, **fields: Any) -> None:
        self._emit(kind, item_id=self.id, **fields)


class OpenMessage(OpenItem):
    """Words, and refusals."""

    def __init__(self, item: Mapping[str, Any]) -> None:
        super().__init__({**item, "type": "message", "role": "assistant"})
        self._parts: list[dict[str, Any]] = []
        self._pieces: list[str] = []
        """Of the part that grows now: the last one."""
        self._logprobs: list[Any] = []

    def grow(self, kind: str, text: str, logprobs: Any = None) -> None:
        if not self._parts or self._parts[-1]["type"] != kind:
            self._end_part()
            self._begin_part(kind)
        self.begun = True
        self._pieces.append(text)
        if kind == "output_text":
            told = logprobs if isinstance(logprobs, list) else []
            self._logprobs += told
            self._say("response.output_text.delta", content_index=len(self._parts) - 1, delta=text, logprobs=told)
        else:
            self._say("response.refusal.delta", content_index=len(self._parts) - 1, delta=text)

    def annotate(self, annotation: Any) -> None:
        """A source of what was said last."""
        part = self._parts[-1] if self._parts else {}
        if isinstance(sources := part.get("annotations"), list):
            sources.append(annotation)
            self._say(
                "response.output_text.annotation.added",
                content_index=len(self._parts) - 1,
                annotation_index=len(sources) - 1,
                annotation=annotation,
            )

    def _begin_part(self, kind: str) -> None:
        part = {"type": kind, "text": "", "annotations": []} if kind == "output_text" else {"type": kind, "refusal": ""}
        self._parts.append(part)
        self._say("response.content_part.added", content_index=len(self._parts) - 1, part=dict(part))

    def _end_part(self) -> None:
        if not self._parts:
            return
        part, at = self._parts[-1], len(self._parts) - 1
        text, self._pieces = "".join(self._pieces), []
        if part["type"] == "output_text":
            part["text"] = text
            if self._logprobs:
                part["logprobs"], self._logprobs = self._logprobs, []
            told = part.get("logprobs", [])
            self._say("response.output_text.done", content_index=at, text=text, logprobs=told)
        else:
            part["refusal"] = text
            self._say("response.refusal.done", content_index=at, refusal=text)
        self._say("response.content_part.done", content_index=at, part=part)

    def _added(self) -> dict[str, Any]:
        return {**self._item, "status": "in_progress", "content": []}

    def _done(self, status: str) -> dict[str, Any]:
        self._end_part()
        return {**self._item, "status": status, "content": self._parts}


class OpenThought(OpenItem):
    """Thoughts: their text, or a summary of it in parts, as the server gives it."""

    def __init__(self, item: Mapping[str, Any]) -> None:
        super().__init__({**item, "type": "reasoning"})
        self.rest: Mapping[str, Any] = {}
        """What stands beside the text in the end: a signature."""
        self._texts: dict[str, list[str]] = {"summary": [], "text": []}
        self._kind = ""
        """Of the part that grows now."""
        self._pieces: list[str] = []

    def grow(self, kind: str, text: str) -> None:
        if kind != self._kind:
            self.part()
            self._begin_part(kind)
        self.begun = True
        self._pieces.append(text)
        name = "reasoning_summary_text" if kind == "summary" else "reasoning_text"
        self._say(f"response.{name}.delta", delta=text, **self._at())

    def part(self) -> None:
        """What grew so far is a part of its own."""
        if not self._kind:
            return
        text, self._pieces = "".join(self._pieces), []
        self._texts[self._kind][-1] = text
        of_summary = self._kind == "summary"
        name = "reasoning_summary_text" if of_summary else "reasoning_text"
        self._say(f"response.{name}.done", text=text, **self._at())
        part = {"type": f"{'summary' if of_summary else 'reasoning'}_text", "text": text}
        self._say(
            f"response.{'reasoning_summary_part' if of_summary else 'content_part'}.done", part=part, **self._at()
        )
        self._kind = ""

    def _begin_part(self, kind: str) -> None:
        self._kind = kind
        self._texts[kind].append("")
        of_summary = kind == "summary"
        part = {"type": f"{'summary' if of_summary else 'reasoning'}_text", "text": ""}
        self._say(
            f"response.{'reasoning_summary_part' if of_summary else 'content_part'}.added", part=part, **self._at()
        )

    def _at(self) -> dict[str, int]:
        index = len(self._texts[self._kind]) - 1
        return {"summary_index" if self._kind == "summary" else "content_index": index}

    def _added(self) -> dict[str, Any]:
        return {**self._item, "summary": []}

    def _done(self, status: str) -> dict[str, Any]:
        self.part()
        summary = [{"type": "summary_text", "text": text} for text in self._texts["summary"]]
        content = [{"type": "reasoning_text", "text": text} for text in self._texts["text"]]
        return {**self._item, **self.rest, "summary": summary, **({"content": content} if content else {})}


class OpenCall(OpenItem):
    """A call that the client carries out."""

    def __init__(self, item: Mapping[str, Any], call_id: str, name: str) -> None:
        super().__init__(item)
        match item.get("type"):
            case "function_call":
                self._text = "arguments"
            case "custom_tool_call":
                self._text = "input"
            case _:
                self._text = ""  # it was whole before it began
        if self._text:
            self._item |= {"call_id": call_id, "name": name}
        self._pieces: list[str] = []

    def grow(self, text: str) -> None:
        if self._text:
            self._pieces.append(text)
            self._say(f"response.{self._events}.delta", delta=text)

    @property
    def _events(self) -> str:
        return "function_call_arguments" if self._text == "arguments" else "custom_tool_call_input"

    def _added(self) -> dict[str, Any]:
        return {**self._item, "status": "in_progress", self._text: ""} if self._text else dict(self._item)

    def _done(self, status: str) -> dict[str, Any]:
        if not self._text:
            return dict(self._item)
        text = "".join(self._pieces)
        named = {"name": self._item["name"]} if self._text == "arguments" else {}
        self._say(f"response.{self._events}.done", **{self._text: text}, **named)
        return {**self._item, "status": status, self._text: text}
