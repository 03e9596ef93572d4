"""A history is made fit for its server, and not changed beyond that."""

from __future__ import annotations

from typing import Any

import pytest

from router.protocol.chat.history import fit
from router.protocol.profiles import PROFILES

LOCAL, HOSTED = PROFILES["vllm"], PROFILES["openai"]


def system(text: Any) -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def tool(text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "t", "content": text}


def fitted(*messages: Any, profile: Any = LOCAL) -> list[Any]:
    return fit({"messages": list(messages)}, profile)["messages"]  # type: ignore[no-any-return]


def reminder(text: str) -> str:
    return f"<system-reminder>\n{text}\n</system-reminder>"


def test_an_ordinary_history_is_the_same_objects() -> None:
    messages = [system("s"), user("u"), assistant("a"), user([{"type": "text", "text": "x", "unknown": {"y": 1}}])]
    assert all(a is b for a, b in zip(fitted(*messages), messages, strict=True))


def test_unknown_fields_ride_along() -> None:
    request = {"messages": [user("u")], "model": "m", "future": {"a": [1, None]}, "temperature": 0.55}
    assert fit(request, LOCAL) == request


def test_leading_system_messages_become_one() -> None:
    assert fitted(system("a"), system([{"type": "text", "text": "b"}]), user("u")) == [system("a\n\nb"), user("u")]


def test_a_developer_is_a_system_where_the_role_is_unknown() -> None:
    assert fitted({"role": "developer", "content": "d"}, user("u")) == [system("d"), user("u")]
    assert fitted({"role": "developer", "content": "d"}, user("u"), profile=HOSTED)[0]["role"] == "developer"


def test_a_hosted_server_gets_its_system_messages_as_they_are() -> None:
    messages = [system("a"), system("b"), user("u"), system("c")]
    assert fitted(*messages, profile=HOSTED) == messages


def test_a_later_system_message_goes_behind_the_user_message_before_it() -> None:
    assert fitted(system("a"), user("u"), system("late")) == [system("a"), user(f"u\n\n{reminder('late')}")]


def test_a_later_system_message_goes_behind_the_tool_message_before_it() -> None:
    expected = [user("u"), assistant("a"), tool(f"r\n\n{reminder('late')}")]
    assert fitted(user("u"), assistant("a"), tool("r"), system("late")) == expected


def test_after_an_assistant_message_it_goes_before_the_next_user_message() -> None:
    expected = [user("u"), assistant("a"), user(f"{reminder('late')}\n\nv")]
    assert fitted(user("u"), assistant("a"), system("late"), user("v")) == expected


def test_parts_gain_a_part() -> None:
    messages = fitted(user([{"type": "text", "text": "u"}]), system("late"))
    assert messages == [user([{"type": "text", "text": "u"}, {"type": "text", "text": f"\n\n{reminder('late')}"}])]


def test_with_no_neighbour_it_becomes_a_user_message() -> None:
    assert fitted(assistant("a"), system("late")) == [assistant("a"), user(reminder("late"))]


def test_a_later_turn_renders_earlier_messages_to_the_same_bytes() -> None:
    first = [system("s"), user("u"), system("late")]
    later = [*first, assistant("a"), system("more"), user("v")]
    assert fitted(*later)[: len(fitted(*first))] == fitted(*first)


def test_the_billing_line_goes_and_leaves_no_trace() -> None:
    line = "x-anthropic-billing-header: cc_version=2.1; cch={};\n"
    for_one = fitted(system(line.format("aaaaa") + "You are Claude."), user("u"))
    for_two = fitted(system(line.format("bbbbb") + "You are Claude."), user("u"))
    assert for_one == for_two == [system("You are Claude."), user("u")]
    parts = [{"type": "text", "text": line.format("ccccc")}, {"type": "text", "text": "You are Claude."}]
    assert fitted(system(parts), user("u")) == [system([{"type": "text", "text": "You are Claude."}]), user("u")]


def test_the_users_words_about_the_billing_line_stay() -> None:
    messages = [user("what is x-anthropic-billing-header: cch=1?")]
    assert fitted(*messages) == messages


