"""A Messages request in outline (`router.protocol.wire_format`) and back.

*   `system` is the first message.
*   A message of the user that holds tool results is several: each result a message of the role `tool`, each run of
    other blocks one of the user.  All of them know which message they are of.
*   In a message of the brain stands `CALL` where a `tool_use` stood.  Its input is JSON text in `tool_calls`.

What else the client's messages and blocks hold stands under `_REST`, where a walk over the history finds it, so that no
key of a message is one that the client wrote.  Each message of the client has an `_Origin`, which no JSON can be; a
message without one is ours.

On the way back ours join the client's: Anthropic wants all results of a turn in the one message behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from router.protocol.messages.inputs import input_of
from router.protocol.parts import CALL

_ORIGIN = "origin"
_REST = "rest"
_OF_BLOCK, _OF_MESSAGE = "block", "message"
_EXTRA = "extra"
"""Of a call: what its block holds beside id, name and input."""


@dataclass(frozen=True, slots=True, eq=False)
class _Origin:
    """A message of the client's; the same object for all that was made of it."""

    is_top: bool = False
    """It stands in `system`."""
    writes_urls: bool = False
    """Its own image parts are `image_url`, which its server takes then."""


def outlined(request: Mapping[str, Any]) -> dict[str, Any]:
    """`request`: as `parse` answered it."""
    outline = {name: value for name, value in request.items() if name not in ("system", "messages")}
    system = request.get("system")
    top = [] if system is None else [{"role": "system", "content": system, _ORIGIN: _Origin(is_top=True)}]
    messages = [piece for message in request["messages"] for piece in _pieces(message)]
    if system is None and "system" in request:
        outline["system"] = None
    return {**outline, "messages": [*top, *messages]}


