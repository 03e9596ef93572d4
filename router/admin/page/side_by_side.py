"""What the client sent beside what the brain got, cut into what people look for.

A row is one message of the client's and all that stands in its place for the brain.  Where the ledger put hidden turns
before an answer they stand in that answer's row, as do the results of ours that stand among the client's own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from router.intake.last_prompts import PIXELS, Prompt, Sent
from router.protocol.outline import is_thought
from tools import analyze_image, recall_image

Kind = Literal["text", "picture", "placeholder", "marker", "table", "call", "own-call", "thought", "pixels", "other"]

SHOWN_AT_ONCE = 1200
"""Characters of a message; the rest is one click away."""

MOST_SHOWN = 40_000
"""Characters of a message at all: ten pages of a book.  The JSON twin has the others."""

# Bounded repeats: anybody can write thousands of beginnings of ours, without an end, into one line.
_OURS = re.compile(
    r"\[Image #(?P<image>\d{1,6})(?:\](?: \((?:attached|the user's)[^\n]{0,400}\))?|:[^\]\n]{0,400}\])"
    r"|\[picture #(?P<picture>\d{1,6})\]"
    r"|" + re.escape(PIXELS)
)
_NAMES = (analyze_image.NAME, recall_image.NAME)
_FORGOTTEN = "(What was seen in image"


@dataclass(frozen=True, slots=True)
class Piece:
    kind: Kind
    text: str
    number: int | None = None


@dataclass(slots=True)
class Card:
    """A message as it is shown."""

    role: str
    note: str
    """`as sent`, `rewritten`, `hidden turn`, `forgotten` …; empty on the client's side."""
    pieces: list[Piece] = field(default_factory=list)
    rest: list[Piece] = field(default_factory=list)
    """Behind a click."""
    left_out: int = 0
    """Characters that are not shown at all."""
    characters: int = 0
    size: int = 0
    """Bytes of UTF-8."""


@dataclass(slots=True)
class Row:
    index: int
    """Of the client's message; the row of one that the client does not have has that of the one before it."""
    client: Card | None
    brain: list[Card]
    same: bool = False


@dataclass(frozen=True, slots=True)
class Sums:
    messages: int
    characters: int
    size: int


@dataclass(frozen=True, slots=True)
class Compared:
    rows: Sequence[Row]
    client: Sums
    brain: Sums
    pictures: int
    """Images' places in the client's messages."""
    picture_bytes: int
    hidden: int
    """Messages that only the brain has: turns in which it looked, and what it saw."""
    forgotten: int
    tables: int


def compared(prompt: Prompt) -> Compared:
    rows: list[Row] = []
    at = -1
    forgotten = hidden = tables = 0
    brain: list[Card] = []

    def begin(index: int) -> None:
        message = prompt.client[index]
        rows.append(Row(index, _card(message, prompt.pictures.get(index, ()), (), note=""), []))

    for sent in prompt.sent:
        if sent.of is not None:
            while at < sent.of:  # one that the brain has not got would stand alone
                at += 1
                begin(at)
        elif at + 1 in prompt.answers:
            at += 1
            begin(at)
        elif not rows:
            rows.append(Row(-1, None, []))
        tools = {*prompt.tools, *_NAMES} if sent.of is None else ()
        note = _note(sent, tools)
        hidden += sent.of is None and note != "as it was said"
        forgotten += note == "forgotten"
        tables += bool(sent.table)
        numbers = prompt.pictures.get(sent.of, ()) if sent.of is not None else ()
        card = _card(sent.message, numbers, tools, note=note, table=sent.table)
        brain.append(card)
        rows[-1].brain.append(card)
        rows[-1].same = sent.same and len(rows[-1].brain) == 1
    while at + 1 < len(prompt.client):
        at += 1
        begin(at)
    return Compared(
        rows,
        _sums([row.client for row in rows if row.client is not None]),
        _sums(brain),
        sum(map(len, prompt.pictures.values())),
        prompt.picture_bytes,
        hidden,
        forgotten,
        tables,
    )


