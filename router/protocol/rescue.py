"""Calls of our tools that came as text, caught before the client sees them.

A model writes its calls in a syntax of its own, and the server's parser turns that into tool calls; where the parser
misses one, the syntax itself arrives as content, or inside the reasoning when the model forgot to end its thought.
What we know to look for:

*   Qwen3.5, Qwen3-Coder: `<tool_call> <function=NAME> <parameter=KEY> VALUE </parameter> </function> </tool_call>`,
    also with the outer tags forgotten;
*   Hermes, Qwen3: `<tool_call> {"name": "NAME", "arguments": {…}} </tool_call>`;
*   GLM: `<tool_call>NAME <arg_key>KEY</arg_key> <arg_value>VALUE</arg_value> </tool_call>`;
*   what models do when they improvise: a fenced block of JSON, `{"name": "NAME", "arguments": {…}}`.

Text streams on while this watches: only what could still become one of these *openings*, up to and including the
name of one of our tools, is held back, so ordinary text is never delayed by more than the longest opening, and a
client's own calls or an example in a code block pass as soon as they differ.  From a complete opening on, everything
up to the matching end is kept; what turns out to be no call after all is given back, to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

import orjson

_SPACE = None
"""In a pattern: any white space, or none."""

Pattern: TypeAlias = tuple[str | None, ...]

_LONGEST_OPENING = 200
"""Characters; white space may repeat, and must not hold text back for ever."""

_LONGEST_CALL = 64 * 1024
"""A call of ours is a number and a question."""

_CANDIDATE = re.compile(r"[<`]")
_XML_NAME = re.compile(r"<function=\s*\"?([^>\"\s]+)")
_XML_PARAMETER = re.compile(
    r"<parameter=\s*\"?([\w-]+)\"?>\n?(.*?)\n?(?:</parameter>|(?=<parameter=)|(?=</function>)|$)", re.DOTALL
)
_GLM_VALUE = re.compile(r"</arg_key>\s*<arg_value>")
_CLOSING = "</tool_call>"


@dataclass(frozen=True, slots=True)
class RescuedCall:
    name: str
    arguments: str
    """JSON text of an object."""


class _Match(Enum):
    NO = 0
    MAYBE = 1
    YES = 2


class TextGate:
    """Watches one kind of text (words or thoughts) of one turn for calls of the tools named `names`."""

    def __init__(self, names: Collection[str]) -> None:
        self._patterns = [pattern for name in names for pattern in _openings(name)]
        self._names = frozenset(names)
        self._held = ""
        self._capturing = False
        self._after_call = False
        """A call just ended; its outer closing tag, if the inner one ended it, belongs to it."""
        self.calls: list[RescuedCall] = []

    def feed(self, text: str) -> str:
        """What of the text so far is certainly no call and may be shown now."""
        if not self._held and not self._after_call and "<" not in text and "`" not in text:
            return text
        self._held += text
        return "".join(self._released())

    def interrupt(self) -> str:
        """A real call begins: what was held as a mere beginning is none.  A lone opening tag is dropped: vLLM lets it
        through as content before the call that it belongs to."""
        if self._capturing:
            return ""
        rest, self._held = self._held, ""
        return "" if rest.strip() == "<tool_call>" else rest

    def close(self) -> str:
        """The turn is over: what was held and is no call."""
        rest, self._held = self._held, ""
        if self._capturing and (call := _parse(rest, self._names)) is not None:
            self.calls.append(call)
            return ""
        return rest

    def _released(self) -> Iterator[str]:
        while self._held:
            if self._after_call and not self._closing_tag_gone():
                return
            if not self._capturing:
                position, match = self._find()
                yield self._held[:position]
                self._held = self._held[position:]
                if match is not _Match.YES:
                    return
                self._capturing = True
            end = _end(self._held)
            if end < 0:
                if len(self._held) > _LONGEST_CALL:
                    self._capturing = False
                    yield self._held
                    self._held = ""
                return
            written, self._held = self._held[:end], self._held[end:]
            self._capturing = False
            call = _parse(written, self._names)
            if call is None:
                yield written
            else:
                self.calls.append(call)
                self._after_call = True

    def _closing_tag_gone(self) -> bool:
        """Takes the tag off what is held; says whether it can be known yet if there is one."""
        behind = self._held.lstrip()
        if len(behind) < len(_CLOSING) and _CLOSING.startswith(behind):
            return False
        self._after_call = False
        if behind.startswith(_CLOSING):
            self._held = behind.removeprefix(_CLOSING)
        return True

    def _find(self) -> tuple[int, _Match]:
        """Where the first opening stands, or what may still become one; the end of the text where there is neither."""
        for candidate in _CANDIDATE.finditer(self._held):
            match = max((_matches(self._held, candidate.start(), pattern) for pattern in self._patterns), key=_value)
            if match is not _Match.NO:
                return candidate.start(), match
        return len(self._held), _Match.NO


def _value(match: _Match) -> int:
    return match.value


def _openings(name: str) -> Sequence[Pattern]:
    named = ("{", _SPACE, '"name"', _SPACE, ":", _SPACE, f'"{name}"')
    return (
        ("<tool_call>", _SPACE, "<function=", _SPACE, name),
        ("<function=", _SPACE, name),
        ("<tool_call>", _SPACE, *named),
        ("<tool_call>", _SPACE, name),
        ("```json", _SPACE, *named),
        ("```", _SPACE, *named),
    )


def _matches(text: str, position: int, pattern: Pattern) -> _Match:
    """Whether `text` from `position` on begins with the pattern, could yet, or does not."""
    start = position
    for element in pattern:
        if element is _SPACE:
            while position < len(text) and text[position].isspace():
                position += 1
            if position - start > _LONGEST_OPENING:
                return _Match.NO
            continue
        there = text[position : position + len(element)]
        if there != element:
            return _Match.MAYBE if element.startswith(there) and position + len(there) == len(text) else _Match.NO
        position += len(element)
    return _Match.YES


def _end(text: str) -> int:
    """The position behind the captured call's end; -1 while it is not there."""
    closing: Literal["</tool_call>", "</function>", "```"]
    if text.startswith("```"):
        found = text.find("```", 3)
        return found if found < 0 else found + 3
    closing = "</tool_call>" if text.startswith("<tool_call>") else "</function>"
    found = text.find(closing)
    return found if found < 0 else found + len(closing)


