"""A Chat Completions body: what must hold before anything is done with it, and what it asks of us.

Strict enough that a client's mistake is answered here with a 400 that names the place, instead of coming back from
the text model's server as a 502; open enough that fields we never heard of ride along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from router.config import TextSettings
from router.errors import BadRequest
from router.protocol.added import Added
from router.protocol.profiles import SAMPLING, Profile

MOST_MESSAGES = 50_000
"""A million-token context holds no more messages than this; each costs a walk."""

MOST_LEVELS = 128
"""Of lists and objects inside each other.  JSON Schemas, the deepest thing that clients send, have some thirty; the
parser reads 1024, but the writer stops at 254 and Python's own stack not far behind."""

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """The body as an object of the right outline.  Raises `BadRequest`."""
    try:
        request = orjson.loads(memoryview(body))  # subclasses of bytearray are not taken as they are
    except orjson.JSONDecodeError as error:
        # `error.doc` holds the whole body and must go nowhere; the position is all that helps.
        raise BadRequest(f"the body is not valid JSON (at byte {error.pos})") from None
    if not isinstance(request, dict):
        raise BadRequest("the body must be a JSON object")
    _check_levels(request)
    _check_messages(request.get("messages"))
    if not isinstance(request.get("model", ""), str):
        raise BadRequest("model must be a string", param="model")
    if request.get("stream") not in (None, True, False):
        raise BadRequest("stream must be true or false", param="stream")
    for name, kind, words in (
        ("tools", list, "a list"),
        ("functions", list, "a list"),
        ("stream_options", dict, "an object"),
        ("max_tokens", int, "a whole number"),
        ("max_completion_tokens", int, "a whole number"),
        ("n", int, "a whole number"),
    ):
        value = request.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise BadRequest(f"{name} must be {words}", param=name)
    for index, tool in enumerate(request.get("tools") or ()):
        if not isinstance(tool, dict):
            raise BadRequest(f"tools[{index}] must be an object", param=f"tools[{index}]")
    return request


def _check_levels(request: dict[str, Any]) -> None:
    level: list[Any] = [request]
    for _ in range(MOST_LEVELS):
        inside = (item for holder in level for item in (holder.values() if isinstance(holder, dict) else holder))
        level = [item for item in inside if isinstance(item, dict | list)]
        if not level:
            return
    raise BadRequest(f"the body nests lists and objects more than {MOST_LEVELS} levels deep")


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


def with_settings(request: dict[str, Any], text: TextSettings, profile: Profile) -> dict[str, Any]:
    """With what the configuration adds where the client is silent: the thinking switch, the model card's sampling, and
    the wish for usage.  Each as `Added`, so that a server that refuses it can be asked without."""
    thinking = {"on": True, "off": False, "client": None}[text.thinking]
    ours: dict[str, Any] = {}
    if thinking is not None:
        ours |= profile.thinking[thinking]
    if text.sampling == "preset":
        ours |= SAMPLING[thinking is not False]
    completed = {**request, **{name: _completed(request.get(name), value) for name, value in ours.items()}}
    if request.get("stream") and profile.stream_options:
        options = request.get("stream_options")
        if not (options and options.get("include_usage")):  # a `false` is about what the client is shown
            wish = {"include_usage": True}
            completed["stream_options"] = {**options, "include_usage": Added(True)} if options else Added(wish)
    return completed


def _completed(given: Any, ours: Any) -> Any:
    """The client's word, with ours where it says nothing."""
    if given is None:
        return Added(ours)
    if isinstance(given, dict) and isinstance(ours, dict):
        return {**{name: Added(value) for name, value in ours.items() if name not in given}, **given}
    return given


def last_words(messages: list[Any]) -> str:
    """What the user said last, for a look whose task was lost; at most a paragraph."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            parts = content if isinstance(content, list) else [content]
            texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
            return "\n".join(text for text in texts if isinstance(text, str))[-1000:].strip()
    return ""
