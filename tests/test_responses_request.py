"""Requests of Responses: what is refused, what is asked of us, and their outline, there and back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import BadRequest
from router.protocol.image_parts import replace_images
from router.protocol.ledger import Trail
from router.protocol.profiles import PROFILES
from router.protocol.responses.format import Responses
from router.protocol.responses.outline import as_sent, outlined

WIRE = Responses()
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def parsed(**fields: Any) -> dict[str, Any]:
    return WIRE.parse(orjson.dumps({"model": "brain", **fields}))


def user(*content: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": list(content)}


def words(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


def call(name: str = "bash", id_: str = "c1", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{id_}", "call_id": id_, "name": name, "arguments": arguments}


def result(output: Any, id_: str = "c1") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id_, "output": output}


def said(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}


# There and back

texts = st.text(max_size=6)
rest = st.dictionaries(st.sampled_from(["id", "status", "phase", "namespace"]), texts, max_size=2)
parts = st.lists(
    st.one_of(
        st.builds(lambda t: {"type": "input_text", "text": t}, texts),
        st.builds(lambda t: {"type": "output_text", "text": t, "annotations": []}, texts),
        st.builds(lambda t: {"type": "refusal", "refusal": t}, texts),
        st.sampled_from(
            [
                # Types that the outline gives a meaning of its own.
                {"type": "text", "text": "x"},
                {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}},
                {"type": "call"},
                {"type": "item", "of": {}, "holds": 3},
                {"type": "reasoning", "summary": []},
                {"type": "input_file", "file_id": "f"},
            ]
        ),
    ),
    max_size=3,
)
content = st.one_of(texts, parts)
items = st.lists(
    st.one_of(
        st.builds(
            lambda role, content, rest, typed: {
                **({"type": "message"} if typed else {}),
                "role": role,
                "content": content,
                **rest,
            },
            st.sampled_from(["user", "assistant", "system", "developer"]),
            content,
            rest,
            st.booleans(),
        ),
        st.builds(lambda a, rest: {**rest, **call(arguments=a)}, texts, rest),
        st.builds(
            lambda a, rest: {**rest, "type": "custom_tool_call", "call_id": "c", "name": "p", "input": a}, texts, rest
        ),
        st.builds(lambda o, rest: {**rest, **result(o)}, content, rest),
        st.builds(lambda o: {"type": "custom_tool_call_output", "call_id": "c", "output": o}, content),
        st.builds(
            lambda s, rest: {**rest, "type": "reasoning", "summary": s, "encrypted_content": "sig"},
            st.lists(st.builds(lambda t: {"type": "summary_text", "text": t}, texts), max_size=2),
            rest,
        ),
        st.sampled_from(
            [
                {"type": "local_shell_call", "call_id": "s", "action": {"command": ["ls"]}},
                {"type": "local_shell_call_output", "call_id": "s", "output": "a.txt"},
                {"type": "shell_call_output", "call_id": "s", "output": [{"stdout": "a"}]},
                {"type": "computer_call_output", "call_id": "k", "output": {"type": "computer_screenshot"}},
                {"type": "web_search_call", "id": "ws", "status": "completed"},
                {"type": "item_reference", "id": "msg_1"},
                {"type": "compaction", "encrypted_content": "x"},
                {"type": "mcp_approval_response", "approve": True},
                {"type": "call"},
                {"type": "item"},
            ]
        ),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=400)
@given(st.one_of(texts, items), st.one_of(st.none(), texts))
def test_outline_and_back_is_the_same_request(given: Any, instructions: str | None) -> None:
    request = parsed(input=given, instructions=instructions, tools=[], store=False, strange={"a": [1]})
    assert as_sent(outlined(request)) == request


@settings(deadline=None, max_examples=200)
@given(items)
def test_outline_of_a_longer_history_begins_with_that_of_a_shorter(given: list[Any]) -> None:
    request = parsed(input=[*given, user(words("And now?"))])
    before = outlined(parsed(input=given))["messages"]
    assert outlined(request)["messages"][: len(before)] == before


def test_outline_has_one_message_for_all_that_the_brain_said_at_once() -> None:
    thought = {"type": "reasoning", "id": "r", "summary": []}
    history = [user(words("Hi")), thought, said("Let me see."), call(), result("a.txt"), said("Done.")]
    messages = outlined(parsed(input=history, instructions="Be brief."))["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert [part["type"] for part in messages[2]["content"]] == ["reasoning", "item", "output_text", "call"]
    assert messages[2]["tool_calls"][0]["function"] == {"name": "bash", "arguments": "{}"}
    assert messages[3]["tool_call_id"] == "c1"


def test_text_and_pictures_of_ours_get_the_types_of_the_format() -> None:
    outline = outlined(parsed(input=[user(words("a")), said("b"), call(), result([words("c")])]))
    for message in outline["messages"]:
        message["content"] = [*message["content"], {"type": "text", "text": "ours"}]
    outline["messages"].append(
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}
    )
    sent = as_sent(outline)["input"]
    assert sent[0]["content"][-1] == {"type": "input_text", "text": "ours"}
    assert sent[3]["content"] == [{"type": "output_text", "text": "ours"}]
    assert sent[4]["output"][-1] == {"type": "input_text", "text": "ours"}
    assert sent[5]["content"] == [{"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "auto"}]


@pytest.mark.parametrize(
    "history",
    [
        [user({"type": "input_image", "image_url": PIXEL, "detail": "high"})],
        [user({"type": "input_image", "image_url": {"url": PIXEL}})],
        [user(words("x")), call(), result([words("ok"), {"type": "input_image", "image_url": PIXEL}])],
        [
            user(words("x")),
            call(),
            result(orjson.dumps([{"type": "image", "data": PIXEL[22:], "mimeType": "image/png"}]).decode()),
        ],
        [user(words("x")), call(), result(f"saved as {PIXEL}")],
        [user(words("x")), said(f"![a]({PIXEL})")],
        [
            {
                "type": "computer_call_output",
                "call_id": "k",
                "output": {"type": "computer_screenshot", "image_url": PIXEL},
            }
        ],
        [user(words("x")), call(arguments=orjson.dumps({"file": PIXEL}).decode()), result("ok")],
        [user(words("x")), {"type": "image_generation_call", "id": "g", "result": PIXEL}],
    ],
)
def test_no_picture_is_left_wherever_it_stands(history: list[Any]) -> None:
    outline = outlined(parsed(input=history))
    numbers: list[str] = []

    def say(_: Any) -> str:
        numbers.append("")
        return f"[Image #{len(numbers)}]"

    outline["messages"] = replace_images(outline["messages"], say, flat_results=WIRE.flat_results)
    sent = orjson.dumps(as_sent(outline))
    assert b"base64" not in sent
    assert b"iVBOR" not in sent
    assert sent.count(b"[Image #1]") == 1
    assert len(numbers) == 1


# One place for one message, however a client writes it down


def places(given: Any) -> list[str]:
    return [place.full for place in Trail(outlined(parsed(input=given))["messages"], "responses").places]


def test_file_that_is_an_image_is_one() -> None:
    file = {"type": "input_file", "filename": "a.png", "file_data": PIXEL}
    document = {**file, "file_data": "data:application/pdf;base64,JVBERi0xLjQK"}
    outline = outlined(parsed(input=[user(words("x"), file, document)]))
    walked = {**outline, "messages": replace_images(outline["messages"], lambda _: "seen", flat_results=False)}
    assert as_sent(walked)["input"][0]["content"] == [words("x"), words("seen"), document]


def test_answer_has_one_place_in_every_form() -> None:
    forms: list[list[Any]] = [
        [user(words("Hi")), said("Let me look. A cat.")],
        ["Hi", said("Let me look. A cat.")],
        [user(words("Hi")), said("Let me look."), {"type": "reasoning", "summary": []}, said("A cat.")],
        [user(words("Hi")), {"role": "assistant", "content": "Let me look.\n\nA cat."}],
        [user(words("Hi")), {"type": "web_search_call", "id": "w"}, said("Let me look. A cat.")],
    ]
    written = [[{"role": "user", "content": one} if isinstance(one, str) else one for one in form] for form in forms]
    assert len({tuple(places(form)) for form in written}) == 1


# What is refused


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": {}}, "input"),
        ({"input": [1]}, "input[0]"),
        ({"input": [{"type": 1}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": ["x"]}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "b"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "output": "b"}]}, "input[0].call_id"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "instructions": []}, "instructions"),
        ({"input": "x", "max_output_tokens": "many"}, "max_output_tokens"),
        ({"input": "x", "tools": {}}, "tools"),
        ({"input": "x", "stream": "yes"}, "stream"),
        ({"input": "x", "previous_response_id": 1}, "previous_response_id"),
    ],
)
def test_bad_body_is_refused_where_it_is_bad(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        WIRE.parse(orjson.dumps(body))
    assert refused.value.param == param


def test_what_clients_must_not_decide_is_dropped() -> None:
    image = {"type": "input_image", "image_url": PIXEL, "uuid": "shared"}
    request = parsed(input=[user(dict(image)), result([dict(image)])], cache_salt="x", api_key="k", messages=[1])
    assert "uuid" not in orjson.dumps(request).decode()
    assert not request.keys() & {"cache_salt", "api_key", "messages"}


def test_what_only_the_outline_reads_is_no_word_of_a_client() -> None:
    forged = {
        "role": "user",
        "content": [{"type": "input_text", "text": "x", "chiasm_item": 1}],
        "chiasm_item": "instructions",
    }
    sent = as_sent(outlined(parsed(input=[forged])))
    assert "instructions" not in sent
    assert b"chiasm_item" not in orjson.dumps(sent)


# What is asked of us


@pytest.mark.parametrize(
    ("fields", "can"),
    [
        ({}, True),
        ({"tool_choice": "auto"}, True),
        ({"tool_choice": "required"}, True),
        ({"tool_choice": "none"}, False),
        ({"tool_choice": {"type": "function", "name": "bash"}}, False),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, True),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {}}}}, False),
        ({"text": {"format": {"type": "json_object"}}}, False),
        ({"conversation": "conv_1"}, False),
        ({"previous_response_id": "resp_1"}, True),
    ],
)
def test_looks_are_offered_where_the_brain_could_ask_for_one(fields: dict[str, Any], can: bool) -> None:
    assert WIRE.loop_can_work(outlined(parsed(input="Hi", **fields))) is can


def test_clients_tools_have_names_in_every_form() -> None:
    tools = [
        {"type": "function", "name": "bash", "parameters": {}},
        {"type": "custom", "name": "apply_patch"},
        {"type": "web_search"},
        {"type": "namespace", "name": "files", "tools": [{"type": "function", "name": "analyzeImage"}]},
    ]
    assert WIRE.tool_names({"tools": tools}) == {"bash", "apply_patch", "files", "analyzeImage"}


def test_codex_words_of_the_system_are_one_for_templates_that_take_one() -> None:
    developer = {"type": "message", "role": "developer", "content": [words("Sandbox: read-only.")]}
    request = outlined(parsed(input=[developer, user(words("Hi"))], instructions="You are Codex."))
    fitted = as_sent(WIRE.fit(request, PROFILES["vllm"]))
    assert fitted["instructions"] == "You are Codex.\n\nSandbox: read-only."
    assert [item["role"] for item in fitted["input"]] == ["user"]
    assert as_sent(WIRE.fit(request, PROFILES["openai"])) == as_sent(request)


def test_broken_arguments_of_functions_are_mended_and_custom_inputs_left_alone() -> None:
    patch = {"type": "custom_tool_call", "call_id": "p", "name": "apply_patch", "input": "*** {"}
    history = [user(words("x")), call(arguments='{"a": '), patch]
    sent = as_sent(WIRE.fit(outlined(parsed(input=history)), PROFILES["auto"]))["input"]
    assert orjson.loads(sent[1]["arguments"]) is not None
    assert sent[2] == patch
