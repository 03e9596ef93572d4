"""A Chat Completions body: what must hold before anything is done with it, and what it asks of us.

Strict enough that a client's mistake is answered here with a 400 that names the place, instead of coming back from
the text model's server as a 502; open enough that fields we never heard of ride along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.errors import BadRequest
from router.protocol.added import Added, completed_with
from router.protocol.body import MOST_MESSAGES, check_common_fields, check_fields, drop_what_is_never_sent, json_object
from router.protocol.profiles import SAMPLING, Profile

MOST_ANSWERS = 4
"""Of `n`: each is a whole answer's work for the brain, and some servers set aside room for all of them at once."""

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """The body as an object of the right outline.  Raises `BadRequest`."""
    request = json_object(body)
    _check_messages(request.get("messages"))
    check_common_fields(request)
    check_fields(
        request,
        ("functions", list, "a list"),
        ("stream_options", dict, "an object"),
        ("max_tokens", int, "a whole number"),
        ("max_completion_tokens", int, "a whole number"),
        ("n", int, "a whole number"),
    )
    if (request.get("n") or 1) > MOST_ANSWERS:
        raise BadRequest(f"n must be at most {MOST_ANSWERS}", param="n")
    drop_what_is_never_sent(request, request["messages"])
    return request


def _check_messages(messages: object) -> None:
    if messages is None:
        raise BadRequest("messages is missing", param="messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list with at least one message", param="messages")
    if len(messages) > MOST_MESSAGES:
        raise BadRequest(f"messages holds {len(messages)} messages, more than {MOST_MESSAGES}", param="messages")
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if not isinstance(message, dict):
            raise BadRequest(f"{place} must be an object", param=place)
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            shown = role if isinstance(role, str) and len(role) < 40 else type(role).__name__
            raise BadRequest(
                f"{place}.role must be one of {', '.join(sorted(_ROLES))}, not {shown!r}", param=f"{place}.role"
            )
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            raise BadRequest(f"{place}.content must be a string or a list of parts", param=f"{place}.content")
        if isinstance(content, list) and any(not isinstance(part, dict | str) for part in content):
            raise BadRequest(f"{place}.content must hold objects", param=f"{place}.content")
        calls = message.get("tool_calls")
        if calls is not None and (not isinstance(calls, list) or any(not isinstance(call, dict) for call in calls)):
            raise BadRequest(f"{place}.tool_calls must be a list of objects", param=f"{place}.tool_calls")


def tool_names(request: Mapping[str, Any]) -> set[str]:
    """The names of the client's own tools, in any of the forms in which they are declared."""
    tools = [tool for tool in request.get("tools") or () if isinstance(tool, dict)]
    named = [*tools, *(tool.get("function") for tool in tools), *(tool.get("custom") for tool in tools)]
    names = [one.get("name") for one in [*named, *(request.get("functions") or ())] if isinstance(one, dict)]
    return {name for name in names if isinstance(name, str)}


def loop_can_work(request: Mapping[str, Any]) -> bool:
    """Whether the brain could call our tool and be asked again.

    Not when it must call another function or none, when its output is held to a format (constrained decoding leaves no
    room for a call), when several answers are asked for at once, or when it continues a message that the client began.
    """
    choice = request.get("tool_choice")
    return not (
        isinstance(choice, dict)
        or choice == "none"
        or (_format_of(request) not in (None, "text"))
        or (request.get("n") or 1) > 1
        or request.get("functions")
        or request.get("continue_final_message")
        or request["messages"][-1].get("role") == "assistant"
        or any(request.get(name) for name in _CONSTRAINTS)
    )


_CONSTRAINTS = (
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "grammar",
    "json_schema",
)


def _format_of(request: Mapping[str, Any]) -> object:
    wanted = request.get("response_format")
    return wanted.get("type") if isinstance(wanted, dict) else None


def with_settings(request: dict[str, Any], profile: Profile, *, thinking: bool | None, preset: bool) -> dict[str, Any]:
    """With what the configuration adds where the client is silent: the thinking switch, the model card's sampling, and
    the wish for usage."""
    ours: dict[str, Any] = {}
    if thinking is not None:
        ours |= profile.thinking[thinking]
    if preset:
        ours |= SAMPLING[thinking is not False]
    completed = completed_with(request, ours)
    if request.get("stream") and profile.stream_options:
        options = request.get("stream_options")
        if not (options and options.get("include_usage")):  # a `false` is about what the client is shown
            wish = {"include_usage": True}
            completed["stream_options"] = {**options, "include_usage": Added(True)} if options else Added(wish)
    return completed
