"""Facts about engines, as data: what each sends, takes and refuses.

Where a fact comes from stands beside it.  A new engine is a new row here, and its name in
`router.config.options.Engine`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit


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

    only_auto_tool_choice: bool = False
    """It refuses any `tool_choice` but `auto`."""

    old_max_tokens: bool = False
    """It knows `max_tokens` only, not `max_completion_tokens`."""

    thinking: Mapping[bool, Mapping[str, Any]] = field(default_factory=lambda: _TEMPLATE_SWITCH)
    """Request fields that switch thinking on and off."""

    def without_thoughts_in(self, fields: Collection[str]) -> Profile:
        """The same for a server that was found to refuse these fields in an assistant message."""
        left = tuple(name for name in self.history_reasoning if name not in fields)
        if left == self.history_reasoning:
            return self
        return replace(self, history_reasoning=left, empty_reasoning=self.empty_reasoning and bool(left))


_TEMPLATE_SWITCH: Mapping[bool, Mapping[str, Any]] = {
    True: {"chat_template_kwargs": {"enable_thinking": True}},
    False: {"chat_template_kwargs": {"enable_thinking": False}},
}
_TYPE_SWITCH: Mapping[bool, Mapping[str, Any]] = {
    True: {"thinking": {"type": "enabled"}},
    False: {"thinking": {"type": "disabled"}},
}
_EFFORT_SWITCH: Mapping[bool, Mapping[str, Any]] = {True: {}, False: {"reasoning_effort": "none"}}

SAMPLING: Mapping[bool, Mapping[str, float]] = {
    True: {"temperature": 1.0, "top_p": 0.95, "top_k": 20, "min_p": 0.0, "presence_penalty": 1.5},
    False: {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.0, "presence_penalty": 1.5},
}
"""Qwen3.5's model card, general use, thinking and not; for `sampling = "preset"`."""


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
    "ollama": replace(_LOCAL, history_reasoning=("reasoning",), thinking=_EFFORT_SWITCH),
    "openai": Profile(history_reasoning=(), one_system_message=False, developer_role=True, thinking=_EFFORT_SWITCH),
    "openrouter": Profile(
        history_reasoning=("reasoning",),
        one_system_message=False,
        developer_role=True,
        thinking={True: {"reasoning": {"enabled": True}}, False: {"reasoning": {"enabled": False}}},
    ),
    "deepseek": Profile(
        history_reasoning=("reasoning_content",),
        one_system_message=False,
        developer_role=False,
        empty_reasoning=True,
        thinking=_TYPE_SWITCH,
    ),
    "zai": Profile(
        history_reasoning=("reasoning_content",),
        one_system_message=False,
        developer_role=False,
        stream_options=False,  # refused or ignored; usage comes in the last chunk anyway
        only_auto_tool_choice=True,
        old_max_tokens=True,
        thinking=_TYPE_SWITCH,
    ),
    "kimi": Profile(
        history_reasoning=("reasoning_content",),
        one_system_message=False,
        developer_role=False,
        empty_reasoning=True,  # 400 `reasoning_content is missing in assistant tool call message`
        thinking=_TYPE_SWITCH,
    ),
    "minimax": Profile(history_reasoning=("reasoning_content",), one_system_message=True, developer_role=False),
    "qwencloud": Profile(
        history_reasoning=("reasoning_content",),
        one_system_message=True,
        developer_role=False,
        thinking={True: {"enable_thinking": True}, False: {"enable_thinking": False}},
    ),
}

_HOSTS = {
    "api.openai.com": "openai",
    "openai.azure.com": "openai",
    "openrouter.ai": "openrouter",
    "api.deepseek.com": "deepseek",
    "api.z.ai": "zai",
    "open.bigmodel.cn": "zai",
    "api.moonshot.ai": "kimi",
    "api.moonshot.cn": "kimi",
    "api.minimax.io": "minimax",
    "api.minimaxi.com": "minimax",
    "aliyuncs.com": "qwencloud",
}

_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "library": "ollama"}
"""What each writes into `owned_by` of its model list; Ollama says `library` for models of its own."""


def eyes_switch(engine: str, base_url: str, kind: str) -> Mapping[bool, Mapping[str, Any]] | None:
    """What switches thoughts of eyes on and off; `None`: as usual for their `kind`.

    Servers of our own know Qwen's switch.  Elsewhere it is the service's, which the address tells; but of eyes that are
    asked plainly nothing is assumed unless `engine` says it, because services refuse what a model does not know.
    """
    if engine == "auto" and kind == "qwen":
        engine = recognise(urlsplit(base_url).hostname or "", "", "")
    return None if engine == "auto" else PROFILES[engine].thinking


def recognise(host: str, owner: str, server: str) -> str:
    """Which engine answers, from what it says of itself without being asked for a completion.

    `host`: of the base URL; `owner`: `owned_by` of the first listed model; `server`: the header of that name.  "auto",
    the cautious profile, where nothing is known.
    """
    for domain, engine in _HOSTS.items():
        if host == domain or host.endswith("." + domain):
            return engine
    if owner in _OWNERS:
        return _OWNERS[owner]
    return "llamacpp" if server.startswith("llama.cpp") else "auto"


_SIGNS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("llamacpp", {"header server": r"llama\.cpp"}),
    ("llamacpp", {"system_fingerprint": r"b\d+-[0-9a-f]{7,}"}),  # its build
    ("llamacpp", {"timings": r"\{.*'predicted_ms'"}),
    ("ollama", {"system_fingerprint": r"fp_ollama$"}),
    ("vllm", {"system_fingerprint": r"vllm-\d"}),  # of whole answers; streams tell it at their end
    ("vllm", {"prompt_token_ids": r"", "prompt_text": r""}),  # there, though null, in the first chunk
    ("sglang", {"choice matched_stop": r""}),
    ("openrouter", {"id": r"gen-", "provider": r"\w"}),
    ("deepseek", {"system_fingerprint": r"fp_[0-9a-f]{10}_prod"}),
    ("openai", {"header openai-version": r"\d", "header openai-organization": r"\w"}),
    # Groq refuses what it does not know in a message (`property 'reasoning_content' is unsupported`), as OpenAI may.
    ("openai", {"x_groq": r"\{"}),
)
"""What only this engine's answers hold: the beginning of a header's or a field's value, all of a row.  Which field
reasoning comes in is none of them: engines share those, and change them from one version to the next."""


def recognise_answer(headers: Mapping[str, str], first: Mapping[str, Any]) -> str:
    """Which engine gave this answer, where its list of models did not tell; "auto" where this does not either.

    `headers`: names in lower case; `first`: the first object of the answer.
    """
    choices = first.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    told = {
        **{f"header {name}": value for name, value in headers.items()},
        **first,
        **({f"choice {name}": value for name, value in choice.items()} if isinstance(choice, Mapping) else {}),
    }
    for engine, signs in _SIGNS:
        if all(name in told and re.match(sign, str(told[name])) for name, sign in signs.items()):
            return engine
    return "auto"


FINISH_REASONS: Mapping[str, str] = {
    "sensitive": "content_filter",  # GLM
    "model_context_window_exceeded": "length",  # GLM, Claude behind gateways
}
"""Finish reasons that clients do not know, by the one that says the same.  Others pass as they are."""

BROKEN_FINISHES = frozenset(
    {
        "error",  # OpenRouter
        "network_error",  # GLM
        "insufficient_system_resource",  # DeepSeek
    }
)
"""Finish reasons of an answer that is not whole: to the client, the end of a broken stream."""