def _pieces(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    role, content = message["role"], message["content"]
    blocks = content if isinstance(content, list) else []
    origin = _Origin(writes_urls=any(block.get("type") == "image_url" for block in blocks))
    if role == "assistant":
        pieces = [_said(content)]
    elif role == "user" and any(_is_result(block) for block in blocks):
        pieces = list(_split(blocks))
    else:
        pieces = [{"role": role, "content": content}]
    if rest := {name: value for name, value in message.items() if name not in ("role", "content")}:
        pieces[0].setdefault(_REST, {})[_OF_MESSAGE] = rest
    return [{**piece, _ORIGIN: origin} for piece in pieces]


def _split(blocks: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    run: list[Any] = []
    for block in blocks:
        if not _is_result(block):
            run.append(block)
            continue
        if run:
            yield {"role": "user", "content": run}
            run = []
        rest = {name: value for name, value in block.items() if name not in ("type", "tool_use_id", "content")}
        content = {"content": block["content"]} if "content" in block else {}
        piece = {"role": "tool", "tool_call_id": block["tool_use_id"], **content}
        yield {**piece, _REST: {_OF_BLOCK: rest}} if rest else piece
    if run:
        yield {"role": "user", "content": run}


def _is_result(block: Mapping[str, Any]) -> bool:
    return block.get("type") == "tool_result"


def _said(content: Any) -> dict[str, Any]:
    if not isinstance(content, list):
        return {"role": "assistant", "content": content}
    parts: list[Any] = []
    calls: list[dict[str, Any]] = []
    for block in content:
        if block.get("type") == "tool_use":
            parts.append(CALL)
            calls.append(_call(block))
        elif block.get("type") == CALL["type"]:
            parts.append({**CALL, _OF_BLOCK: block})  # a block of the client's that looks like ours
        else:
            parts.append(block)
    return {"role": "assistant", "content": parts, **({"tool_calls": calls} if calls else {})}


def _call(block: Mapping[str, Any]) -> dict[str, Any]:
    arguments = orjson.dumps(block["input"]).decode() if "input" in block else ""
    rest = {name: value for name, value in block.items() if name not in ("type", "id", "name", "input")}
    return as_call(block["id"], block["name"], arguments, rest)


def as_call(id_: str, name: str, arguments: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """A call as it stands in `tool_calls`."""
    call = {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {**call, _EXTRA: dict(extra)} if extra else call


# And back


def as_sent(request: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `outlined`, with what was added since in Anthropic's form."""
    sent = {name: value for name, value in request.items() if name != "messages"}
    messages: list[dict[str, Any]] = []
    run: list[Mapping[str, Any]] = []
    for message in request["messages"]:
        role, origin = message["role"], message.get(_ORIGIN)
        if role in ("user", "tool"):
            run.append(message)
            continue
        messages += _of_user(run)
        run = []
        if origin is not None and origin.is_top:
            sent["system"] = message["content"]
        elif role == "assistant":
            messages.append(_of_brain(message))
        else:
            messages.append({"role": role, "content": message["content"], **_rest(message, _OF_MESSAGE)})
    return {**sent, "messages": [*messages, *_of_user(run)]}


@dataclass(slots=True)
class _Gathered:
    """One message of the user as it grows."""

    origin: _Origin | None
    pieces: list[Mapping[str, Any]] = field(default_factory=list)

    def message(self) -> dict[str, Any]:
        if len(self.pieces) == 1 and self.pieces[0]["role"] == "user":
            (only,) = self.pieces
            content = only["content"]
            content = [self._part(part) for part in content] if isinstance(content, list) else content
        else:
            content = [block for piece in self.pieces for block in self._blocks(piece)]
        rest = [_rest(piece, _OF_MESSAGE) for piece in self.pieces]
        return {"role": "user", "content": content, **{name: one[name] for one in rest for name in one}}

    def _blocks(self, piece: Mapping[str, Any]) -> list[Any]:
        content = piece.get("content")
        if piece["role"] == "tool":
            said = {"content": content} if "content" in piece else {}
            return [
                {"type": "tool_result", "tool_use_id": piece["tool_call_id"], **said, **_rest(piece, _OF_BLOCK)},
            ]
        if isinstance(content, list):
            return [self._part(part) for part in content]
        return [{"type": "text", "text": content}] if content else []

    def _part(self, part: Any) -> Any:
        if part.get("type") != "image_url" or (self.origin is not None and self.origin.writes_urls):
            return part
        return _image(part)


def _of_user(run: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What stands between two messages of the brain.  Ours join the client's message that they follow, else the one
    behind them."""
    gathered: list[_Gathered] = []
    for piece in run:
        origin = piece.get(_ORIGIN)
        last = gathered[-1] if gathered else None
        if last is None or (origin is not None and last.origin is not None and origin is not last.origin):
            gathered.append(_Gathered(origin, [piece]))
        else:
            last.pieces.append(piece)
            last.origin = last.origin or origin
    return [one.message() for one in gathered]


def _of_brain(message: Mapping[str, Any]) -> dict[str, Any]:
    content, calls = message["content"], iter(message.get("tool_calls") or ())
    if isinstance(content, list):
        blocks = [block for part in content if (block := _block(part, calls)) is not None]
        content = [*blocks, *map(_tool_use, calls)]
    return {"role": "assistant", "content": content, **_rest(message, _OF_MESSAGE)}


def _block(part: Mapping[str, Any], calls: Iterable[Mapping[str, Any]]) -> Any:
    if part.get("type") != CALL["type"]:
        return part
    if _OF_BLOCK in part:
        return part[_OF_BLOCK]
    call = next(iter(calls), None)
    return None if call is None else _tool_use(call)


def _tool_use(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    said = {"input": input_of(function["arguments"])} if function["arguments"] else {}
    return {"type": "tool_use", "id": call["id"], "name": function["name"], **said, **call.get(_EXTRA, {})}


def _image(part: Mapping[str, Any]) -> dict[str, Any]:
    url = part["image_url"]["url"]
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:"):
        media_type = head.removeprefix("data:").partition(";")[0]
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
    return {"type": "image", "source": {"type": "url", "url": url}}


def _rest(message: Mapping[str, Any], of: str) -> Mapping[str, Any]:
    rest: Mapping[str, Any] = message.get(_REST, {}).get(of, {}) if _ORIGIN in message else {}
    return rest
