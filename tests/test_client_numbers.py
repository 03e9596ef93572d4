"""The numbers that a client gives its images, and what becomes of its words where ours are others."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from router.protocol.client_numbers import wanted_numbers, with_our_numbers
from router.protocol.image_parts import FoundImage, replace_images

Json = dict[str, Any]


def image(name: str) -> Json:
    data = base64.b64encode(f"the bytes of the picture {name}".encode()).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def user(*content: str | Json) -> Json:
    return {"role": "user", "content": [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]}


def result(*content: str | Json) -> Json:
    return {"role": "tool", "tool_call_id": "c", "content": user(*content)["content"]}


ANSWER: Json = {"role": "assistant", "content": "ok"}


def found_in(messages: list[Json], *, flat: bool) -> list[FoundImage]:
    found: list[FoundImage] = []

    def note(one: FoundImage) -> str:
        found.append(one)
        return ""

    replace_images(messages, note, flat_results=flat)
    return found


def wanted(*messages: Json, flat: bool = True) -> list[int | None]:
    return wanted_numbers(messages, found_in(list(messages), flat=flat), moved=flat)


def said(numbers: list[int], *messages: Json) -> tuple[list[str], list[int | None]]:
    """What the person says in the end, and what the client calls each image, where these are the images' numbers."""
    found = found_in(list(messages), flat=True)
    renumbered, called = with_our_numbers(list(messages), found, wanted_numbers(messages, found), numbers)
    parts = [part for message in renumbered if message["role"] == "user" for part in message["content"]]
    return [part["text"] for part in parts if "text" in part], called


def test_as_many_markers_as_images_are_their_numbers_wherever_they_stand() -> None:
    assert wanted(user("[Image #2] over [Image #1]", image("a"), image("b"))) == [2, 1]
    assert wanted(user(image("a"), image("b"), "[Image #2] over [Image #1]")) == [2, 1]
    assert wanted(user("<image name=[Image #1]>", image("a"), "</image>", "[Image #1] what is it?")) == [1]


def test_more_markers_than_images_are_no_numbers() -> None:
    assert wanted(user("[Image #7] as in [Image #3]", image("a"))) == [None]


def test_a_marker_of_an_image_before_is_no_number_of_this_one() -> None:
    history = [user("[Image #1]", image("a")), ANSWER]
    assert wanted(*history, user("[Image #2] compare with [Image #1]", image("b"))) == [1, 2]
    assert wanted(*history, user("Compare [Image #1]", "with", image("b"), "which is [Image #2]")) == [1, 2]


def test_a_client_that_counts_anew_in_each_message_is_understood() -> None:
    codex = [user(f"<image name=[Image #1] path={name}>", image(name), "</image>", "Look.") for name in "ab"]
    assert wanted(codex[0], ANSWER, codex[1]) == [1, 1]


def test_of_two_texts_the_one_right_before_the_image_names_it() -> None:
    # Claude Code sends the summary of a compacted history in one message with what the person says next.
    assert wanted(user("You said: [Image #1], [Image #2].", "[Image #1] and this?", image("c"))) == [1]


def test_what_stands_before_that_text_is_older_and_stays() -> None:
    summary, asked = "You said: [Image #1], [Image #2].", user("and [Image #2]?", image("d"))
    words, called = said([3, 4], user(summary, "[Image #1] and this?", image("c"), "[Image #1]!"), ANSWER, asked)
    assert words == [summary, "[Image #3] and this?", "[Image #3]!", "and [Image #4]?"]
    assert called == [1, 2]


def test_what_changed_earlier_holds_up_to_the_text_that_changes_it_again() -> None:
    first, second = user("[Image #1]", image("a")), user("not [Image #1] but", "[Image #1] is new", image("b"))
    assert said([5, 6], first, second, user("[Image #1]?"))[0] == [
        "[Image #5]",
        "not [Image #5] but",
        "[Image #6] is new",
        "[Image #6]?",
    ]


@pytest.mark.parametrize(("flat", "number"), [(True, None), (False, 2)])
def test_an_image_behind_results_is_the_persons_where_results_hold_their_own(flat: bool, number: int | None) -> None:
    history = [user("[Image #1]", image("a")), ANSWER, result(image("b")), ANSWER, result("Interrupted.")]
    assert wanted(*history, user("[Image #2] look here instead", image("c")), flat=flat) == [1, None, number]


def test_an_image_inside_a_result_has_no_number_of_the_persons() -> None:
    assert wanted(result("See [Image #1] below", image("a")), flat=False) == [None]
