"""Facts about engines, as data: what each sends, takes and refuses.

Where a fact comes from stands beside it.  A new engine is a new row here and nothing elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Profile:
    history_reasoning: tuple[str, ...]
    """The fields of an assistant message in which the server takes reasoning back."""

    one_system_message: bool
    """Its chat templates refuse a system message that is not the first (Qwen3.5 and later)."""

    developer_role: bool
    """It knows the role `developer`; otherwise that becomes `system`."""

    stream_options: bool = True
    """It takes `stream_options.include_usage`."""

    empty_reasoning: bool = False
    """It refuses an assistant message with tool calls whose reasoning field is missing; an empty string will do."""


_LOCAL = Profile(
    # vLLM up to 0.21 reads only `reasoning`, later versions and everyone else also or only `reasoning_content`.
    history_reasoning=("reasoning", "reasoning_content"),
    one_system_message=True,
    developer_role=False,
)

PROFILES: dict[str, Profile] = {
    "auto": _LOCAL,
    "vllm": _LOCAL,
    "sglang": replace(_LOCAL, history_reasoning=("reasoning_content",)),
    "llamacpp": replace(_LOCAL, history_reasoning=("reasoning_content",)),
    "ollama": replace(_LOCAL, history_reasoning=("reasoning",)),
    "openai": Profile(history_reasoning=(), one_system_message=False, developer_role=True),
    "openrouter": Profile(history_reasoning=("reasoning",), one_system_message=False, developer_role=True),
    "deepseek": Profile(
        history_reasoning=("reasoning_content",), one_system_message=False, developer_role=False, empty_reasoning=True
    ),
    "zai": Profile(
        history_reasoning=("reasoning_content",),
        one_system_message=False,
        developer_role=False,
        stream_options=False,  # refused or ignored; usage comes in the last chunk anyway
    ),
}
