"""A Messages body: what must hold before anything is done with it, and what it asks of us.

As strict as our own walk needs it and as Anthropic is where a mistake would come back as somebody else's error; what we
never heard of rides along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.errors import BadRequest
from router.protocol.added import completed_with
from router.protocol.body import MOST_MESSAGES, check_common_fields, check_fields, drop_what_is_never_sent, json_object
from router.protocol.mended import mended
from router.protocol.profiles import SAMPLING, Profile
from router.protocol.system_words import one_system_message, without_billing

LEAST_BUDGET = 1024
"""Of tokens for thinking; servers refuse less, and one that is not below `max_tokens`."""

_ROLES = frozenset({"user", "assistant", "system"})
_SAMPLING = ("temperature", "top_p", "top_k")
_NAMED_BY = {"tool_use": ("id", "name"), "tool_result": ("tool_use_id",)}
"""The fields by which a call and its result find each other."""


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """The body as an object of the right form.  Raises `BadRequest`."""
    request = json_object(body)
    _check_messages(request.get("messages"))
    check_common_fields(request)
    check_fields(
        request,
        ("max_tokens", int, "a whole number"),
        ("tool_choice", dict, "an object"),
        ("thinking", dict, "an object"),
        ("metadata", dict, "an object"),
        ("stop_sequences", list, "a list"),
    )
    system = request.get("system")
    if system is not None:
        _check_content(system, "system")
    results = [block for message in request["messages"] for block in _blocks(message) if block["type"] == "tool_result"]
    drop_what_is_never_sent(request, [*request["messages"], *results])
    return request


def _blocks(message: Mapping[str, Any]) -> list[Any]:
    content = message["content"]
    return content if isinstance(content, list) else []


def _check_messages(messages: object) -> None:
    if messages is None:
        raise BadRequest("messages: Field required", param="messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages: must be a list with at least one message", param="messages")
    if len(messages) > MOST_MESSAGES:
        raise BadRequest(f"messages: {len(messages)} messages are more than {MOST_MESSAGES}", param="messages")
    for index, message in enumerate(messages):
        place = f"messages.{index}"
        if not isinstance(message, dict):
            raise BadRequest(f"{place}: must be an object", param=place)
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            shown = role if isinstance(role, str) and len(role) < 40 else type(role).__name__
            raise BadRequest(
                f"{place}.role: must be one of {', '.join(sorted(_ROLES))}, not {shown!r}", param=f"{place}.role"
            )
        _check_content(message.get("content"), f"{place}.content")
        for at, block in enumerate(_blocks(message)):
            _check_block(block, role, f"{place}.content.{at}")


def _check_content(content: object, place: str) -> None:
    if not isinstance(content, str | list):
        raise BadRequest(f"{place}: must be a string or a list of blocks", param=place)
    for at, block in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise BadRequest(f"{place}.{at}: must be an object with a type", param=f"{place}.{at}")


def _check_block(block: Mapping[str, Any], role: str, place: str) -> None:
    kind = block["type"]
    for name in _NAMED_BY.get(kind, ()):
        if not isinstance(block.get(name), str):
            raise BadRequest(f"{place}.{kind}.{name}: must be a string", param=f"{place}.{name}")
    if kind == "tool_result":
        if role != "user":
            raise BadRequest(f"{place}: tool_result blocks are the user's", param=place)
        if block.get("content") is not None:
            _check_content(block["content"], f"{place}.content")
    if kind == "tool_use" and role != "assistant":
        raise BadRequest(f"{place}: tool_use blocks are the assistant's", param=place)


# What it asks of us; from here on in outline


def tool_names(request: Mapping[str, Any]) -> set[str]:
    """The names of the client's own tools, and of those that the server has itself."""
    names = [tool.get("name") for tool in request.get("tools") or () if isinstance(tool, dict)]
    return {name for name in names if isinstance(name, str)}


def loop_can_work(request: Mapping[str, Any]) -> bool:
    """Whether the brain could call our tool and be asked again.

    Not when it must call another or none, when its output is held to a format (constrained decoding leaves no room for
    a call), or when it continues a message that the client began.
    """
    choice, output = request.get("tool_choice") or {}, request.get("output_config")
    return not (
        choice.get("type") in ("none", "tool")
        or request.get("output_format")
        or (isinstance(output, dict) and output.get("format"))
        or request["messages"][-1].get("role") == "assistant"
    )


def with_settings(request: dict[str, Any], profile: Profile, *, thinking: bool | None, preset: bool) -> dict[str, Any]:
    """With what the configuration adds where the client is silent: the thinking switch, and of the model card's
    sampling what Anthropic's form has."""
    ours: dict[str, Any] = {}
    if thinking is not None and request.get("thinking") is None:
        ours |= _switch(request, profile, thinking)
    if preset:
        ours |= {name: SAMPLING[thinking is not False][name] for name in _SAMPLING}
    return completed_with(request, ours)


def _switch(request: Mapping[str, Any], profile: Profile, thinking: bool) -> dict[str, Any]:
    """vLLM and llama.cpp read their template's switch here too, and llama.cpp no other (it goes on thinking where
    `thinking` is `disabled`); the rest read Anthropic's."""
    template = "chat_template_kwargs"
    ours = {template: profile.thinking[thinking][template]} if template in profile.thinking[thinking] else {}
    if not thinking:
        return {**ours, "thinking": {"type": "disabled"}}
    limit = request.get("max_tokens")
    if ours or not isinstance(limit, int) or limit <= LEAST_BUDGET:
        return ours
    return {"thinking": {"type": "enabled", "budget_tokens": max(LEAST_BUDGET, limit // 2)}}


def fit(request: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """The request as the server takes it, changing the least; a function of the history alone."""
    messages = [fitted for message in request["messages"] if (fitted := _fitted(message)) is not None]
    return {**request, "messages": one_system_message(messages) if profile.one_system_message else messages}


def _fitted(message: dict[str, Any]) -> dict[str, Any] | None:
    if message["role"] == "system":
        content = without_billing(message["content"])
        if content == message["content"]:
            return message
        return {**message, "content": content} if content else None
    calls = message.get("tool_calls")
    if calls is None:
        return message
    whole = [_with_whole_input(call) for call in calls]
    return message if all(a is b for a, b in zip(whole, calls, strict=True)) else {**message, "tool_calls": whole}


def _with_whole_input(call: dict[str, Any]) -> dict[str, Any]:
    """An input that is no object fails every later request of its conversation (vLLM answers 400)."""
    function = call["function"]
    arguments = mended(function["arguments"])
    return call if arguments == function["arguments"] else {**call, "function": {**function, "arguments": arguments}}
