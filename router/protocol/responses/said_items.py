"""The items of one turn while they are being said, whichever event says it.

Beside the parts that every format has, items are told apart for the writer by `Opaque` ones:

    {"message": {"n": 0, "of": …}}      a message begins, the n-th of its turn      {"refusal": "…"}, {"annotation": …}
    {"reasoning": {"n": 0, "of": …}}    thoughts begin                              {"reasoning_part": "summary"}
    {"reasoning_done": {…}}             and end, with what stands beside their text

An item that the server carries out itself (a web search) passes as its own events: `Opaque(choice={"event", "key"})`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from router.protocol.parts import CALL, Block, Opaque, Part, Reasoning, Text, ToolArgs, ToolStart
from router.protocol.responses.outline import ITEM, frame, is_call

_TEXT_OF_CALL = {"function_call": "arguments", "custom_tool_call": "input"}


@dataclass(slots=True)
class Item:
    """One item while it is being said."""

    key: str
    kind: str
    item: dict[str, Any]
    """As the server described it last."""
    said: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    """Its texts so far, by kind and index."""
    slot: int | None = None
    """Of a call that has begun."""
    done: bool = False

    def text(self, kind: str, index: int = 0) -> str:
        return "".join(self.said.get((kind, index), ()))


class Items:
    """The items of one turn: what became of each, whichever event said so."""

    def __init__(self, mint_id: Callable[[], str], parts: Callable[[Part], None]) -> None:
        self._mint_id = mint_id
        self._tell = parts
        self._items: list[Item] = []
        self._by_id: dict[str, Item] = {}
        self._by_index: dict[int, Item] = {}
        self._calls: set[str] = set()
        self._told = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def calls(self) -> int:
        return len(self._calls)

    def meant(self, event: Mapping[str, Any], kind: str) -> Item:
        """The item that a delta is about; one that was never announced begins here."""
        id_, index = event.get("item_id"), event.get("output_index")
        one = self._known(id_, index)
        if one is None and self._items and not self._items[-1].done:
            one = self._items[-1]
        if one is not None and one.kind == kind:
            return one
        new = one is None and isinstance(id_, str) and bool(id_)
        return self._new({"type": kind, **({"id": id_} if new else {})}, index)

    def _known(self, id_: object, index: object) -> Item | None:
        if isinstance(id_, str) and id_ in self._by_id:
            return self._by_id[id_]
        return self._by_index.get(index) if isinstance(index, int) else None

    def begin(self, item: dict[str, Any], index: object) -> None:
        """`response.output_item.added`."""
        known = self._known(item.get("id"), index)
        if known is None or known.kind != text_of(item.get("type")):
            self._new(item, index)

    def _new(self, item: dict[str, Any], index: object) -> Item:
        kind, id_ = text_of(item.get("type")), text_of(item.get("id"))
        one = Item(id_ or self._mint_id(), kind, item)
        n = sum(other.kind == kind for other in self._items)
        self._items.append(one)
        if id_:
            self._by_id.setdefault(id_, one)
        if isinstance(index, int):
            self._by_index[index] = one
        if kind in ("message", "reasoning"):
            texts = ("content", "summary", "status", "encrypted_content")
            of = {name: value for name, value in item.items() if name not in texts}
            self._tell(Opaque({kind: {"n": n, "of": of}}))
        elif kind in _TEXT_OF_CALL:
            self._begin_call(one)
            if text := text_of(item.get(_TEXT_OF_CALL[kind])):
                self.grow_call(one, text)
        return one

    def _begin_call(self, one: Item) -> None:
        """As soon as its name is known."""
        name = text_of(one.item.get("name"))
        if one.slot is not None or not name:
            return
        id_ = text_of(one.item.get("call_id")) or text_of(one.item.get("id"))
        if not id_ or id_ in self._calls:
            id_ = self._mint_id()
        beside = ("call_id", "name", _TEXT_OF_CALL[one.kind])
        rest = {key: value for key, value in one.item.items() if key not in beside}
        if "status" in rest:
            rest["status"] = "completed"
        self._start(one, id_, name, rest)
        if text := one.text("call"):  # it was said before the name
            self._tell(ToolArgs(len(self._calls) - 1, text))

    def _start(self, one: Item, id_: str, name: str, item: Mapping[str, Any]) -> None:
        one.slot = len(self._calls)
        self._calls.add(id_)
        self._tell(ToolStart(one.slot, id_, name, {ITEM: item}))

    def grow_call(self, one: Item, text: str) -> None:
        one.said.setdefault(("call", 0), []).append(text)
        if one.slot is not None and text:
            self._tell(ToolArgs(one.slot, text))

    def grow(self, one: Item, kind: str, index: int, text: str, logprobs: Any = None) -> None:
        """More of a text: `output_text` or `refusal` of a message, `text` or `summary` of a thought."""
        if not text:
            return
        pieces = one.said.get((kind, index))
        if pieces is None:
            pieces = one.said[kind, index] = []
            if one.kind == "reasoning":
                self._tell(Opaque({"reasoning_part": kind}))
        pieces.append(text)
        match kind:
            case "output_text":
                self._tell(Text(text, logprobs or None))
            case "refusal":
                self._tell(Opaque({"refusal": text}))
            case _:
                self._tell(Reasoning(text))

    def whole(self, one: Item, kind: str, index: int, text: object) -> None:
        """A text as it is in the end."""
        said = one.text(kind, index)
        if isinstance(text, str) and len(text) > len(said) and text.startswith(said):
            self.grow(one, kind, index, text[len(said) :])

    def whole_call(self, one: Item, text: object, name: object = None) -> None:
        if isinstance(name, str) and name and not one.item.get("name"):
            one.item = {**one.item, "name": name}
        self._begin_call(one)
        said = one.text("call")
        if isinstance(text, str) and len(text) > len(said) and text.startswith(said):
            self.grow_call(one, text[len(said) :])

    def end(self, item: dict[str, Any], index: object) -> None:
        """`response.output_item.done`."""
        kind = text_of(item.get("type"))
        one = self._known(item.get("id"), index)
        if one is None or one.kind != kind:
            one = self._new(item, index)
        if one.done:
            return
        one.done = True
        one.item = item
        if kind in _TEXT_OF_CALL:
            self.whole_call(one, item.get(_TEXT_OF_CALL[kind]))
        elif kind == "message":
            for at, part in enumerate(objects(item.get("content"))):
                words = text_of(part.get("type"))
                self.whole(one, words, at, part.get("refusal" if words == "refusal" else "text"))
        elif kind == "reasoning":
            for name, words in (("summary", "summary"), ("content", "text")):
                for at, part in enumerate(objects(item.get(name))):
                    self.whole(one, words, at, part.get("text"))
            rest = {key: value for key, value in item.items() if key not in ("summary", "content")}
            self._tell(Opaque({"reasoning_done": rest}))
        elif is_call(item) and one.slot is None:
            # The client carries it out, and we do not know how it grows: it goes out when it is whole.
            self._start(one, item["call_id"], kind, item)
            self._tell(ToolArgs(len(self._calls) - 1, "{}"))

    def pass_on(self, event: Mapping[str, Any]) -> None:
        """An event of an item that the server carries out itself."""
        item = event.get("item")
        one = self._known(
            item.get("id") if isinstance(item, Mapping) else event.get("item_id"), event.get("output_index")
        )
        if one is not None and one.kind and one.kind not in ("message", "reasoning") and not _carried_out(one):
            self._tell(Opaque(choice={"event": dict(event), "key": one.key}))

    def blocks(self, output: object) -> None:
        """All that was said, once.  `output`: as the server sums it up."""
        if self._told:
            return
        self._told = True
        summed = {text_of(item.get("id")): item for item in objects(output)}
        for one in self._items:
            item = one.item if one.done else summed.get(text_of(one.item.get("id"))) or _accumulated(one)
            if one.slot is not None:
                self._tell(Block(CALL))
            elif one.kind == "reasoning":
                self._tell(Block(item))
            elif one.kind and one.kind not in _TEXT_OF_CALL:
                for part in frame(item):
                    self._tell(Block(part))


def _carried_out(one: Item) -> bool:
    """By the client."""
    return one.kind in _TEXT_OF_CALL or is_call(one.item)


def _accumulated(one: Item) -> dict[str, Any]:
    """An item of which nobody said how it ended."""
    texts = {place: "".join(pieces) for place, pieces in sorted(one.said.items())}
    if one.kind == "message":
        parts = [
            {"type": kind, "refusal": text} if kind == "refusal" else {"type": kind, "text": text, "annotations": []}
            for (kind, _), text in texts.items()
        ]
        return {"role": "assistant", **one.item, "status": "completed", "content": parts}
    if one.kind == "reasoning":
        summary = [{"type": "summary_text", "text": text} for (kind, _), text in texts.items() if kind == "summary"]
        content = [{"type": "reasoning_text", "text": text} for (kind, _), text in texts.items() if kind == "text"]
        return {**one.item, "summary": summary, **({"content": content} if content else {})}
    return one.item


def is_item(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("type"), str)
        and all(isinstance(value.get(name), str | None) for name in ("id", "call_id"))
    )


def objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def text_of(value: object) -> str:
    return value if isinstance(value, str) else ""
