"""How a conversation goes on in Chat Completions, and how its turns add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from router.errors import UpstreamError
from router.protocol.going_on import GoingOn
from router.protocol.mended import mended
from router.protocol.profiles import Profile
from router.protocol.reasoning_details import FIELD as DETAILS
from router.protocol.refusals import refused_in_messages
from router.protocol.turn import Turn, count_of


@dataclass(frozen=True, slots=True)
class OpenAIChat(GoingOn):
    """The dialect itself: how a conversation goes on, and how turns add up."""

    limits = ("max_tokens", "max_completion_tokens")
    stream_fields = ("stream", "stream_options")

    profile: Profile

    def assistant_message(self, turn: Turn) -> dict[str, Any]:
        """What the brain said, to the letter: its template renders it to the tokens it generated, so its prefix cache
        still fits (argument text and its key order included)."""
        content = turn.content
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if turn.calls else "")}
        reasoning = turn.reasoning
        if reasoning or (self.profile.empty_reasoning and turn.calls):
            message |= dict.fromkeys(self.profile.history_reasoning, reasoning)
        if turn.detail_pieces:
            message[DETAILS] = turn.details
        if turn.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": mended(call.arguments)},
                    **call.extra,
                }
                for call in turn.calls.values()
            ]
        return message

    def yielding(self, error: UpstreamError) -> OpenAIChat | None:
        refused = refused_in_messages(error.message, self.profile.history_reasoning)
        return replace(self, profile=self.profile.without_thoughts_in(refused)) if refused else None

    def usage(self, turns: Sequence[Turn], vision: Mapping[str, int]) -> dict[str, Any] | None:
        """`prompt_tokens` of the last turn, because clients use it as a context meter; `completion_tokens` and
        reasoning tokens of all; what was billed beyond that under `chiasm`, integers only."""
        counted = [turn for turn in turns if turn.usage is not None]  # a stream may end before its usage
        told = [turn.usage.values for turn in counted if turn.usage is not None]
        if not told:
            return None
        prompt, completion = counted[-1].prompt_tokens(), sum(turn.completion_tokens() for turn in counted)
        usage: dict[str, Any] = {**told[-1], "prompt_tokens": prompt, "completion_tokens": completion}
        usage["total_tokens"] = prompt + completion
        reasoning = [
            details["reasoning_tokens"]
            for values in told
            if isinstance(details := values.get("completion_tokens_details"), Mapping)
            and count_of(details, "reasoning_tokens")
        ]
        if reasoning:
            last = usage.get("completion_tokens_details")
            usage["completion_tokens_details"] = {
                **(last if isinstance(last, Mapping) else {}),
                "reasoning_tokens": sum(reasoning),
            }
        usage["chiasm"] = {**vision, "billed_prompt_tokens": sum(turn.prompt_tokens() for turn in turns)}
        return usage
