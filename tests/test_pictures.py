"""References stand for pictures until a request goes out, and only where we put them."""

from __future__ import annotations

from typing import Any

import pytest

from router.protocol.pictures import (
    filled,
    has_pictures,
    label,
    reference,
    referenced,
    result_messages,
    with_pictures,
    with_some_pictures,
)
from tools.call import ToolResult

ONE = {"type": "image_url", "image_url": {"url": "chiasm:image/1"}}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def seen(*numbers: int) -> dict[str, Any]:
    return user(*(part for number in numbers for part in (text(f"[Image #{number}]"), reference(number))))


def test_a_reference_is_an_image_part_of_its_own_scheme() -> None:
    assert reference(1) == ONE


def test_a_picture_is_named_by_our_number_and_the_clients() -> None:
    assert label(3) == "[Image #3]"
    assert label(3, 1) == "[Image #3] (the user's image 1)"


def test_pictures_stand_behind_all_results_each_once() -> None:
    results = [ToolResult("a", "one", pictures=(1, 2)), ToolResult("b", "two", pictures=(2,)), ToolResult("c", "three")]
    assert result_messages(results) == [
        {"role": "tool", "tool_call_id": "a", "content": "one"},
        {"role": "tool", "tool_call_id": "b", "content": "two"},
        {"role": "tool", "tool_call_id": "c", "content": "three"},
        seen(1, 2),
    ]


def test_results_without_pictures_are_results_and_nothing_else() -> None:
    assert result_messages([ToolResult("a", "one")]) == [{"role": "tool", "tool_call_id": "a", "content": "one"}]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "tool_call_id": "a", "content": [ONE]},
        {"role": "user", "content": "chiasm:image/1"},
        {"role": "user", "content": None},
        {"role": "user"},
        user(text("chiasm:image/1")),
        user({**ONE, "type": "text"}),
        user({"type": "image_url", "image_url": "chiasm:image/1"}),
        user({"type": "image_url", "image_url": {"url": 1}}),
        user({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
        user({"type": "image_url", "image_url": {"url": "chiasm:image/"}}),
        user({"type": "image_url", "image_url": {"url": "chiasm:image/x"}}),
        user({"type": "image_url", "image_url": {"url": "chiasm:image/\u0661"}}),
        user("words", None, 1),
    ],
)
def test_whatever_else_stands_in_a_message_is_no_picture_of_ours(message: Any) -> None:
    assert not has_pictures(message)
    assert referenced([message]) == []
    assert filled([message], {}) == [message]


def test_what_is_no_message_has_no_pictures() -> None:
    assert referenced([None, "x", seen(2)]) == [2]


def test_each_missing_image_is_named_once_in_order() -> None:
    assert referenced([seen(3, 1), user(text("x")), seen(1, 2)]) == [3, 1, 2]


def test_data_take_the_place_of_references() -> None:
    history = [user(text("a")), seen(3, 4)]
    assert filled(history, {3: "data:3", 4: None}) == [
        user(text("a")),
        user(
            text("[Image #3]"),
            {"type": "image_url", "image_url": {"url": "data:3"}},
            text("[Image #4]"),
            text("(Image #4 is no longer available.)"),
        ),
    ]
    assert history[1] == seen(3, 4), "what is kept stays without data"


def test_pictures_that_do_not_stand_any_more_are_left_out_with_their_labels() -> None:
    assert with_some_pictures(seen(1, 2, 3), lambda number: number != 2) == seen(1, 3)
    assert with_some_pictures(seen(1, 2), lambda number: False) is None


def test_parts_stand_behind_the_words_in_their_place() -> None:
    history = [user(text("a"), text("b")), user(text("c")), {"role": "user", "content": "d"}]
    assert with_pictures(history, {(0, 1): ONE, (1, 0): ONE}) == [
        user(text("a"), text("b"), ONE),
        user(text("c"), ONE),
        {"role": "user", "content": "d"},
    ]
