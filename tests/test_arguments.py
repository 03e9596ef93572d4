"""Arguments of our own tools are understood however they were broken on the way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.arguments import as_text, image_numbers, parse_arguments

WHOLE = {"image": "1", "task": "read it"}


@pytest.mark.parametrize(
    "text",
    [
        '{"image": "1", "task": "read it"}',
        '  {"image":"1","task":"read it"}\n',
        '"image": "1", "task": "read it"}',  # vLLM up to 0.16 loses the opening brace
        '{"image": "1", "task": "read it"',  # cut
        '{"image": "1", "task": "read it"}}',  # vLLM, hermes parser: one brace too many
        '{"image": "1", "task": "read it"}{"image": "1", "task": "read it"}',
        '{"image": "1", "task": "read it"}"{\\"image\\": \\"1\\"}"',
        '"{\\"image\\": \\"1\\", \\"task\\": \\"read it\\"}"',  # encoded twice
        "{'image': '1', 'task': 'read it'}",
        '```json\n{"image": "1", "task": "read it"}\n```',
        "<parameter=image>\n1\n</parameter>\n<parameter=task>\nread it\n</parameter>\n</function>",
        "<parameter=image>1</parameter><parameter=task>read it",
    ],
)
def test_the_ladder_finds_the_arguments(text: str) -> None:
    assert parse_arguments(text) == WHOLE


def test_a_raw_line_end_in_a_string_is_no_obstacle() -> None:
    assert parse_arguments('{"image": "1", "task": "read\nit"}') == {"image": "1", "task": "read\nit"}


def test_mangled_keys_still_tell_the_image() -> None:
    assert parse_arguments("image=2, task=count") == {"image": "2", "task": "count"}


@pytest.mark.parametrize("text", ["", "{", "}", '""', "null", "[]", "[1, 2]", "true", "hello", "{{{{", "}{"])
def test_nothing_comes_of_nothing(text: str) -> None:
    assert parse_arguments(text) == {}


def test_a_hole_without_a_bottom_is_no_crash() -> None:
    assert isinstance(parse_arguments("[" * 50_000), dict)
    assert isinstance(parse_arguments('{"a":' * 20_000), dict)


@given(st.text(max_size=200))
def test_any_text_gives_an_object(text: str) -> None:
    assert isinstance(parse_arguments(text), dict)


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=30) | st.integers(), min_size=1, max_size=4), st.data())
def test_what_is_valid_is_never_repaired(value: dict[str, Any], data: st.DataObject) -> None:
    import json

    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    assert parse_arguments(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a ", "a"),
        (3, "3"),
        (None, ""),
        (["1", "2"], "1, 2"),
        ([1, 2], "1, 2"),
        (True, "True"),
        ({"a": 1}, '{"a": 1}'),
    ],
)
def test_a_parameter_of_any_type_is_a_string(value: object, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3", [3]),
        ("#3", [3]),
        ("[Image #3]", [3]),
        ("Image 3", [3]),
        ("1, 2", [1, 2]),
        ("[Image #2] and [Image #10]", [2, 10]),
        ("2,2,1", [2, 1]),
        ("", []),
        ("the first", []),
    ],
)
def test_numbers_of_images_in_every_spelling(text: str, numbers: list[int]) -> None:
    assert image_numbers(text) == numbers


@pytest.mark.parametrize(
    "text",
    [
        "<parameter=a>x" + " " * 60_000 + "x",
        "<parameter=a>" * 5_000,
        '{"a":' + '["' * 30_000,
        '{"a": "' + "\\" * 60_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """Each of these once took seconds to minutes; the deadline of the whole suite would show it."""
    assert isinstance(parse_arguments(text), dict)
    assert isinstance(parse_arguments(text, hopeful=False), dict)


def test_what_anyone_may_send_in_any_amount_is_not_guessed_at() -> None:
    assert parse_arguments("{'image': '1'}") == {"image": "1"}
    assert parse_arguments("{'image': '1'}", hopeful=False) == {}
