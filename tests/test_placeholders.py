"""The words that stand for an image: every one of them is in somebody's prefix cache."""

from __future__ import annotations

from typing import Any

import pytest

from cache.record import ImageRecord
from router.protocol.placeholders import (
    captioned,
    inline_not_shown,
    inline_placeholder,
    markers,
    not_shown,
    placeholder,
    renumber,
    unseen,
)


def record(**facts: Any) -> ImageRecord:
    return ImageRecord(3, "digest", **{"media_type": "image/png", "width": 30, "height": 20, **facts})


BROKEN = record(problem='not "an\\image"')


def test_a_placeholder_says_what_stands_there_and_what_to_do() -> None:
    assert placeholder(record(), "look") == (
        '[Image #3] (attached PNG, 30x20, not visible; call look with image "3" to look at it)'
    )
    assert placeholder(record(), None) == "[Image #3] (attached PNG, 30x20, not visible to you)"
    assert placeholder(BROKEN, "look") == placeholder(BROKEN, None) == '[Image #3: unreadable, not "an\\image"]'


def test_a_caption_stands_behind_its_placeholder() -> None:
    assert captioned(record(), "a cat") == "[Image #3] (attached PNG, 30x20, described by a vision model)\na cat"
    assert captioned(BROKEN, "") == placeholder(BROKEN, None)
    assert unseen(record(), "no\n time") == (
        "[Image #3] (attached PNG, 30x20, could not be looked at: no time; do not guess)"
    )


def test_a_placeholder_inside_a_string_holds_nothing_that_would_end_it() -> None:
    assert inline_placeholder(record()) == "[Image #3]"
    assert inline_placeholder(BROKEN) == "[Image #3: unreadable, not 'an/image']"


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_placeholder_names_the_format(name: str) -> None:
    assert f"attached {name}, " in placeholder(record(media_type=f"image/{name.lower()}"), None)


def test_a_format_without_a_name_is_an_image() -> None:
    assert "attached image, 30x20" in placeholder(record(media_type="image/x-new"), None)


def test_markers_are_found_and_renumbered_at_once() -> None:
    text = "[Image #2] [Image #1: unreadable] [Image #2] [Image #7x] [Image #1234567]"
    assert markers(text) == [2, 1]
    assert renumber(text, {1: 2, 2: 1}) == "[Image #1] [Image #2: unreadable] [Image #1] [Image #7x] [Image #1234567]"
    assert renumber("[Image #5]", {}) == "[Image #5]"


def test_a_placeholder_says_by_which_number_the_client_means_the_image() -> None:
    assert placeholder(record(), "look", 1) == (
        '[Image #3] (attached PNG, 30x20, the user\'s image 1, not visible; call look with image "3" to look at it)'
    )
    assert placeholder(record(), None, 1) == "[Image #3] (attached PNG, 30x20, the user's image 1, not visible to you)"


def test_a_brain_with_eyes_is_told_what_is_not_shown_and_how_to_have_it_shown() -> None:
    assert not_shown(record(), "recall") == (
        '[Image #3] (attached PNG, 30x20, not shown here; call recall with image "3" to see it)'
    )
    assert not_shown(record(), None, 1) == "[Image #3] (attached PNG, 30x20, the user's image 1, not shown here)"
    assert not_shown(BROKEN, "recall") == placeholder(BROKEN, None)
    assert inline_not_shown(record(), "recall") == "[Image #3: not shown here, recall shows it]"
    assert inline_not_shown(record(), None) == "[Image #3]"
    assert inline_not_shown(BROKEN, "recall") == inline_placeholder(BROKEN)
