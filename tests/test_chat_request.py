"""A body is checked before anything is done with it."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from router.config import TextSettings
from router.errors import BadRequest
from router.protocol.added import added_to, as_sent
from router.protocol.body import MOST_HOLDERS
from router.protocol.chat.request import loop_can_work, parse, tool_names
from router.protocol.outline import last_words
from router.protocol.profiles import PROFILES, Profile
from tests import configured

USER = {"role": "user", "content": "u"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"nonsense", None),
        (b"[]", None),
        (b'"text"', None),
        (b"{}", "messages"),
        (b'{"messages": null}', "messages"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": "hi"}', "messages"),
        (b'{"messages": [3]}', "messages[0]"),
        (b'{"messages": [{"content": "x"}]}', "messages[0].role"),
        (b'{"messages": [{"role": "robot"}]}', "messages[0].role"),
        (b'{"messages": [{"role": 5}]}', "messages[0].role"),
        (b'{"messages": [{"role": "user", "content": 5}]}', "messages[0].content"),
        (b'{"messages": [{"role": "user", "content": [5]}]}', "messages[0].content"),
        (b'{"messages": [{"role": "assistant", "tool_calls": {}}]}', "messages[0].tool_calls"),
        (b'{"messages": [{"role": "user", "content": "u"}], "model": 3}', "model"),
        (b'{"messages": [{"role": "user", "content": "u"}], "stream": "yes"}', "stream"),
        (b'{"messages": [{"role": "user", "content": "u"}], "stream": 1.5}', "stream"),
        (b'{"messages": [{"role": "user", "content": "u"}], "tools": {}}', "tools"),
        (b'{"messages": [{"role": "user", "content": "u"}], "tools": [1]}', "tools[0]"),
        (b'{"messages": [{"role": "user", "content": "u"}], "max_tokens": "many"}', "max_tokens"),
        (b'{"messages": [{"role": "user", "content": "u"}], "stream_options": []}', "stream_options"),
        (b'{"messages": [{"role": "user", "content": "u"}], "n": true}', "n"),
        (b'{"messages": [{"role": "user", "content": NaN}]}', None),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', None),
    ],
)
def test_a_mistake_is_named_with_its_place(body: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(body)
    assert caught.value.param == param
    assert caught.value.status == 400


def test_an_error_never_holds_the_body() -> None:
    with pytest.raises(BadRequest) as caught:
        parse(b'{"messages": [{"role": "user", "content": "my secret"')
    assert "secret" not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_a_body_of_endless_small_parts_is_refused_and_one_of_many_numbers_is_not() -> None:
    part = {"type": "text", "text": "a"}
    with pytest.raises(BadRequest, match="lists and objects"):
        parse(orjson.dumps({"messages": [{"role": "user", "content": [part] * MOST_HOLDERS}]}))
    assert parse(orjson.dumps({"messages": [USER], "tokens": [0] * (MOST_HOLDERS + 1)}))


def test_what_nobody_has_heard_of_is_kept() -> None:
    body = {"messages": [{**USER, "future": [1]}], "frobnicate": {"a": None}, "stream": None}
    assert parse(json.dumps(body).encode()) == body


def test_the_clients_tools_are_known_by_name() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}, {"type": "web_search"}, {"function": {"name": 3}}]
    assert tool_names({"tools": tools, "functions": [{"name": "old"}]}) == {"f", "old"}
    assert tool_names({}) == set()
    assert tool_names({"tools": [{"type": "custom", "custom": {"name": "c"}}, {"name": "flat"}]}) == {"c", "flat"}


@pytest.mark.parametrize(
    "more",
    [
        {"tool_choice": "none"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        {"n": 2},
        {"functions": [{"name": "f"}]},
        {"guided_json": {"type": "object"}},
        {"messages": [USER, {"role": "assistant", "content": "Once upon"}]},
    ],
)
def test_a_request_that_leaves_no_room_for_our_call(more: dict[str, Any]) -> None:
    assert not loop_can_work({"messages": [USER], **more})


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tool_choice": "auto"},
        {"tool_choice": "required"},
        {"response_format": {"type": "text"}},
        {"n": 1},
        {"n": None},
    ],
)
def test_a_request_with_room_for_it(more: dict[str, Any]) -> None:
    assert loop_can_work({"messages": [USER], **more})


def text(**settings: Any) -> TextSettings:
    return TextSettings(name="m", base_url="http://127.0.0.1:1/v1", **settings)


def with_settings(request: dict[str, Any], text: TextSettings, profile: Profile, *refused: str) -> dict[str, Any]:
    """As a server gets it that has refused these fields."""
    return as_sent(configured.with_settings(request, text, profile), refused)


def test_a_silent_configuration_adds_nothing_but_usage() -> None:
    assert with_settings({"messages": []}, text(), PROFILES["vllm"]) == {"messages": []}
    streamed = with_settings({"stream": True, "stream_options": {"x": 1}}, text(), PROFILES["vllm"])
    assert streamed["stream_options"] == {"x": 1, "include_usage": True}
    assert "stream_options" not in with_settings({"stream": True}, text(), PROFILES["zai"])


def test_the_thinking_switch_is_the_engines_and_the_clients_word_wins() -> None:
    off = with_settings({}, text(thinking="off"), PROFILES["vllm"])
    assert off["chat_template_kwargs"] == {"enable_thinking": False}
    assert with_settings({}, text(thinking="on"), PROFILES["zai"])["thinking"] == {"type": "enabled"}
    clients = {"chat_template_kwargs": {"enable_thinking": True, "other": 1}}
    assert with_settings(clients, text(thinking="off"), PROFILES["vllm"]) == clients


def test_a_false_of_the_client_is_a_word_too() -> None:
    said = {"enable_thinking": False}
    assert with_settings(said, text(thinking="on"), PROFILES["qwencloud"]) == said


def test_presets_fill_in_only_what_the_client_left_out() -> None:
    request = with_settings({"temperature": 0.2}, text(sampling="preset"), PROFILES["vllm"])
    assert request["temperature"] == 0.2
    assert request["top_k"] == 20


def test_what_is_added_is_known_from_what_the_client_said_though_it_be_the_same() -> None:
    said = {"temperature": 1.0, "chat_template_kwargs": {"enable_thinking": True}, "stream": True}
    request = configured.with_settings(said, text(thinking="on", sampling="preset"), PROFILES["vllm"])
    assert added_to(request) == {"top_p", "top_k", "min_p", "presence_penalty", "stream_options"}
    assert as_sent(request, added_to(request) | said.keys()) == said


def test_an_addition_that_joins_a_field_of_the_client_can_be_taken_out_of_it_again() -> None:
    said = {
        "stream": True,
        "stream_options": {"continuous_usage_stats": True},
        "chat_template_kwargs": {"preserve_thinking": True},
    }
    request = configured.with_settings(said, text(thinking="off"), PROFILES["vllm"])
    assert added_to(request) == {"stream_options", "chat_template_kwargs"}
    assert as_sent(request)["chat_template_kwargs"] == {"enable_thinking": False, "preserve_thinking": True}
    assert as_sent(request, added_to(request)) == said


def test_a_client_that_asks_for_usage_itself_is_told_when_that_is_refused() -> None:
    said = {"stream": True, "stream_options": {"include_usage": True}}
    assert not added_to(configured.with_settings(said, text(), PROFILES["vllm"]))


def test_an_addition_cannot_leave_by_accident() -> None:
    request = configured.with_settings({"stream": True}, text(), PROFILES["vllm"])
    with pytest.raises(TypeError):
        orjson.dumps(request)
    assert "include_usage" in repr(request["stream_options"])


def test_the_users_last_words() -> None:
    parts = [{"type": "image_url"}, {"type": "text", "text": "what is it?"}]
    history = [{"role": "user", "content": "old"}, {"role": "user", "content": parts}, {"role": "assistant"}]
    assert last_words(history) == "what is it?"
    assert last_words([{"role": "system", "content": "s"}]) == ""
