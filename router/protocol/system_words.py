"""What the system says in a history, made fit for servers; a function of the history alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

_BILLING_LINE = re.compile(r"^x-anthropic-billing-header:[^\n]*\n?", re.MULTILINE)
"""Claude Code puts this line into its system text with a value that changes on every request: 60,000 tokens of prompt
are then computed anew each time."""


def without_billing(content: Any) -> Any:
    """The content of a system message; what holds no such line is equal afterwards."""
    if isinstance(content, str):
        return _BILLING_LINE.sub("", content) if "x-anthropic-billing-header" in content else content
    if isinstance(content, list):
        parts = []
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                text = without_billing(part["text"])
                if not text.strip() and text != part["text"]:
                    continue
                part = part if text == part["text"] else {**part, "text": text}
            parts.append(part)
        return parts
    return content


def one_system_message(messages: list[Any]) -> list[Any]:
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
    for is_system, run in groupby(rest, key=lambda message: _role(message) == "system"):
        if is_system:  # all of them at once: one by one would take the square of their number
            reminders = [_reminder(_text_of(message.get("content"))) for message in run]
            if folded and _role(folded[-1]) in ("user", "tool"):
                folded[-1] = _with_text(folded[-1], after=reminders)
            else:
                waiting = reminders
            continue
        for message in run:
            if waiting and _role(message) in ("user", "tool"):
                message = _with_text(message, before="\n\n".join(waiting))
            elif waiting:
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


def _with_text(message: dict[str, Any], *, before: str = "", after: Sequence[str] = ()) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        first = [{"type": "text", "text": before + "\n\n"}] if before else []
        last = [{"type": "text", "text": "\n\n" + one} for one in after]
        return {**message, "content": [*first, *content, *last]}
    text = content if isinstance(content, str) else ""
    return {**message, "content": "\n\n".join(part for part in (before, text, *after) if part)}