def test_cache_marks_are_dropped_wherever_they_stand() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    request = {
        "messages": [system([{"type": "text", "text": "s", **mark}]), user([{"type": "text", "text": "u", **mark}])],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}, **mark}],
    }
    assert "cache_control" not in str(fit(request, LOCAL))


def test_an_empty_tool_list_is_dropped() -> None:
    assert "tools" not in fit({"messages": [user("u")], "tools": []}, LOCAL)


def test_anthropics_word_for_required_is_translated() -> None:
    assert fit({"messages": [user("u")], "tool_choice": "any"}, LOCAL)["tool_choice"] == "required"


@pytest.mark.parametrize("choice", ["auto", "none", "required", {"type": "function", "function": {"name": "f"}}])
def test_other_tool_choices_stay(choice: Any) -> None:
    assert fit({"messages": [user("u")], "tool_choice": choice}, LOCAL)["tool_choice"] == choice


def test_the_clients_request_is_never_changed_in_place() -> None:
    request = {
        "messages": [system("a"), system("b"), user([{"type": "text", "text": "u", "cache_control": {}}])],
        "tools": [],
    }
    before = str(request)
    fit(request, LOCAL)
    assert str(request) == before


def test_broken_arguments_in_the_clients_history_are_mended_and_whole_ones_kept() -> None:
    def call(arguments: Any) -> dict[str, Any]:
        return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}, "extra": 1}

    def said(*calls: Any) -> dict[str, Any]:
        return {"role": "assistant", "content": None, "tool_calls": list(calls)}

    whole = said(call('{ "a" : 1}'), call({"a": 1}), "junk")
    assert fitted(user("u"), whole)[1] is whole
    assert fitted(user("u"), said(call('{"a": "cut o'), call("{}")))[1] == said(call('{"a":"cut o"}'), call("{}"))


def test_calls_that_are_null_are_no_calls() -> None:
    assert fitted(user("u"), {**assistant("a"), "tool_calls": None})[1] == assistant("a")


def test_before_parts_it_becomes_a_part() -> None:
    parts = [{"type": "text", "text": "v"}]
    expected = [user("u"), assistant("a"), user([{"type": "text", "text": f"{reminder('late')}\n\n"}, *parts])]
    assert fitted(user("u"), assistant("a"), system("late"), user(parts)) == expected


def test_between_two_assistant_messages_it_becomes_a_user_message_once() -> None:
    expected = [assistant("a"), user(reminder("late")), assistant("b"), user("c")]
    assert fitted(assistant("a"), system("late"), assistant("b"), user("c")) == expected


def test_several_waiting_ones_go_out_together() -> None:
    both = f"{reminder('one')}\n\n{reminder('two')}"
    assert fitted(assistant("a"), system("one"), system("two"), user("v")) == [assistant("a"), user(f"{both}\n\nv")]
    assert fitted(assistant("a"), system("one"), system("two")) == [assistant("a"), user(both)]
    between = fitted(assistant("a"), system("one"), system("two"), assistant("b"))
    assert between == [assistant("a"), user(both), assistant("b")]


def test_system_text_in_parts_is_read_and_anything_else_in_it_is_nothing() -> None:
    parts = [{"type": "text", "text": "a"}, "b", {"type": "image"}, 7]
    assert fitted(system(parts), system(None), system("c"), user("u"))[0] == system("a\nb\n\n\n\nc")


def test_a_message_without_content_gains_the_reminder_alone() -> None:
    assert fitted(user(None), system("late")) == [user(reminder("late"))]


def test_words_behind_the_billing_line_stay_and_so_do_blank_parts() -> None:
    line = "x-anthropic-billing-header: cch=1;\n"
    parts = [{"type": "text", "text": " "}, {"type": "text", "text": line + "You are Claude.", "x": 1}, {"type": "x"}]
    expected = [parts[0], {"type": "text", "text": "You are Claude.", "x": 1}, parts[2]]
    assert fitted(system(parts), user("u"))[0] == system(expected)


@pytest.mark.parametrize("content", [None, 7, {"text": "x"}])
def test_system_content_of_any_other_shape_stays_for_a_hosted_server(content: Any) -> None:
    messages = [system(content), user("u")]
    assert fitted(*messages, profile=HOSTED) == messages
