"""The client's own numbers for images, and ours.

Claude Code and Codex write `[Image #1]` beside a pasted image and count for themselves.  Where their number is free it
is ours too.  Where it is not (they count anew after they have compacted a history), their markers are rewritten: beside
the image, and in what the person says from there on.  What a tool says never counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from router.protocol.image_parts import FoundImage, origin_of
from router.protocol.placeholders import markers, renumber


def wanted_numbers(messages: Sequence[Any], found: Sequence[FoundImage]) -> list[int | None]:
    """The number that the client itself gave each image by a marker in the same message: Claude Code and Codex write
    `[Image #1]` beside a pasted image.  Only where there are as many markers as images is it clear whose is whose."""
    wanted: list[int | None] = []
    for index, group in groupby(found, key=lambda image: image.message):
        images = list(group)
        # Not in what a tool says, moved or not: a page could make the person's words mean its own picture.
        of_person = all(origin_of(messages, image) != "tool" for image in images)
        marked = markers(_words(messages[index])) if of_person else []
        wanted += marked if len(marked) == len(images) else [None] * len(images)
    return wanted


def with_our_numbers(
    messages: list[Any], found: Sequence[FoundImage], wanted: Sequence[int | None], numbers: Sequence[int]
) -> tuple[list[Any], list[int | None]]:
    """The client's markers rewritten where they could not have the number they say: beside the image, and in the
    person's words from there on, because a client counts anew after it has compacted a history.  And for each image
    the number by which the client calls it, if that is another."""
    called = [want if want != number else None for want, number in zip(wanted, numbers, strict=True)]
    if not any(called):
        return messages, called
    of_message: dict[int, dict[int, int]] = {}
    for image, want, number in zip(found, wanted, numbers, strict=True):
        if want is not None:
            of_message.setdefault(image.message, {})[want] = number
    changes: dict[int, int] = {}
    renumbered: list[Any] = []
    for index, message in enumerate(messages):
        for want, number in of_message.get(index, {}).items():
            changes[want] = number
            if want == number:
                del changes[want]
        by_person = isinstance(message, Mapping) and message.get("role") == "user"
        renumbered.append(_renumbered(message, changes) if changes and by_person else message)
    return renumbered, called


def _words(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _renumbered(message: dict[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": renumber(content, numbers)}
    parts = [
        {**part, "text": renumber(part["text"], numbers)}
        if isinstance(part, dict) and isinstance(part.get("text"), str)
        else part
        for part in content or ()
    ]
    return {**message, "content": parts}
