"""Fields of a request that are ours, told apart from the client's.

A client's field goes to the server as it came, and a server that refuses it tells the client so.  What the
configuration adds (a sampling preset, a thinking switch, the wish to be told the usage) is a courtesy that no answer
may fail for: a server that refuses it is asked again without.  So that the two cannot be confused, even where their
values are the same, a value of ours stays wrapped from the moment it is added until the request leaves the house.

It stands at the top of the request, or one level below where it joins an object of the client's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


class Added:
    """A value of ours.  No dataclass on purpose: the JSON writer refuses it, so none can leave by accident."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Added({self.value!r})"


def added_to(request: Mapping[str, Any]) -> frozenset[str]:
    """The names, at the top of the request, under which something of ours stands."""
    return frozenset(name for name, value in request.items() if isinstance(value, Added) or _joined(value))


def as_sent(request: Mapping[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """The request as it leaves, without what we added under these names.  What the client said there stays."""
    sent: dict[str, Any] = {}
    for name, value in request.items():
        if isinstance(value, Added):
            if name not in without:
                sent[name] = value.value
        elif _joined(value):
            sent[name] = {
                key: inner.value if isinstance(inner, Added) else inner
                for key, inner in value.items()
                if not (isinstance(inner, Added) and name in without)
            }
        else:
            sent[name] = value
    return sent


def _joined(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(inner, Added) for inner in value.values())


def completed_with(request: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The request with these values, each as `Added`, where the client says nothing."""
    return {**request, **{name: _completed(request.get(name), value) for name, value in ours.items()}}


def _completed(given: Any, ours: Any) -> Any:
    """The client's word, with ours where it says nothing."""
    if given is None:
        return Added(ours)
    if isinstance(given, dict) and isinstance(ours, dict):
        return {**{name: Added(value) for name, value in ours.items() if name not in given}, **given}
    return given
