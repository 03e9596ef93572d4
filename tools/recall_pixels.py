"""`recallImage` for a brain that has eyes itself: the image is shown again.

A picture cannot stand in the words of a result, so the result names it and whoever writes the prompt puts it behind.
What is in view already is not shown a second time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from cache.record import ImageRecord
from tools.arguments import images_named
from tools.call import ToolCall, ToolResult
from tools.definition import ToolDefinition
from tools.quotation import gone
from tools.recall_image import NAME
from tools.vision.pixel_tokens import pixel_tokens

_MOST_IMAGES = 8
"""In one call; more would undo a forgetting at once."""


def definition(name: str = NAME) -> ToolDefinition:
    """The same bytes on every turn, as for every tool of ours."""
    return ToolDefinition(
        name=name,
        description=(
            "Show an image of this conversation again: one whose place says that it is not shown there, or that was "
            "forgotten to save room (status forgotten in the table of images). The picture itself follows the result."
        ),
        parameters={
            "type": "object",
            "properties": {
                "image": {"type": "string", "description": 'Number of the image, such as "3"; or several, "3, 5".'}
            },
            "required": ["image"],
        },
    )


class Images(Protocol):
    """The images of one conversation; nothing outside it can be named."""

    async def records(self, numbers: Sequence[int]) -> Mapping[int, ImageRecord]:
        """What is known of those of these images that there are, by number."""

    async def data(self, number: int) -> bytes | None:
        """The bytes as the client sent them; `None` if they are gone."""

    async def recalled(self, number: int, *, tokens: int) -> int:
        """Load it; answers the table's stamp."""


class RecallPixels:
    """For one exchange.  `in_view`: the images whose pixels stand in the prompt, as far as that is known."""

    def __init__(self, *, images: Images, name: str = NAME, in_view: Collection[int]) -> None:
        self.definition = definition(name)
        self._images = images
        self._in_view = in_view
        self._shown: set[int] = set()

    async def call(self, call: ToolCall) -> ToolResult:
        numbers = images_named(call.arguments, most=_MOST_IMAGES, done="shown")
        if isinstance(numbers, str):
            return ToolResult(call.id, numbers, failed=True)
        words: list[str] = []
        back: list[int] = []
        pictures: list[int] = []
        stamp = 0
        for number in numbers:
            found = await self._found(number)
            if isinstance(found, str):
                words.append(found)
                continue
            back.append(number)
            if number in self._in_view or number in self._shown:
                words.append(f"Image #{number} is in view already, marked [Image #{number}].")
                stamp = max(stamp, await self._images.recalled(number, tokens=0))
                continue
            self._shown.add(number)  # at once: another call of this turn may ask for the same
            words.append(f"Image #{number} follows.")
            pictures.append(number)
            stamp = max(stamp, await self._images.recalled(number, tokens=pixel_tokens(found.width, found.height)))
        text = "\n\n".join(words)
        return ToolResult(call.id, text, failed=not back, images=tuple(back), stamp=stamp, pictures=tuple(pictures))

    async def _found(self, number: int) -> ImageRecord | str:
        """Its row, or why it cannot be shown, in words for the brain."""
        record = (await self._images.records([number])).get(number)
        if record is None:
            return f"There is no image #{number} in this conversation."
        if record.problem:
            return f"Image #{number} cannot be shown: {record.problem}."
        return gone(record) if await self._images.data(number) is None else record