def _sums(cards: Sequence[Card]) -> Sums:
    return Sums(len(cards), sum(card.characters for card in cards), sum(card.size for card in cards))


def _note(sent: Sent, tools: Collection[str]) -> str:
    if sent.same:
        return "as sent"
    if sent.of is not None:
        return "table added" if sent.table else "rewritten"
    content = sent.message.get("content")
    if sent.message.get("role") == "tool":
        return "forgotten" if isinstance(content, str) and content.startswith(_FORGOTTEN) else "what was seen"
    names = [call["function"]["name"] for call in sent.message.get("tool_calls") or () if "function" in call]
    return "hidden turn" if any(name in tools for name in names) else "as it was said"


def _card(
    message: Mapping[str, Any], numbers: Collection[int], tools: Collection[str], *, note: str, table: str = ""
) -> Card:
    role = message.get("role")
    card = Card(role if isinstance(role, str) else "?", note)
    every = [piece for piece in _pieces(message, numbers, tools, table) if piece.text]
    for piece in every:
        card.characters += len(piece.text)
        card.size += len(piece.text.encode("utf-8", "replace"))
    card.pieces, behind = _cut(every, SHOWN_AT_ONCE)
    card.rest, left_out = _cut(behind, MOST_SHOWN)
    card.left_out = sum(len(piece.text) for piece in left_out)
    return card


def _cut(pieces: Sequence[Piece], most: int) -> tuple[list[Piece], list[Piece]]:
    """The first `most` characters, and the rest.  Only plain text and thoughts are cut in their middle."""
    for index, piece in enumerate(pieces):
        if len(piece.text) <= most:
            most -= len(piece.text)
            continue
        if piece.kind not in ("text", "thought", "other", "call", "own-call"):
            return [*pieces[: index + 1]], [*pieces[index + 1 :]]
        head, tail = Piece(piece.kind, piece.text[:most]), Piece(piece.kind, piece.text[most:])
        return [*pieces[:index], head], [tail, *pieces[index + 1 :]]
    return list(pieces), []


def _pieces(
    message: Mapping[str, Any], numbers: Collection[int], tools: Collection[str], table: str
) -> Iterator[Piece]:
    for name in ("reasoning_content", "reasoning"):
        if isinstance(thought := message.get(name), str):
            yield Piece("thought", thought)
            break
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    for index, part in enumerate(parts):
        if isinstance(part, str):
            text: str | None = part
        else:
            text = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(text, str):
            if table and index == len(parts) - 1 and text.endswith(table):
                yield from _marked(text.removesuffix(table), numbers)
                yield Piece("table", table)
            else:
                between = index < len(parts) - 1 and not text.endswith("\n")
                yield from _marked(text + "\n" * between, numbers)
        elif is_thought(part):
            yield Piece("thought", str(part.get("thinking") or _json(part)))
        elif isinstance(part, Mapping) and part.get("type") not in ("call", "item"):
            yield Piece("other", _json(part))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            name = str(function.get("name"))
            yield Piece("own-call" if name in tools else "call", f"{name}({function.get('arguments')})")
        else:
            yield Piece("call", _json(call))


def _marked(text: str, numbers: Collection[int]) -> Iterator[Piece]:
    end = 0
    for found in _OURS.finditer(text):
        if found.start() > end:
            yield Piece("text", text[end : found.start()])
        end = found.end()
        yield _mark(found, numbers)
    if end < len(text):
        yield Piece("text", text[end:])


def _mark(found: re.Match[str], numbers: Collection[int]) -> Piece:
    """Words that look like ours are ours only in a message in which that image stands."""
    if found["image"]:
        number = int(found["image"])
        return Piece("placeholder" if number in numbers else "marker", found[0], number)
    if found["picture"]:
        number = int(found["picture"])
        return Piece("picture", found[0], number) if number in numbers else Piece("text", found[0])
    return Piece("pixels", found[0])


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
