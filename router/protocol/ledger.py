"""Hidden turns put back where they happened.

A client never learns of our tools, so the history that it sends back lacks our calls and their results.  For a
*mixed turn* that would be wrong rather than merely forgetful: the brain asked two things and would find one answered.
So such a turn is kept, found again by the ids of the client's own calls (which every client must echo), and put back
as it was said.

What is kept is used only where it fits: the client's message must hold the same calls.  A history that does not fit,
or whose turn was lost, stays as the client sent it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class KeptTurn:
    """One mixed turn: what the brain said and what our tools answered."""

    message: Mapping[str, Any]
    """The assistant message with all calls, ours and the client's, as the server must see it again."""
    client_ids: tuple[str, ...]
    results: Sequence[Mapping[str, Any]]
    """Tool messages that answer our calls."""


def client_call_ids(messages: Sequence[Any]) -> list[str]:
    """The first call id of each assistant message that has calls: where a kept turn may belong."""
    return [ids[0] for message in messages if (ids := _call_ids(message))]


def weave(messages: Sequence[Any], kept: Mapping[str, KeptTurn]) -> list[Any]:
    """The history with kept turns in place of what the client knows of them; `kept` is keyed by the first client id."""
    woven: list[Any] = []
    for message in messages:
        ids = _call_ids(message)
        turn = kept.get(ids[0]) if ids else None
        if turn is None or list(turn.client_ids) != ids or not _same_calls(message, turn.message):
            woven.append(message)
        else:
            woven += [dict(turn.message), *map(dict, turn.results)]
    return woven


def _call_ids(message: Any) -> list[str]:
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return []
    calls = message.get("tool_calls")
    ids = [call.get("id") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    return [id_ for id_ in ids if isinstance(id_, str)]


def _same_calls(message: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
    names = {call["id"]: call["function"]["name"] for call in kept["tool_calls"]}
    return all(
        isinstance(function := call.get("function"), dict) and function.get("name") == names.get(call.get("id"))
        for call in message["tool_calls"]
    )
