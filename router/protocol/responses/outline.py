"""A Responses request in outline (`wire_format.py`), and back.

A history is a flat list of *items* here: messages, thoughts, calls, results, each an object of its own.  In outline
every run of items that the brain said is one message of the assistant, because that is what its server makes of them,
and what a place in a history can be counted by:

    instructions ─▶ system       message of the user ─▶ itself       …_output with a call_id ─▶ tool
    reasoning, message, function_call, message … of the brain ─▶ one assistant message, its content in the same order

The content of such a message holds thoughts as they are, `CALL` where a call was said, and for each other item its
*frame*: the item without its content, and how many of the parts behind it are that.  What of an item has no place in
the outline stands under `ITEM`.  Text and pictures of ours carry types that no part has here (`text`, `image_url`);
should a client's part have one, it says so itself, and goes out as it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from router.protocol.parts import CALL

ITEM = "chiasm_item"
"""What of an item only this module reads.  Never leaves the house; `request.parse` takes it from what comes in."""

FRAME = "item"
"""The type of a frame: `{"type": FRAME, "of": the item without its content, "holds": n}`; without `holds` the item has
no content, and `TEXT` means that it is a string."""

TEXT = "text"

_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""The calls that are outlined field by field, and where each has its text."""

_OURS = ("text", "image_url")  # compared, not looked up: a type may be anything

_OF_OUTLINE = frozenset({"tool_calls", "tool_call_id"})
"""Fields that mean something in outline, and nothing here, whoever writes them."""


def outlined(request: Mapping[str, Any]) -> dict[str, Any]:
    """`request`: as `request.parse` answered it."""
    outline = {name: value for name, value in request.items() if name != "input"}
    messages: list[dict[str, Any]] = []
    instructions = outline.get("instructions")
    if isinstance(instructions, str) and instructions:
        del outline["instructions"]
        messages.append({"role": "system", "content": instructions, ITEM: "instructions"})
    given = request["input"]
    if isinstance(given, str):
        messages.append({"role": "user", "content": given, ITEM: "input"})
    else:
        messages += _messages(given)
    return {**outline, "messages": messages}