def _parse(text: str, names: Collection[str]) -> RescuedCall | None:
    """The call that was written; `None` if it is none, or not one of ours."""
    brace = text.find("{")
    if "<function=" in text:
        match = _XML_NAME.search(text)
        return _call(match[1] if match else "", dict(_XML_PARAMETER.findall(text)), names)
    if "<arg_key>" in text:
        name = text.removeprefix("<tool_call>").partition("<arg_key>")[0].strip()
        return _call(name, dict(_glm_pairs(text)), names)
    if brace < 0:
        name = text.removeprefix("<tool_call>").removesuffix("</tool_call>").strip()
        return _call(name, {}, names)
    try:
        written = orjson.loads(text[brace : text.rfind("}") + 1])
    except orjson.JSONDecodeError:
        return None
    if not isinstance(written, dict):
        return None
    arguments = written.get("arguments", written.get("parameters", {}))
    if isinstance(arguments, str):
        return RescuedCall(written.get("name", ""), arguments) if written.get("name") in names else None
    return _call(written.get("name"), arguments, names)


def _glm_pairs(text: str) -> Iterator[tuple[str, str]]:
    """By search rather than by a pattern: one that looks for several ends at once takes the square of a text's length,
    or its cube, where they are missing."""
    position = 0
    while (start := text.find("<arg_key>", position)) >= 0:
        start += len("<arg_key>")
        end = text.find("</arg_key>", start)
        if end < 0:
            return
        position = end
        if (value := _GLM_VALUE.match(text, end)) is None:
            continue
        close = text.find("</arg_value>", value.end())
        if close < 0:
            return
        position = close
        yield text[start:end].strip(), text[value.end() : close].removeprefix("\n").removesuffix("\n")


def _call(name: object, arguments: object, names: Collection[str]) -> RescuedCall | None:
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    return RescuedCall(name, orjson.dumps(arguments).decode())
