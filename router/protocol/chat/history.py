"""A client's history made fit for the server, changing the least.

Clients add fields that servers refuse, and write system messages where templates do not take them.  Everything here
is a function of the history alone: a message that was sent once is sent again as the same bytes on every later
turn, or the server's prefix cache is lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from router.protocol.mended import mended
from router.protocol.profiles import Profile

_BILLING_LINE = re.compile(r"^x-anthropic-billing-header:[^\n]*\n?", re.MULTILINE)
"""Claude Code puts this line into its system text with a value that changes on every request: 60,000 tokens of prompt
are then computed anew each time."""


def fit(request: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """The request as the server takes it.  Fields that we do not know ride along untouched."""
    fitted = {**request, "messages": _messages(request["messages"], profile)}
    if "tools" in fitted:
        if not fitted["tools"]:
            del fitted["tools"]  # vLLM refuses an empty list
        else:
            fitted["tools"] = _without_cache_control(fitted["tools"])
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
    return _one_system_message(fitted) if profile.one_system_message else fitted


def _message(message: Any, profile: Profile) -> Any:
    if not isinstance(message, dict):
        return message
    fitted = _without_cache_control(message)
    if fitted.get("role") == "developer" and not profile.developer_role:
        fitted = {**fitted, "role": "system"}
    if "tool_calls" in fitted and fitted["tool_calls"] is None:  # `transformers serve` answers 500 to it
        fitted = {key: value for key, value in fitted.items() if key != "tool_calls"}
    if fitted.get("role") == "assistant" and isinstance(fitted.get("tool_calls"), list):
        calls = [_call(call) for call in fitted["tool_calls"]]
        if any(a is not b for a, b in zip(calls, fitted["tool_calls"], strict=True)):
            fitted = {**fitted, "tool_calls": calls}
    if fitted.get("role") in ("system", "developer"):
        content = _without_billing(fitted.get("content"))
        fitted = fitted if content == fitted.get("content") else {**fitted, "content": content}
    return fitted


def _call(call: Any) -> Any:
    """A call that the client sends back, with arguments that the server can parse."""
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(arguments, str) or (whole := mended(arguments)) == arguments:
        return call
    return {**call, "function": {**function, "arguments": whole}}


def _without_cache_control(value: Any) -> Any:
    """Anthropic's cache marks, dropped wherever they stand: they roll on every turn, and vLLM's stricter forks refuse
    them.  What holds none is the same object."""
    if isinstance(value, list):
        items = [_without_cache_control(item) for item in value]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        fields = {key: _without_cache_control(item) for key, item in value.items() if key != "cache_control"}
        return fields if len(fields) != len(value) or any(fields[key] is not value[key] for key in fields) else value
    return value


def _without_billing(content: Any) -> Any:
    if isinstance(content, str):
        return _BILLING_LINE.sub("", content) if "x-anthropic-billing-header" in content else content
    if isinstance(content, list):
        parts = []
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                text = _without_billing(part["text"])
                if not text.strip() and text != part["text"]:
                    continue
                part = part if text == part["text"] else {**part, "text": text}
            parts.append(part)
        return parts
    return content


# System messages


def _one_system_message(messages: list[Any]) -> list[Any]:
    """One system message at most, and that first: Qwen3.5's template refuses anything else.

    The leading run is joined.  A later one is folded into the user or tool message before it, else the one behind it:
    not into the head, which would change the prompt's beginning, and not as a user message of its own, which inside a
    tool loop makes the template drop the thoughts before it.
    """
    lead = 0
    while lead < len(messages) and _role(messages[lead]) == "system":
        lead += 1
    rest = messages[lead:]
    head = [messages[0]] if lead == 1 else [_joined(messages[:lead])] if lead else []
    if not any(_role(message) == "system" for message in rest):
        return [*head, *rest]
    folded: list[Any] = []
    waiting: list[str] = []
    for message in rest:
        role = _role(message)
        if role == "system":
            reminder = _reminder(_text_of(message.get("content")))
            if folded and _role(folded[-1]) in ("user", "tool"):
                folded[-1] = _with_text(folded[-1], after=reminder)
            else:
                waiting.append(reminder)
        elif waiting and role in ("user", "tool"):
            folded.append(_with_text(message, before="\n\n".join(waiting)))
            waiting = []
        else:
            if waiting:
                folded.append({"role": "user", "content": "\n\n".join(waiting)})
                waiting = []
            folded.append(message)
    if waiting:
        folded.append({"role": "user", "content": "\n\n".join(waiting)})
    return [*head, *folded]


def _role(message: Any) -> str:
    return message.get("role", "") if isinstance(message, dict) else ""


def _joined(messages: list[Any]) -> dict[str, Any]:
    return {**messages[0], "content": "\n\n".join(_text_of(message.get("content")) for message in messages)}


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def _reminder(text: str) -> str:
    """Marked, so that the brain can tell the harness from the user; Claude Code marks its own reminders so."""
    return f"<system-reminder>\n{text}\n</system-reminder>"


def _with_text(message: dict[str, Any], *, before: str = "", after: str = "") -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        first = [{"type": "text", "text": before + "\n\n"}] if before else []
        last = [{"type": "text", "text": "\n\n" + after}] if after else []
        return {**message, "content": [*first, *content, *last]}
    text = content if isinstance(content, str) else ""
    return {**message, "content": "\n\n".join(part for part in (before, text, after) if part)}
