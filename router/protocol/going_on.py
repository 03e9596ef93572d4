"""How a conversation goes on in any wire format: its requests have one outline (`wire_format.py`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from router.protocol.pictures import result_messages
from router.protocol.turn import Turn
from tools.call import ToolResult

LEAST_TOKENS = 16
"""A follow-up with a smaller budget could not say a sentence; the answer then ends with `length`."""


class GoingOn(ABC):
    """What the dialects have in common."""

    limits: ClassVar[Sequence[str]]
    """The fields that limit how much is said."""

    stream_fields: ClassVar[Sequence[str]] = ("stream",)
    """The fields that a request has only because its answer is a stream."""

    @abstractmethod
    def assistant_message(self, turn: Turn) -> dict[str, Any]:
        """What the brain said in `turn`, in outline."""

    def follow_up(self, request: Mapping[str, Any], turn: Turn, results: Sequence[ToolResult]) -> dict[str, Any] | None:
        said = [self.assistant_message(turn), *result_messages(results)]
        following = {**request, "messages": [*request["messages"], *said]}
        used = turn.completion_tokens()
        for limit in self.limits:
            if isinstance(request.get(limit), int):
                following[limit] = request[limit] - used
                if following[limit] < LEAST_TOKENS:
                    return None
        return following

    def added(self, first: Mapping[str, Any], last: Mapping[str, Any]) -> list[dict[str, Any]]:
        return list(last["messages"][len(first["messages"]) :])

    def whole(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        if not request.get("stream"):
            return None
        return {key: value for key, value in request.items() if key not in self.stream_fields}

    def spent(self, request: Mapping[str, Any], turn: Turn) -> bool:
        limits = [request.get(name) for name in self.limits]
        return any(isinstance(limit, int) and turn.completion_tokens() >= limit for limit in limits)
