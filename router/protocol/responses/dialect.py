"""How a conversation goes on in Responses, and how its turns add up."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from router.errors import UpstreamError
from router.protocol.going_on import GoingOn
from router.protocol.mended import mended
from router.protocol.outline import is_thought
from router.protocol.parts import CALL
from router.protocol.refusals import REFUSING
from router.protocol.responses.outline import FRAME, ITEM
from router.protocol.turn import CallInTurn, Turn, count_of

CANONICAL = ("prompt_tokens", "completion_tokens")
"""Under these names the reader tells a turn's counts to all rooms; they are not the format's own."""

_OF_THOUGHTS = re.compile(r"(?i)\breasoning\b")


@dataclass(frozen=True, slots=True)
class OpenAIResponses(GoingOn):
    limits = ("max_output_tokens",)
    stream_fields = ("stream", "stream_options")

    thoughts: bool = True
    """Whether the server takes items of thoughts back."""

    def assistant_message(self, turn: Turn) -> dict[str, Any]:
        """What the brain said, as the items that it said it in, wherever those are all that counts."""
        calls = list(turn.calls.values())
        content = [dict(block) for block in turn.blocks]
        said = not turn.content or not all(map(is_thought, content))
        if not said or sum(block == CALL for block in content) != len(calls):  # a call that came as text, perhaps
            content = [*filter(is_thought, content), *_words(turn), *(dict(CALL) for _ in calls)]
        if not self.thoughts:
            content = [part for part in content if not is_thought(part)]
        message: dict[str, Any] = {"role": "assistant", "content": content}
        return message | ({"tool_calls": [_call(one) for one in calls]} if calls else {})

    def yielding(self, error: UpstreamError) -> OpenAIResponses | None:
        told = error.status in REFUSING and _OF_THOUGHTS.search(error.message)
        return replace(self, thoughts=False) if told and self.thoughts else None

    def usage(self, turns: Sequence[Turn], vision: Mapping[str, int]) -> dict[str, Any] | None:
        """`input_tokens` of the last turn, because clients use it as a context meter; `output_tokens` and reasoning
        tokens of all; what was billed beyond that under `chiasm`, integers only."""
        counted = [turn for turn in turns if turn.usage is not None]
        told = [turn.usage.values for turn in counted if turn.usage is not None]
        if not told:
            return None
        usage = {name: value for name, value in told[-1].items() if name not in CANONICAL}
        read, said = counted[-1].prompt_tokens(), sum(turn.completion_tokens() for turn in counted)
        thought = [values.get("output_tokens_details") for values in told]
        usage |= {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0, **_object(usage.get("input_tokens_details"))},
            "output_tokens": said,
            "output_tokens_details": {
                **_object(usage.get("output_tokens_details")),
                "reasoning_tokens": sum(count_of(_object(one), "reasoning_tokens") for one in thought),
            },
            "total_tokens": read + said,
        }
        usage["chiasm"] = {**vision, "billed_prompt_tokens": sum(turn.prompt_tokens() for turn in turns)}
        return usage


def _words(turn: Turn) -> list[dict[str, Any]]:
    if not turn.content:
        return []
    # Some servers take an answer back only with an id; the same for the same words, so that it says the same later.
    id_ = f"msg_{hashlib.sha256(turn.content.encode('utf-8', 'replace')).hexdigest()[:24]}"
    of = {"id": id_, "type": "message", "role": "assistant", "status": "completed"}
    return [{"type": FRAME, "of": of, "holds": 1}, {"type": "output_text", "text": turn.content, "annotations": []}]


def _call(one: CallInTurn) -> dict[str, Any]:
    rest: Mapping[str, Any] = one.extra.get(ITEM) or {"type": "function_call"}
    match rest.get("type"):
        case "function_call":
            said = {"name": one.name, "arguments": mended(one.arguments)}
            return {"id": one.id, "type": "function", "function": said, ITEM: dict(rest)}
        case "custom_tool_call":
            return {
                "id": one.id,
                "type": "custom",
                "custom": {"name": one.name, "input": one.arguments},
                ITEM: dict(rest),
            }
        case _:
            return {"id": one.id, "type": "other", ITEM: dict(rest)}


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
