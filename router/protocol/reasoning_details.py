"""Thoughts in the form that a server wants back as it gave them: OpenRouter's `reasoning_details`, MiniMax's, too.

A list of objects, streamed in fragments.  They hold what plain text does not: signatures and encrypted thoughts,
without which some models refuse to go on after a tool call.  Fragments of one object have its `index` and `type`; its
text grows, its other fields are said once, in any of the fragments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

FIELD = "reasoning_details"

_GROWING = frozenset({"text", "summary"})


def fragments(said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of a delta or a message."""
    details = said.get(FIELD)
    return [detail for detail in details if isinstance(detail, Mapping)] if isinstance(details, list) else []


def joined(details: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The whole objects, in order of appearance."""
    whole: list[dict[str, Any]] = []
    pieces: list[dict[str, list[str]]] = []
    for detail in details:
        place = _place(whole, detail)
        if place is None:
            place = len(whole)
            whole.append({})
            pieces.append({})
        for name, value in detail.items():
            if name in _GROWING and isinstance(value, str):
                pieces[place].setdefault(name, []).append(value)
                whole[place][name] = ""
            elif value is not None or name not in whole[place]:
                whole[place][name] = value
    return [
        {**one, **{name: "".join(texts) for name, texts in of_one.items()}}
        for one, of_one in zip(whole, pieces, strict=True)
    ]


def _place(whole: list[dict[str, Any]], detail: Mapping[str, Any]) -> int | None:
    """Which of the objects so far this continues.

    Without an index, only the last can be meant.  One that says otherwise in a field that does not grow is another
    object under the same index (encrypted thoughts of parallel calls).
    """
    for place in reversed(range(len(whole))):
        one = whole[place]
        if (one.get("index"), one.get("type")) == (detail.get("index"), detail.get("type")):
            return None if _contradict(one, detail) else place
        if detail.get("index") is None:
            return None
    return None


def _contradict(one: Mapping[str, Any], detail: Mapping[str, Any]) -> bool:
    return any(
        one.get(name) not in (None, value)
        for name, value in detail.items()
        if value is not None and name not in _GROWING
    )
