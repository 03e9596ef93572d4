"""Hidden turns put back where they happened.

A client never learns of our tools, so the history that it sends back lacks our calls and their results.  For a
*mixed turn* that would be wrong rather than merely forgetful: the brain asked two things and would find one answered.
So such a turn is kept, found again by its *place*, and put back as it was said.

A place is what both sides of the gap must agree upon: the client's calls (id, name, arguments), which every client
echoes, and the message before them.  Ids alone would not do, because some servers count them anew in each turn
(`functions.read:0`).  What is kept is used only where it fits; a history that does not fit, or whose turn was lost,
stays as the client sent it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class KeptTurn:
    """One mixed turn: what the brain said and what our tools answered."""

    message: Mapping[str, Any]
    """The assistant message with all calls, ours and the client's, as the server must see it again."""
    results: Sequence[Mapping[str, Any]]
    """Tool messages that answer our calls."""


def places(messages: Sequence[Any]) -> dict[int, str]:
    """Where a kept turn may belong: the places of all assistant messages with calls, by their index."""
    return {
        index: place(messages[:index][-1:], calls)
        for index, message in enumerate(messages)
        if (calls := _calls(message))
    }


def place(before: Sequence[Any], calls: Sequence[Mapping[str, Any]]) -> str:
    """The place of a turn with these calls of the client (as they stand in a history) behind the messages `before`, of
    which the last counts.  64 hex digits."""
    functions = [(call.get("id"), call["function"].get("name"), _plain(call["function"])) for call in calls]
    what = orjson.dumps([before[-1:], functions], option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.sha256(what).hexdigest()


def weave(messages: Sequence[Any], kept: Mapping[int, KeptTurn]) -> list[Any]:
    """The history with kept turns in place of what the client knows of them; `kept` by index of the message."""
    woven: list[Any] = []
    for index, message in enumerate(messages):
        turn = kept.get(index)
        woven += [message] if turn is None else [dict(turn.message), *map(dict, turn.results)]
    return woven


def _calls(message: Any) -> list[Mapping[str, Any]]:
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return []
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return []
    return [call for call in calls if isinstance(call, dict) and isinstance(call.get("function"), dict)]


def _plain(function: Mapping[str, Any]) -> Any:
    """Arguments as a value: clients parse them and write them again with other spaces."""
    arguments = function.get("arguments")
    try:
        return orjson.loads(arguments) if isinstance(arguments, str) else arguments
    except orjson.JSONDecodeError:
        return arguments
