"""How a conversation goes on in Messages, and how its turns add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.errors import UpstreamError
from router.protocol.going_on import GoingOn
from router.protocol.mended import mended
from router.protocol.messages.outline import as_call
from router.protocol.messages.request import LEAST_BUDGET
from router.protocol.outline import is_thought
from router.protocol.parts import CALL
from router.protocol.turn import Turn
from tools.call import ToolResult

_OURS = ("prompt_tokens", "completion_tokens")
"""Counts that a reader adds to the server's, under the names that all formats share."""


class Messages(GoingOn):
    """The dialect itself."""

    limits = ("max_tokens",)

    def assistant_message(self, turn: Turn) -> dict[str, Any]:
        """What the brain said, block by block as it said it: a server that signs thoughts takes them back only so."""
        blocks = [block for block in _as_said(turn) or _composed(turn) if not _is_blank(block)]
        message: dict[str, Any] = {"role": "assistant", "content": blocks or ""}
        if turn.calls:
            message["tool_calls"] = [
                as_call(call.id, call.name, mended(call.arguments), call.extra) for call in turn.calls.values()
            ]
        return message

    def follow_up(self, request: Mapping[str, Any], turn: Turn, results: Sequence[ToolResult]) -> dict[str, Any] | None:
        following = super().follow_up(request, turn, results)
        return None if following is None else _within_limit(following)

    def yielding(self, error: UpstreamError) -> None:
        return None

    def usage(self, turns: Sequence[Turn], vision: Mapping[str, int]) -> dict[str, Any] | None:
        """What was read of the last turn, because clients use it as a context meter; what was written, of all; what was
        billed beyond that under `chiasm`, integers only."""
        told = [turn.usage.values for turn in turns if turn.usage is not None]
        if not told:
            return None
        last = {name: value for name, value in told[-1].items() if name not in _OURS}
        billed = sum(turn.prompt_tokens() for turn in turns)
        written = sum(turn.completion_tokens() for turn in turns)
        return {**last, "output_tokens": written, "chiasm": {**vision, "billed_prompt_tokens": billed}}


def _as_said(turn: Turn) -> list[Mapping[str, Any]] | None:
    """The turn's blocks, if they are all that it holds: calls that came as text are none of them."""
    text = "".join(block["text"] for block in turn.blocks if block.get("type") == "text")
    calls = sum(block == CALL for block in turn.blocks)
    return turn.blocks if turn.blocks and text == turn.content and calls == len(turn.calls) else None


def _composed(turn: Turn) -> list[Mapping[str, Any]]:
    thoughts = [block for block in turn.blocks if is_thought(block)]
    if not thoughts and turn.reasoning:
        thoughts = [{"type": "thinking", "thinking": turn.reasoning, "signature": ""}]
    return [*thoughts, {"type": "text", "text": turn.content}, *[CALL] * len(turn.calls)]


def _is_blank(block: Mapping[str, Any]) -> bool:
    """Text without a word, which vLLM says between a thought and a call; Anthropic refuses it in a history."""
    return block.get("type") == "text" and not block["text"].strip()


def _within_limit(request: dict[str, Any]) -> dict[str, Any]:
    """Servers refuse a budget for thinking that is not below `max_tokens`, of which a turn has used some."""
    thinking, limit = request.get("thinking"), request.get("max_tokens")
    if not isinstance(thinking, Mapping) or not isinstance(limit, int):
        return request
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or budget < limit:
        return request
    if limit <= LEAST_BUDGET:
        return {**request, "thinking": {"type": "disabled"}}
    return {**request, "thinking": {**thinking, "budget_tokens": limit - 1}}
