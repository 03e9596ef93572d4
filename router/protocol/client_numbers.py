"""The client's own numbers for images, and ours.

Claude Code and Codex write `[Image #1]` beside a pasted image and count for themselves.  Where their number is free it
is ours too.  Where it is not (they count anew after they have compacted a history), their markers are rewritten: beside
the image, and in what the person says from there on.  What a tool says never counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

from router.protocol.image_parts import FoundImage, origin_of
from router.protocol.placeholders import markers, renumber


def wanted_numbers(messages: Sequence[Any], found: Sequence[FoundImage], *, moved: bool = True) -> list[int | None]:
    """The number that the client itself gave each image by a marker in the same message: Claude Code and Codex write
    `[Image #1]` beside a pasted image.  Only where there are as many markers as images is it clear whose is whose.

    `moved`: whether an image of the user's behind a tool's result may be the tool's (`origin_of`); not in formats whose
    results hold images themselves.
    """
    wanted: list[int | None] = []
    named: set[int] = set()
    for index, group in groupby(found, key=lambda image: image.message):
        images = list(group)
        # Not in what a tool says, moved or not: a page could make the person's words mean its own picture.
        of_person = all((origin_of(messages, image) if moved else image.origin) != "tool" for image in images)
        numbers = _numbers_of(messages[index], images, named) if of_person else None
        named.update(numbers or ())
        wanted += numbers or [None] * len(images)
    return wanted


def _numbers_of(message: Any, images: Sequence[FoundImage], named: Collection[int]) -> list[int] | None:
    """`named`: the numbers of the person's images before these, which markers may well speak of; another image has one
    of them only where nothing else fits.

    The text right before an image comes first: after it has compacted a history, Claude Code puts its summary, which
    repeats older markers, into one message with what the person says next.
    """
    near, whole = _before_runs(message, images), [(_words(message), len(images))]
    marked = [[(markers(text), count) for text, count in texts] for texts in (near, whole)]
    for known in (named, ()):
        for runs in marked:
            told = [([number for number in said if number not in known], count) for said, count in runs]
            numbers = [number for said, _ in told for number in said]
            if all(len(said) == count for said, count in told) and len(set(numbers)) == len(images):
                return numbers
    return None


def _before_runs(message: Any, images: Sequence[FoundImage]) -> list[tuple[str, int]]:
    """For each run of images that are parts of the message: the text right before it, and how many they are."""
    places = [image.at for image in images]
    runs: list[tuple[str, int]] = []
    for before, at in zip([None, *places], places, strict=False):
        if at is None:
            return []
        if before is not None and at == before + 1:
            text, count = runs[-1]
            runs[-1] = text, count + 1
        else:
            runs.append((_text(message["content"][at - 1]) if at else "", 1))
    return runs


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
    first_of: dict[int, FoundImage] = {}
    for image, want, number in zip(found, wanted, numbers, strict=True):
        first_of.setdefault(image.message, image)
        if want is not None:
            of_message.setdefault(image.message, {})[want] = number
    changes: dict[int, int] = {}
    renumbered: list[Any] = []
    for index, message in enumerate(messages):
        since = 0
        if own := of_message.get(index):
            since = _since(message, first_of[index], own)
            message = _renumbered(message, changes, slice(0, since))
            for want, number in own.items():
                changes[want] = number
                if want == number:
                    del changes[want]
        renumbered.append(_renumbered(message, changes, slice(since, None)))
    return renumbered, called


def _since(message: Any, first: FoundImage, numbers: Collection[int]) -> int:
    """The index of the first part of the message in which markers mean its own images, of which `first` is the first:
    what stands before the text that names them is older."""
    if first.at and not set(markers(_text(message["content"][first.at - 1]))).isdisjoint(numbers):
        return first.at - 1
    return 0


def _words(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(filter(None, map(_text, parts)))


def _text(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""


def _renumbered(message: Any, numbers: Mapping[int, int], parts: slice) -> Any:
    """`message`, if it is the person's, with the markers in these parts of it rewritten; words alone are one part."""
    if not numbers or not isinstance(message, Mapping) or message.get("role") != "user":
        return message
    content = message.get("content")
    if isinstance(content, str):
        return message if parts.stop == 0 else {**message, "content": renumber(content, numbers)}
    content = list(content or ())
    content[parts] = [
        {**part, "text": renumber(part["text"], numbers)} if _text(part) else part for part in content[parts]
    ]
    return {**message, "content": content}
