"""What became of a tool call on its way through a server: pure, from what was heard.

The ways in which calls break are few and each has its mark.  Most of them come from one place: parsers that read a
model's call while it is written, piece by piece, and go wrong where a piece is larger than they expect, as it is with
speculative decoding.  They are told apart from a model that simply did not call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum

import orjson

from router.doctor.heard import Heard, HeardCall


class Outcome(Enum):
    """`value`: in words."""

    WHOLE = "whole"
    # The server refuses, or the answer never came.
    REFUSED = "refused"
    NO_ANSWER = "no answer"
    # The server's parser is missing, or another model's.
    AS_TEXT = "the call came as text among the words"
    IN_THOUGHTS = "the call stands inside the thoughts"
    LEAKED = "the call came, with its markup left among the words"
    # Broken on the way.
    NO_BRACE = "the arguments lack their opening brace"
    NO_ARGUMENTS = "the arguments are empty"
    LOST_PARAMETER = "a parameter is missing"
    CUT = "the arguments end in the middle"
    TAIL = "something follows the arguments"
    MANGLED = "names or keys are mixed up with values"
    ERROR_AFTER = "an error in the stream after a call"
    ERROR = "an error in the stream"
    LOST = "tokens were made, and neither a call nor words came"
    # The model's own doing.
    NOT_CALLED = "words, and no call"
    OTHER_TOOL = "called a tool that there is not"
    LEFT_OUT = "left a parameter out, streamed or not"
    EMPTY = "said nothing"
    TOO_LONG = "was not done within the token limit"


BROKEN = frozenset(
    {
        Outcome.NO_BRACE,
        Outcome.NO_ARGUMENTS,
        Outcome.LOST_PARAMETER,
        Outcome.CUT,
        Outcome.TAIL,
        Outcome.MANGLED,
        Outcome.ERROR_AFTER,
        Outcome.ERROR,
        Outcome.LOST,
    }
)
"""Broken on the way."""

MODELS_OWN = frozenset({Outcome.NOT_CALLED, Outcome.OTHER_TOOL, Outcome.LEFT_OUT, Outcome.EMPTY, Outcome.TOO_LONG})

_MARKUP = re.compile(
    r"</?tool_calls?>|<function=|</function>|<parameter=|<arg_key>|<\|tool|<｜tool|\[TOOL_CALLS\]|<invoke "
    r"|\"name\"\s*:\s*\"\w+\"\s*,\s*\"(arguments|parameters)\"\s*:"
)
_PLAIN_KEY = re.compile(r"[\w.-]+")
_HIDDEN_TOKENS = 12
"""The shortest call is longer than this; an end-of-turn token or a line end is shorter."""

Required = Mapping[str, Sequence[str]]
"""Tools that were offered, with the parameters that each cannot do without."""


def outcome(heard: Heard, offered: Required) -> Outcome:
    """What became of the calls of this answer, the worst of them."""
    if heard.fault or not heard.status:
        return Outcome.NO_ANSWER
    if heard.status >= 400:
        return Outcome.REFUSED
    found = [of_call(call, offered) for call in heard.calls]
    if heard.error:
        good = found and all(one is Outcome.WHOLE for one in found)
        return Outcome.ERROR_AFTER if good else Outcome.ERROR
    for one in found:
        if one is not Outcome.WHOLE:
            return Outcome.TOO_LONG if heard.cut_at_limit and one in (Outcome.CUT, Outcome.NO_ARGUMENTS) else one
    if found:
        return Outcome.LEAKED if _MARKUP.search(heard.text) else Outcome.WHOLE
    return _without_calls(heard)


def _without_calls(heard: Heard) -> Outcome:
    if _MARKUP.search(heard.text):
        return Outcome.AS_TEXT
    if heard.cut_at_limit:
        return Outcome.TOO_LONG
    if _MARKUP.search(heard.reasoning):
        return Outcome.IN_THOUGHTS
    if heard.text.strip():
        return Outcome.NOT_CALLED
    # Four characters a token is a low estimate of what was shown.
    shown = (len(heard.text) + len(heard.reasoning)) / 4
    hidden = heard.completion_tokens - shown
    if "tool_calls" in heard.finishes or (hidden > _HIDDEN_TOKENS and not heard.reasoning.strip()):
        return Outcome.LOST
    return Outcome.EMPTY


def of_call(call: HeardCall, offered: Required) -> Outcome:
    if call.name not in offered:
        mixed = any(call.name.startswith(name) or f"{name} " in call.name for name in offered)
        return Outcome.MANGLED if mixed or not _PLAIN_KEY.fullmatch(call.name) else Outcome.OTHER_TOOL
    required = offered[call.name]
    text = call.arguments.strip()
    if text in ("", "{}", "{", '""', "null"):
        return Outcome.NO_ARGUMENTS if required else Outcome.WHOLE
    value = _parsed(text)
    if value is None:
        return _unparsed(text)
    if not isinstance(value, dict) or not all(_PLAIN_KEY.fullmatch(key) for key in value):
        return Outcome.MANGLED
    missing = [name for name in required if value.get(name) in (None, "")]
    return Outcome.LOST_PARAMETER if missing else Outcome.WHOLE


def _unparsed(text: str) -> Outcome:
    if not text.startswith("{"):
        braced = "{" + text if text.endswith("}") else "{" + text + "}"
        return Outcome.NO_BRACE if isinstance(_parsed(braced), dict) else Outcome.MANGLED
    for end, letter in enumerate(text):
        if letter == "}" and isinstance(_parsed(text[: end + 1]), dict):
            return Outcome.TAIL
    return Outcome.CUT


def _parsed(text: str) -> object:
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value
