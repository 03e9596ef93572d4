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
    """What stands between the client's last message and the client's own tool results."""

    said: Sequence[Mapping[str, Any]]
    """Hidden turns and their results, and last the mixed turn: an assistant message with all calls, ours and the
    client's.  As the server saw it, and must see it again."""
    results: Sequence[Mapping[str, Any]]
    """Tool messages that answer our calls of the mixed turn."""


def places(messages: Sequence[Any]) -> dict[int, str]:
    """Where a kept turn may belong: the places of all assistant messages with calls, by their index."""
    return {
        index: place(messages[index - 1 : index] if index else (), calls)
        for index, message in enumerate(messages)
        if (calls := _calls(message))
    }


def place(before: Sequence[Any], calls: Sequence[Mapping[str, Any]]) -> str:
    """The place of a turn with these calls of the client (as they stand in a history) behind the messages `before`, of
    which the last counts.  64 hex digits."""
    functions = [(call.get("id"), call["function"].get("name"), _plain(call["function"])) for call in calls]
    what = [list(before[-1:]), functions]
    try:
        plain = orjson.dumps(what, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # nested deeper than it writes, or numbers beyond 64 bits
        plain = repr(what).encode("utf-8", "replace")
    return hashlib.sha256(plain).hexdigest()


def weave(messages: Sequence[Any], kept: Mapping[int, KeptTurn]) -> list[Any]:
    """The history with kept turns in place of what the client knows of them; `kept` by index of the message."""
    woven: list[Any] = []
    taken = 0
    for index, message in enumerate(messages):
        turn = kept.get(index)
        if index < taken:
            continue
        if turn is None:
            woven.append(message)
            continue
        taken = index + 1
        while taken < len(messages) and _is_result(messages[taken]):
            taken += 1
        woven += [*map(dict, turn.said), *_in_order_of_calls(turn, messages[index + 1 : taken])]
    return woven


def _in_order_of_calls(turn: KeptTurn, of_client: Sequence[Any]) -> list[Any]:
    """Some templates (Qwen's) render results without ids, one after the other: their order is all that pairs them."""
    order = {call["id"]: position for position, call in enumerate(turn.said[-1]["tool_calls"])}
    return sorted(
        [*map(dict, turn.results), *of_client], key=lambda result: order.get(str(result["tool_call_id"]), len(order))
    )


def _is_result(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "tool" and "tool_call_id" in message


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
