"""`recallImage`: the brain has a forgotten image back, with what was seen in it.

It costs no look: the words are those of the row.  An image whose bytes are gone cannot be looked at any more, and
the tool says so, with the last that is known of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from cache.record import ImageRecord
from tools.arguments import images_named
from tools.call import ToolCall, ToolResult
from tools.definition import ToolDefinition
from tools.quotation import estimated, gone, quoted

NAME = "recallImage"

_MOST_IMAGES = 8
"""In one call; more would undo a forgetting at once."""


def definition(name: str = NAME) -> ToolDefinition:
    """The same bytes on every turn, as for every tool of ours."""
    return ToolDefinition(
        name=name,
        description=(
            "Bring back an image of this conversation that was forgotten to save room (status forgotten in the table "
            "of images): returns what was seen in it before. To find out more about an image, forgotten or not, look "
            "at it instead."
        ),
        parameters={
            "type": "object",
            "properties": {"image": {"type": "string", "description": 'Number of the image, such as "3".'}},
            "required": ["image"],
        },
    )


class Images(Protocol):
    """The images of one conversation; nothing outside it can be named."""

    def is_loaded(self, number: int) -> bool: ...

    async def records(self, numbers: Sequence[int]) -> Mapping[int, ImageRecord]:
        """What is known of those of these images that there are, by number."""

    async def data(self, number: int) -> bytes | None:
        """The bytes as the client sent them; `None` if they are gone."""

    async def recalled(self, number: int, *, tokens: int) -> int:
        """Load it; answers the table's stamp."""


class RecallImage:
    """For one exchange.  `look`: the name of the tool that looks."""

    def __init__(self, *, images: Images, name: str = NAME, look: str) -> None:
        self.definition = definition(name)
        self._images = images
        self._look = look

    async def call(self, call: ToolCall) -> ToolResult:
        numbers = images_named(call.arguments, most=_MOST_IMAGES, done="brought back")
        if isinstance(numbers, str):
            return ToolResult(call.id, numbers, failed=True)
        said = [await self._recall(number) for number in numbers]
        text = "\n\n".join(words for words, _ in said)
        stamps = [stamp for _, stamp in said if stamp is not None]
        if not stamps:
            return ToolResult(call.id, text, failed=True)
        back = tuple(number for number, (_, stamp) in zip(numbers, said, strict=True) if stamp is not None)
        return ToolResult(call.id, text, images=back, stamp=max(stamps))

    async def _recall(self, number: int) -> tuple[str, int | None]:
        """The words for the brain, and the table's stamp if there is such an image."""
        record = (await self._images.records([number])).get(number)
        if record is None:
            return f"There is no image #{number} in this conversation.", None
        if record.problem:
            return f"Image #{number} cannot be brought back: {record.problem}.", None
        if await self._images.data(number) is None:
            return gone(record), None
        words = f"Image #{number} is loaded already." if self._images.is_loaded(number) else f"Image #{number} is back."
        words += f' To find out more, call {self._look} with image "{number}".'
        if record.last_answer:
            words += f" What was seen in it last:\n{quoted([number], record.last_answer)}"
        else:
            words += " Nobody has looked at it yet."
        return words, await self._images.recalled(number, tokens=estimated(words))
