"""A client's history made fit for the server, changing the least.

Clients add fields that servers refuse, and write system messages where templates do not take them.  Everything here
is a function of the history alone: a message that was sent once is sent again as the same bytes on every later
turn, or the server's prefix cache is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.protocol.cache_marks import without_cache_control
from router.protocol.mended import mended
from router.protocol.profiles import Profile
from router.protocol.system_words import one_system_message, without_billing


def fit(request: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """The request as the server takes it.  Fields that we do not know ride along untouched."""
    fitted = {**request, "messages": _messages(request["messages"], profile)}
    if "tools" in fitted:
        if not fitted["tools"]:
            del fitted["tools"]  # vLLM refuses an empty list
        else:
            fitted["tools"] = without_cache_control(fitted["tools"])
    if profile.old_max_tokens and "max_completion_tokens" in fitted:
        limit = fitted.pop("max_completion_tokens")
        fitted.setdefault("max_tokens", limit)
    if profile.only_auto_tool_choice and fitted.get("tool_choice") not in (None, "auto"):
        del fitted["tool_choice"]
    if fitted.get("tool_choice") == "any":  # Anthropic's word, which claude-code-router passes on
        fitted["tool_choice"] = "required"
    return fitted


def _messages(messages: list[Any], profile: Profile) -> list[Any]:
    fitted = [_message(message, profile) for message in messages]
    return one_system_message(fitted) if profile.one_system_message else fitted


def _message(message: Any, profile: Profile) -> Any:
    if not isinstance(message, dict):
        return message
    fitted = without_cache_control(message)
    if fitted.get("role") == "developer" and not profile.developer_role:
        fitted = {**fitted, "role": "system"}
    if "tool_calls" in fitted and fitted["tool_calls"] is None:  # `transformers serve` answers 500 to it
        fitted = {key: value for key, value in fitted.items() if key != "tool_calls"}
    if fitted.get("role") == "assistant" and isinstance(fitted.get("tool_calls"), list):
        calls = [_call(call) for call in fitted["tool_calls"]]
        if any(a is not b for a, b in zip(calls, fitted["tool_calls"], strict=True)):
            fitted = {**fitted, "tool_calls": calls}
    if fitted.get("role") in ("system", "developer"):
        content = without_billing(fitted.get("content"))
        fitted = fitted if content == fitted.get("content") else {**fitted, "content": content}
    return fitted


def _call(call: Any) -> Any:
    """A call that the client sends back, with arguments that the server can parse."""
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(arguments, str) or (whole := mended(arguments)) == arguments:
        return call
    return {**call, "function": {**function, "arguments": whole}}
