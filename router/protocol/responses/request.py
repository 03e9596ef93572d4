"""A Responses body: what must hold before anything is done with it, and what it asks of us."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router.errors import BadRequest
from router.protocol.added import completed_with
from router.protocol.body import MOST_MESSAGES, check_common_fields, check_fields, drop_what_is_never_sent, json_object
from router.protocol.profiles import SAMPLING, Profile
from router.protocol.responses.outline import ITEM

_ROLES = frozenset({"system", "developer", "user", "assistant"})
_TEXTS = {
    "function_call": ("call_id", "name", "arguments"),
    "custom_tool_call": ("call_id", "name", "input"),
    "function_call_output": ("call_id",),
    "custom_tool_call_output": ("call_id",),
}


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """The body as an object of the right form.  Raises `BadRequest`."""
    request = json_object(body)
    _check_input(request.get("input"))
    check_common_fields(request)
    check_fields(
        request,
        ("instructions", str, "a string"),
        ("max_output_tokens", int, "a whole number"),
        ("previous_response_id", str, "a string"),
        ("text", dict, "an object"),
        ("metadata", dict, "an object"),
    )
    if request.get("background"):
        raise BadRequest(
            "background responses are fetched at an address of their own, which is not offered here; "
            "ask without background, streamed if it takes long",
            param="background",
        )
    items = request["input"] if isinstance(request["input"], list) else []
    drop_what_is_never_sent(request, items)
    drop_what_is_never_sent(request, [{"content": item.get("output")} for item in items])
    request.pop("messages", None)  # has no meaning here, and a place of its own in the outline
    for holder in _holders(items):
        holder.pop(ITEM, None)
    return request


def _check_input(given: object) -> None:
    if given is None:
        raise BadRequest("input is missing", param="input")
    if isinstance(given, str):
        return
    if not isinstance(given, list) or not given:
        raise BadRequest("input must be a string or a list with at least one item", param="input")
    if len(given) > MOST_MESSAGES:
        raise BadRequest(f"input holds {len(given)} items, more than {MOST_MESSAGES}", param="input")
    for index, item in enumerate(given):
        place = f"input[{index}]"
        if not isinstance(item, dict):
            raise BadRequest(f"{place} must be an object", param=place)
        kind = item.get("type", "message")
        if not isinstance(kind, str):
            raise BadRequest(f"{place}.type must be a string", param=f"{place}.type")
        if kind == "message":
            _check_message(item, place)
        for name in _TEXTS.get(kind, ()):
            if not isinstance(item.get(name), str):
                raise BadRequest(f"{place}.{name} must be a string", param=f"{place}.{name}")


def _check_message(item: Mapping[str, Any], place: str) -> None:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        shown = role if isinstance(role, str) and len(role) < 40 else type(role).__name__
        raise BadRequest(
            f"{place}.role must be one of {', '.join(sorted(_ROLES))}, not {shown!r}", param=f"{place}.role"
        )
    content = item.get("content")
    if not isinstance(content, str | list):
        raise BadRequest(f"{place}.content must be a string or a list of parts", param=f"{place}.content")
    if isinstance(content, list) and any(not isinstance(part, dict) for part in content):
        raise BadRequest(f"{place}.content must hold objects", param=f"{place}.content")


def _holders(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every object in which the outline keeps something of its own."""
    for item in items:
        yield item
        for name in ("content", "output"):
            parts = item.get(name)
            yield from (part for part in parts if isinstance(part, dict)) if isinstance(parts, list) else ()


def tool_names(request: Mapping[str, Any]) -> set[str]:
    """The names of the client's own tools, those in a namespace too."""
    return set(_names(request.get("tools")))


def _names(tools: object) -> Iterator[str]:
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict):
            if isinstance(name := tool.get("name"), str):
                yield name
            yield from _names(tool.get("tools"))


def loop_can_work(request: Mapping[str, Any]) -> bool:
    """Whether the brain could call our tool and be asked again.  `request`: in outline.

    Not when it must call another function or none, when its output is held to a format, when it continues a message
    that the client began, or when the server adds what was said to a conversation that it keeps: the next turn would
    stand there twice.
    """
    choice = request.get("tool_choice")
    messages = request["messages"]
    return not (
        isinstance(choice, dict)
        or choice == "none"
        or _format_of(request) not in (None, "text")
        or request.get("conversation")
        or (messages and messages[-1].get("role") == "assistant")
        or any(request.get(name) for name in ("structured_outputs", "grammar", "json_schema"))
    )


def _format_of(request: Mapping[str, Any]) -> object:
    text = request.get("text")
    wanted = text.get("format") if isinstance(text, dict) else None
    return wanted.get("type") if isinstance(wanted, dict) else None


def with_settings(request: dict[str, Any], profile: Profile, *, thinking: bool | None, preset: bool) -> dict[str, Any]:
    """With what the configuration adds where the client is silent: the thinking switch, the model card's sampling."""
    ours: dict[str, Any] = {}
    if thinking is not None:
        ours |= _switch(profile.thinking[thinking])
    if preset:
        ours |= SAMPLING[thinking is not False]
    return completed_with(request, ours)


def _switch(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same switch as this format has it."""
    switch = dict(fields)
    if (effort := switch.pop("reasoning_effort", None)) is not None:
        switch["reasoning"] = {"effort": effort}
    return switch