def as_sent(request: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse."""
    sent = {name: value for name, value in request.items() if name != "messages"}
    items: list[Any] = []
    alone: str | None = None
    for message in request["messages"]:
        if message.get(ITEM) == "instructions":
            sent["instructions"] = message["content"]
            continue
        if message.get(ITEM) == "input" and isinstance(message["content"], str):
            alone = message["content"]
        items += _items(message)
    sent["input"] = alone if alone is not None and len(items) == 1 else items
    return sent


def frame(item: Mapping[str, Any]) -> list[Any]:
    """An item of the brain as parts of its message; its content, if it has any, behind it."""
    content = item.get("content")
    of = {name: value for name, value in item.items() if name != "content"}
    if item.get("type", "message") != "message" or not isinstance(content, str | list):
        return [{"type": FRAME, "of": dict(item)}]
    if isinstance(content, str):
        return [{"type": FRAME, "of": of, "holds": TEXT}, {"type": "text", "text": content}]
    return [{"type": FRAME, "of": of, "holds": len(content)}, *map(_kept, content)]


def is_call(item: Mapping[str, Any]) -> bool:
    """Whether the client is to carry it out; what the server itself carries out has no `call_id`."""
    return isinstance(item.get("call_id"), str) and _kind(item).endswith("_call")


def call(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item that `is_call`, as it stands in `tool_calls`."""
    kind = _kind(item)
    if (text := _CALLS.get(kind)) is None or not (
        isinstance(item.get("name"), str) and isinstance(item.get(text), str)
    ):
        return {"id": item["call_id"], "type": "other", ITEM: dict(item)}
    rest = {name: value for name, value in item.items() if name not in ("call_id", "name", text)}
    said = {"name": item["name"], text: item[text]}
    return {"id": item["call_id"], "type": _TYPES[kind], _TYPES[kind]: said, ITEM: rest}


_TYPES = {"function_call": "function", "custom_tool_call": "custom"}


# From items


def _messages(items: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    said: list[Mapping[str, Any]] = []
    for item in items:
        if _is_of_brain(item):
            said.append(item)
            continue
        if said:
            yield _assistant(said)
            said = []
        yield _other(item)
    if said:
        yield _assistant(said)


def _is_of_brain(item: Mapping[str, Any]) -> bool:
    kind = _kind(item)
    if kind == "message":
        return item.get("role") == "assistant"
    return kind.endswith("_call") or kind in ("reasoning", "mcp_list_tools", "mcp_approval_request")


def _kind(item: Mapping[str, Any]) -> str:
    kind = item.get("type", "message")
    return kind if isinstance(kind, str) else ""


def _assistant(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    content: list[Any] = []
    calls: list[dict[str, Any]] = []
    for item in items:
        if is_call(item):
            content.append(dict(CALL))
            calls.append(call(item))
        elif _kind(item) == "reasoning":
            content.append(item)
        else:
            content += frame(item)
    return {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}


def _other(item: Mapping[str, Any]) -> dict[str, Any]:
    kind = _kind(item)
    if kind == "message":
        content = item.get("content")
        fields = {name: value for name, value in item.items() if name not in _OF_OUTLINE}
        message = {**fields, "content": [_kept(part) for part in content] if isinstance(content, list) else content}
        return (
            {**message, ITEM: hidden}
            if (hidden := {name: item[name] for name in _OF_OUTLINE & item.keys()})
            else message
        )
    output = item.get("output")
    if kind.endswith("_output") and isinstance(item.get("call_id"), str) and isinstance(output, str | list):
        rest = {name: value for name, value in item.items() if name not in ("call_id", "output")}
        content = [_kept(part) for part in output] if isinstance(output, list) else output
        return {"role": "tool", "tool_call_id": item["call_id"], "content": content, ITEM: rest}
    return {"role": "other", "content": None, ITEM: item}


def _kept(part: Any) -> Any:
    """A client's part, which must not be taken for one of ours."""
    return {**part, ITEM: True} if isinstance(part, Mapping) and part.get("type") in _OURS else part


# To items


def _items(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    role, content, rest = message.get("role"), message.get("content"), message.get(ITEM)
    if role == "assistant":
        yield from _said(content, message.get("tool_calls") or ())
    elif role == "tool":
        kind = rest if isinstance(rest, Mapping) else {"type": "function_call_output"}
        output = [_part(part, "input_text") for part in content] if isinstance(content, list) else content
        yield {**kind, "call_id": message["tool_call_id"], "output": output}
    elif role == "other" and isinstance(rest, Mapping):
        yield dict(rest)
    else:
        item = {name: value for name, value in message.items() if name != ITEM}
        if isinstance(rest, Mapping):
            item |= rest
        if isinstance(content, list):
            item["content"] = [_part(part, "input_text") for part in content]
        yield item


def _said(content: Any, tool_calls: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
    calls = iter(tool_calls)
    at = 0
    while at < len(parts):
        part = parts[at]
        at += 1
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == FRAME:
            holds = part.get("holds")
            if holds is None:
                yield dict(part["of"])
            elif holds == TEXT:
                yield {**part["of"], "content": parts[at]["text"]}
                at += 1
            else:
                yield {**part["of"], "content": [_part(one, "output_text") for one in parts[at : at + holds]]}
                at += holds
        elif kind == CALL["type"]:
            if (one := next(calls, None)) is not None:
                yield _call_item(one)
        elif kind == "reasoning":
            yield part
        else:
            yield {"type": "message", "role": "assistant", "content": [_part(part, "output_text")]}
    for one in calls:
        yield _call_item(one)


def _call_item(one: Mapping[str, Any]) -> dict[str, Any]:
    rest = one.get(ITEM) or {}
    for kind, name in _TYPES.items():
        if one.get("type") == name:
            return {"type": kind, **rest, **one[name], "call_id": one["id"]}
    return dict(rest)


def _part(part: Any, text: str) -> Any:
    """`text`: the type that text of ours has here."""
    if not isinstance(part, Mapping):
        return part
    if ITEM in part:
        return {name: value for name, value in part.items() if name != ITEM}
    if part.get("type") == "text":
        return {**part, "type": text}
    if part.get("type") == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, Mapping) else image
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    return part
