"""A client's history made fit for the server, changing the least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.protocol.mended import mended
from router.protocol.profiles import Profile
from router.protocol.system_words import one_system_message


def fit(request: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """An outline as this server takes it.  Codex says `instructions` and messages of the role `developer`: most
    templates of open models take one of the two."""
    messages = [_message(message, profile) for message in request["messages"]]
    fitted = {**request, "messages": one_system_message(messages) if profile.one_system_message else messages}
    if "tools" in fitted and not fitted["tools"]:
        del fitted["tools"]
    if profile.only_auto_tool_choice and fitted.get("tool_choice") not in (None, "auto"):
        del fitted["tool_choice"]
    return fitted


def _message(message: dict[str, Any], profile: Profile) -> dict[str, Any]:
    if message.get("role") == "developer" and not profile.developer_role:
        return {**message, "role": "system"}
    calls = message.get("tool_calls")
    if not calls or not any(_broken(call) for call in calls):
        return message
    return {**message, "tool_calls": [_mended(call) if _broken(call) else call for call in calls]}


def _broken(call: Mapping[str, Any]) -> bool:
    return call["type"] == "function" and mended(call["function"]["arguments"]) != str(call["function"]["arguments"])


def _mended(call: Mapping[str, Any]) -> dict[str, Any]:
    return {**call, "function": {**call["function"], "arguments": mended(call["function"]["arguments"])}}
