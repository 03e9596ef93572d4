"""recallImage: a forgotten image comes back, with what was seen in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest

from cache.record import ImageRecord
from tools.call import ToolCall, ToolResult, VisionUsage
from tools.recall_image import RecallImage, definition

pytestmark = pytest.mark.anyio


class Shelf:
    """Images 1 to 3; #1 was looked at, #2 never, #3 is broken."""

    def __init__(self) -> None:
        self.rows = {
            1: ImageRecord(1, "a", last_answer="a dog\non a mat", description="a dog"),
            2: ImageRecord(2, "b"),
            3: ImageRecord(3, "c", problem="truncated PNG"),
        }
        self.gone: set[int] = set()
        self.loaded: set[int] = set()
        self.recalls: list[tuple[int, int]] = []

    def is_loaded(self, number: int) -> bool:
        return number in self.loaded

    async def records(self, numbers: Sequence[int]) -> Mapping[int, ImageRecord]:
        return {number: self.rows[number] for number in numbers if number in self.rows}

    async def data(self, number: int) -> bytes | None:
        return None if number in self.gone else b"png"

    async def recalled(self, number: int, *, tokens: int) -> int:
        self.recalls.append((number, tokens))
        self.loaded.add(number)
        return 10 + len(self.recalls)


async def recall(shelf: Shelf, **arguments: object) -> ToolResult:
    return await RecallImage(images=shelf, look="analyzeImage").call(
        ToolCall("c1", "recallImage", json.dumps(arguments))
    )


async def test_what_was_seen_comes_back_as_a_quotation() -> None:
    shelf = Shelf()
    result = await recall(shelf, image="1")
    assert result.text.startswith('Image #1 is back. To find out more, call analyzeImage with image "1".')
    assert "> a dog\n> on a mat\n(seen in image #1" in result.text
    assert (result.images, result.stamp, result.failed, result.usage) == ((1,), 11, False, VisionUsage())
    ((number, tokens),) = shelf.recalls
    assert number == 1
    assert 0 < tokens < len(result.text)


async def test_an_image_that_nobody_looked_at_says_so() -> None:
    assert (await recall(Shelf(), image="[Image #2]")).text.endswith("Nobody has looked at it yet.")


async def test_one_that_is_loaded_says_so() -> None:
    shelf = Shelf()
    shelf.loaded.add(1)
    assert (await recall(shelf, image="#1")).text.startswith("Image #1 is loaded already.")


async def test_several_come_back_in_one_call() -> None:
    shelf = Shelf()
    result = await recall(shelf, imageId=["1", "2"])
    assert "Image #1 is back" in result.text
    assert "\n\nImage #2 is back" in result.text
    assert (result.images, result.stamp) == ((1, 2), 12)


async def test_one_that_cannot_come_back_does_not_keep_the_others_away() -> None:
    result = await recall(Shelf(), image="9, 1, 3")
    assert "There is no image #9 in this conversation." in result.text
    assert "Image #3 cannot be brought back: truncated PNG." in result.text
    assert (result.images, result.failed) == ((1,), False)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("9", "There is no image #9 in this conversation."),
        ("3", "Image #3 cannot be brought back: truncated PNG."),
        ("", 'The parameter "image" is missing: give the number of an image.'),
        ("1,2,3,4,5,6,7,8,9", "At most 8 images can be brought back in one call; ask for fewer."),
    ],
)
async def test_what_cannot_be_done_is_said_in_words(image: str, words: str) -> None:
    shelf = Shelf()
    assert await recall(shelf, image=image) == ToolResult("c1", words, failed=True)
    assert shelf.recalls == []


async def test_bytes_that_are_gone_leave_the_last_that_was_known() -> None:
    shelf = Shelf()
    shelf.gone = {1, 2}
    shelf.rows[2].description = "a form"
    seen, described = await recall(shelf, image="1"), await recall(shelf, image="2")
    assert seen.text.startswith("Image #1 is no longer available; ask the user to send it again.")
    assert "> a dog\n> on a mat" in seen.text
    assert "> a form" in described.text
    assert seen.failed
    assert shelf.recalls == []


def test_the_definition_is_the_same_bytes_every_time() -> None:
    assert definition() == definition()
    assert definition("chiasm_recallImage").parameters == definition().parameters
