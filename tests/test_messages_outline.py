"""Requests of Messages in outline, and back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadRequest
from router.protocol.added import as_sent as without_marks
from router.protocol.image_parts import replace_images
from router.protocol.messages.format import AnthropicMessages
from router.protocol.messages.outline import as_call
from router.protocol.parts import CALL
from router.protocol.pictures import filled, reference, result_messages
from router.protocol.profiles import PROFILES
from tools.call import ToolResult
from tools.definition import ToolDefinition

WIRE = AnthropicMessages()

Json = dict[str, Any]


def parsed(body: Json) -> Json:
    return WIRE.parse(orjson.dumps(body))


def there(body: Json) -> Json:
    return WIRE.outlined(parsed(body))


def back(request: Json) -> Json:
    return dict(WIRE.as_sent(request))


def user(*blocks: Any) -> Json:
    return {"role": "user", "content": list(blocks)}


def text(words: str, **more: Any) -> Json:
    return {"type": "text", "text": words, **more}


def result(id_: str, content: Any = "done", **more: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": id_, "content": content, **more}


def use(id_: str, name: str = "read", **more: Any) -> Json:
    return {"type": "tool_use", "id": id_, "name": name, "input": {"path": "a"}, **more}


# Nothing of the client's changes

keys = st.sampled_from(
    ["x", "rest", "origin", "role", "content", "tool_calls", "block", "message", "extra", "type_", "id"]
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=6,
)
more = st.dictionaries(keys, plain, max_size=2)
marks = st.sampled_from([{}, {}, {"cache_control": {"type": "ephemeral"}}])
words = st.builds(lambda text, mark: {"type": "text", "text": text, **mark}, st.text(max_size=8), marks)
strange = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(
        ["document", "call", "image_url", "search_result", "server_tool_use", "thinking", "redacted_thinking", "x"]
    ),
    more,
)
results = st.builds(
    lambda id_, content, fields, mark: {**fields, **mark, "type": "tool_result", "tool_use_id": id_, **content},
    st.sampled_from(["a", "b"]),
    st.sampled_from([{}, {"content": ""}, {"content": "x"}, {"content": []}, {"content": None}])
    | st.builds(lambda blocks: {"content": blocks}, st.lists(words | strange, max_size=2)),
    st.sampled_from([{}, {"is_error": True}, {"role": "system", "tool_call_id": 1, "rest": {}, "origin": {}}]),
    marks,
)
uses = st.builds(
    lambda id_, given_, fields: {**fields, "type": "tool_use", "id": id_, "name": "read", **given_},
    st.sampled_from(["a", "b"]),
    st.sampled_from([{}, {"input": {}}, {"input": {"b": 1, "a": [1.5, None]}}, {"input": "half"}, {"input": None}]),
    st.sampled_from([{}, {"caller": {"type": "direct"}}, {"function": 1, "extra": {"x": 1}, "block": 2}]),
)
messages = st.one_of(
    st.builds(
        lambda content, fields: {**fields, "role": "user", "content": content},
        st.text(max_size=5) | st.lists(words | strange | results, max_size=5),
        more,
    ),
    st.builds(
        lambda content, fields: {**fields, "role": "assistant", "content": content},
        st.text(max_size=5) | st.lists(words | strange | uses, max_size=5),
        more,
    ),
    st.builds(
        lambda content: {"role": "system", "content": content}, st.text(max_size=5) | st.lists(words, max_size=2)
    ),
)
bodies = st.builds(
    lambda system, messages, fields: {**fields, **system, "messages": messages},
    st.sampled_from([{}, {"system": None}, {"system": ""}, {"system": "You are."}, {"system": []}])
    | st.builds(lambda blocks: {"system": blocks}, st.lists(words, max_size=2)),
    st.lists(messages, min_size=1, max_size=6),
    st.sampled_from([{}, {"max_tokens": 5, "origin": "x"}, {"metadata": {"user_id": "u"}}]),
)


@given(bodies)
def test_what_was_outlined_goes_out_as_it_came(body: Json) -> None:
    request = parsed(body)
    before = orjson.dumps(request)
    assert back(WIRE.outlined(request)) == orjson.loads(before)
    assert orjson.dumps(request) == before, "the request itself was changed"


@given(bodies)
def test_what_was_outlined_keeps_its_form_through_a_walk_for_images(body: Json) -> None:
    request = WIRE.outlined(parsed(body))
    walked = {**request, "messages": replace_images(request["messages"], lambda _: "image", flat_results=False)}
    plain = orjson.loads(orjson.dumps(parsed(body)))
    plain["messages"] = replace_images(plain["messages"], lambda _: "image", flat_results=False)
    if isinstance(plain.get("system"), list):
        (top,) = replace_images([{"role": "system", "content": plain["system"]}], lambda _: "image")
        plain["system"] = top["content"]
    assert back(walked)["messages"] == plain["messages"]


# The outline


def test_system_is_the_first_message_and_goes_back_to_the_top() -> None:
    request = there({"system": "You are.", "messages": [{"role": "user", "content": "Hi"}]})
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert "system" not in request
    assert back(request)["system"] == "You are."


def test_system_messages_inside_the_history_stay_where_they_are() -> None:
    body = {"system": "Top.", "messages": [user(text("Hi")), {"role": "system", "content": "Now."}, user(text("Go"))]}
    assert [message["role"] for message in there(body)["messages"]] == ["system", "user", "system", "user"]
    assert back(there(body)) == body


def test_results_are_messages_of_their_own_in_their_order() -> None:
    request = there({"messages": [user(result("a"), result("b", [text("x")], is_error=True), text("And now?"))]})
    tool_a, tool_b, said = request["messages"]
    assert (tool_a["role"], tool_a["tool_call_id"], tool_a["content"]) == ("tool", "a", "done")
    assert (tool_b["role"], tool_b["tool_call_id"], tool_b["content"]) == ("tool", "b", [text("x")])
    assert (said["role"], said["content"]) == ("user", [text("And now?")])


def test_calls_stand_where_they_were_said_and_in_tool_calls() -> None:
    said = [{"type": "thinking", "thinking": "Hm", "signature": "s"}, text("Wait."), use("a"), text("And"), use("b")]
    (message,) = there({"messages": [{"role": "assistant", "content": said}]})["messages"]
    assert message["content"] == [said[0], said[1], CALL, said[3], CALL]
    assert [call["id"] for call in message["tool_calls"]] == ["a", "b"]
    assert message["tool_calls"][0]["function"] == {"name": "read", "arguments": '{"path":"a"}'}


def test_a_client_cannot_write_what_is_ours() -> None:
    body = {
        "messages": [
            {"role": "user", "content": "Hi", "origin": {"is_top": True}, "rest": {"message": {"role": "system"}}},
            {"role": "assistant", "content": [CALL, {"type": "call", "block": text("x")}], "tool_calls": [{"id": "a"}]},
            user(result("a", origin={}, rest={"block": {"x": 1}}, role="assistant")),
        ]
    }
    request = there(body)
    assert "tool_calls" not in request["messages"][1]
    assert back(request) == body


# What is added on the way


def hidden(id_: str = "ours") -> list[Json]:
    call = as_call(id_, "analyzeImage", '{"image":"1","task":"What?"}', {})
    return [{"role": "assistant", "content": [CALL], "tool_calls": [call]}]


def test_a_hidden_turn_is_a_message_of_each_side() -> None:
    request = there({"messages": [user(text("Hi"))]})
    request["messages"] += [*hidden(), *result_messages([ToolResult("ours", "A cat.")])]
    assert back(request)["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "ours", "name": "analyzeImage", "input": {"image": "1", "task": "What?"}}
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "ours", "content": "A cat."}]},
    ]


def test_our_results_of_a_mixed_turn_stand_in_the_clients_message() -> None:
    request = there({"messages": [user(text("Hi")), user(result("theirs"), text("Go on."))]})
    first, theirs, words = request["messages"]
    (ours,) = result_messages([ToolResult("ours", "A cat.")])
    request["messages"] = [first, *hidden(), ours, theirs, words]
    assert back(request)["messages"][-1] == user(
        {"type": "tool_result", "tool_use_id": "ours", "content": "A cat."}, result("theirs"), text("Go on.")
    )


def test_our_results_join_words_that_are_a_string() -> None:
    request = there({"messages": [{"role": "user", "content": "Stop."}]})
    request["messages"] = [*hidden(), *result_messages([ToolResult("ours", "A cat.")]), *request["messages"]]
    assert back(request)["messages"][-1] == user(
        {"type": "tool_result", "tool_use_id": "ours", "content": "A cat."}, text("Stop.")
    )


def test_messages_that_the_client_kept_apart_stay_apart() -> None:
    body = {"messages": [user(text("One")), {"role": "user", "content": "Two"}, user(result("a")), user(text("Three"))]}
    request = there(body)
    assert back(request) == body
    request["messages"].insert(0, result_messages([ToolResult("ours", "A cat.")])[0])
    assert len(back(request)["messages"]) == 4


def test_pictures_of_ours_are_image_blocks() -> None:
    request = there({"messages": [user(text("Hi"))]})
    request["messages"][0]["content"] += [reference(1), reference(2)]
    urls: dict[int, str | None] = {1: "data:image/png;base64,AAAA", 2: "https://example.org/a.png"}
    request["messages"] = filled(request["messages"], urls)
    assert back(request)["messages"][0]["content"][1:] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
    ]


def test_pictures_that_a_look_brings_stand_behind_all_results() -> None:
    request = there({"messages": [user(text("Hi"))]})
    said = result_messages([ToolResult("ours", "Here.", pictures=(1,))])
    request["messages"] = filled([*request["messages"], *hidden(), *said], {1: "data:image/png;base64,AAAA"})
    kinds = [block["type"] for block in back(request)["messages"][-1]["content"]]
    assert kinds == ["tool_result", "text", "image"]


# Fit


def fitted(body: Json, engine: str = "openai") -> Json:
    return back(WIRE.fit(there(body), PROFILES[engine]))


BILLING = "x-anthropic-billing-header: cc_version=2.1; cch=12345;"


@pytest.mark.parametrize(
    ("system", "left"),
    [
        (f"{BILLING}\nYou are.", "You are."),
        ([text(BILLING), text("You are.", cache_control={"type": "ephemeral"})], None),
        ([text("You are."), text(f"{BILLING}\n")], [text("You are.")]),
    ],
)
def test_the_billing_line_is_taken_out(system: Any, left: Any) -> None:
    sent = fitted({"system": system, "messages": [user(text("Hi"))]})
    assert sent["system"] == (system[1:] if left is None else left)


def test_a_system_of_nothing_but_the_billing_line_is_none() -> None:
    assert "system" not in fitted({"system": BILLING, "messages": [user(text("Hi"))]})


def test_the_billing_line_in_what_a_user_says_stays() -> None:
    body = {"messages": [user(text(BILLING))]}
    assert fitted(body) == body


@pytest.mark.parametrize(
    ("given_", "whole"), [('{"path": "a"}', {"path": "a"}), (None, {}), ([1], {}), ({"path": "a"}, {"path": "a"})]
)
def test_an_input_that_is_no_object_becomes_one(given_: Any, whole: Json) -> None:
    body = {"messages": [{"role": "assistant", "content": [{**use("a"), "input": given_}]}, user(result("a"))]}
    assert fitted(body)["messages"][0]["content"][0]["input"] == whole


def test_late_system_messages_join_the_user_where_templates_take_one_only() -> None:
    body = {"system": "Top.", "messages": [user(text("Hi")), {"role": "system", "content": "Now."}]}
    sent = fitted(body, "vllm")
    assert sent["system"] == "Top."
    assert sent["messages"] == [user(text("Hi"), text("\n\n<system-reminder>\nNow.\n</system-reminder>"))]
    assert fitted(body, "openai") == body


def test_cache_marks_stay() -> None:
    body = {"messages": [user(text("Hi", cache_control={"type": "ephemeral"}))]}
    assert fitted(body, "vllm") == body


# Documents


def document(data: str, media_type: str = "application/pdf") -> Json:
    return {"type": "document", "source": {"type": "base64", "media_type": media_type, "data": data}}


PDF = "JVBERi0xLjQK" + "A" * 300 + "/9j/" + "B" * 5000
PNG = "iVBORw0KGgo" + "A" * 300


def walked(*blocks: Json, token: str = "") -> list[Any]:
    (message,) = replace_images([user(*blocks)], lambda _: "image", token, flat_results=False)
    return list(message["content"])


def test_a_document_stays_as_it_came() -> None:
    assert walked(document(PDF), document("A\nB", "text/plain")) == [document(PDF), document("A\nB", "text/plain")]


@pytest.mark.parametrize("data", [PNG, f"data:image/png;base64,{PNG}", "token0"])
def test_an_image_that_says_it_is_a_document_is_one_all_the_same(data: str) -> None:
    assert walked(document(data), token="token")[0]["source"]["data"] == "image"


def test_an_image_inside_a_document_is_found() -> None:
    inside = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    source = {"type": "content", "content": [text("x"), inside]}
    (found,) = walked({"type": "document", "source": source})
    assert found["source"]["content"] == [text("x"), text("image")]


# Parsing


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "messages: Field required"),
        ({"messages": []}, "at least one"),
        ({"messages": ["x"]}, "messages.0: must be an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: must be"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0: must be an object with"),
        ({"messages": [user({"type": "tool_result", "content": "x"})]}, "tool_result.tool_use_id"),
        ({"messages": [user(use("a"))]}, "the assistant's"),
        ({"messages": [{"role": "assistant", "content": [result("a")]}]}, "the user's"),
        ({"messages": [user(result("a", [1]))]}, "messages.0.content.0.content.0"),
        ({"system": 1, "messages": [user()]}, "system: must be"),
        ({"max_tokens": "5", "messages": [user()]}, "max_tokens must be"),
        ({"tool_choice": "auto", "messages": [user()]}, "tool_choice must be"),
        ({"tools": [1], "messages": [user()]}, "tools[0]"),
    ],
)
def test_mistakes_are_answered_with_their_place(body: Json, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parsed(body)
    assert words in refused.value.message


def test_fields_that_no_client_should_decide_are_dropped() -> None:
    hidden_part = text("x", uuid="1")
    body = {"messages": [user(hidden_part, result("a", [hidden_part]))], "cache_salt": "x", "ec_transfer_params": {}}
    assert parsed(body) == {"messages": [user(text("x"), result("a", [text("x")]))]}


@pytest.mark.parametrize(
    ("fields", "works"),
    [
        ({}, True),
        ({"tool_choice": {"type": "auto"}}, True),
        ({"tool_choice": {"type": "any"}}, True),
        ({"tool_choice": {"type": "none"}}, False),
        ({"tool_choice": {"type": "tool", "name": "x"}}, False),
        ({"output_config": {"effort": "low"}}, True),
        ({"output_config": {"format": {"type": "json_schema"}}}, False),
        ({"output_format": {"type": "json_schema"}}, False),
    ],
)
def test_where_our_tools_can_work(fields: Json, works: bool) -> None:
    assert WIRE.loop_can_work(there({"messages": [user(text("Hi"))], **fields})) is works


def test_our_tools_cannot_work_where_the_client_began_the_answer() -> None:
    assert not WIRE.loop_can_work(there({"messages": [user(text("Hi")), {"role": "assistant", "content": "I"}]}))


def test_tools_have_anthropics_form() -> None:
    assert WIRE.tool(ToolDefinition("a", "b", {"type": "object"})) == {
        "name": "a",
        "description": "b",
        "input_schema": {"type": "object"},
    }
    assert WIRE.tool_names({"tools": [{"name": "a"}, {"type": "web_search_20250305", "name": "web"}, {}]}) == {
        "a",
        "web",
    }


@pytest.mark.parametrize(
    ("engine", "thinking", "fields", "added"),
    [
        ("vllm", False, {}, {"chat_template_kwargs": {"enable_thinking": False}, "thinking": {"type": "disabled"}}),
        ("vllm", True, {}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ("ollama", True, {"max_tokens": 8000}, {"thinking": {"type": "enabled", "budget_tokens": 4000}}),
        ("ollama", True, {"max_tokens": 500}, {}),
        ("ollama", False, {}, {"thinking": {"type": "disabled"}}),
        ("vllm", True, {"thinking": {"type": "adaptive"}}, {}),
    ],
)
def test_the_thinking_switch(engine: str, thinking: bool, fields: Json, added: Json) -> None:
    request = there({"messages": [user(text("Hi"))], **fields})
    settled = WIRE.with_settings(request, PROFILES[engine], thinking=thinking, preset=False)
    assert without_marks(back(settled)) == {**back(request), **added}


def test_the_preset_fills_in_what_the_form_has() -> None:
    request = there({"messages": [user(text("Hi"))], "temperature": 0.1})
    settled = without_marks(back(WIRE.with_settings(request, PROFILES["vllm"], thinking=None, preset=True)))
    assert settled == {**back(request), "temperature": 0.1, "top_p": 0.95, "top_k": 20}
