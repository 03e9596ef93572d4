"""Pictures in messages, for a brain that has eyes itself.

Wherever we write an image part ourselves it holds no data but a *reference* (`chiasm:image/3`), and so do the turns
that are kept.  Data take its place when a request goes out (`filled`): nothing between here and there carries
megabytes, and what is kept for later says the same bytes again.

A client cannot write a reference: an image by URL never passes the intake of a request.

A picture that the brain asked for stands in a user message behind all results of its turn, since there every server
that sees takes one.  Image parts in a tool's own message depend on engine, model and template: OpenAI and Qwen's cloud
refuse them, as do some models under vLLM, and Ollama loses the message's id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tools.call import ToolResult

_REFERENCE = "chiasm:image/"


def reference(number: int) -> dict[str, Any]:
    """An image part that stands for this image."""
    return {"type": "image_url", "image_url": {"url": f"{_REFERENCE}{number}"}}


def label(number: int, called: int | None = None) -> str:
    """The words before a picture, by which it can be named; `called`: the number by which the client means it, where
    that is another."""
    return f"[Image #{number}]" if called is None else f"[Image #{number}] (the user's image {called})"


def result_messages(results: Sequence[ToolResult]) -> list[dict[str, Any]]:
    """What answers calls of ours: a message for each, then their pictures."""
    # A string always: Ollama loses the id of a tool message whose content is a list.
    said = [{"role": "tool", "tool_call_id": result.call_id, "content": result.text} for result in results]
    numbers = dict.fromkeys(number for result in results for number in result.pictures)
    if not numbers:
        return said
    parts = [part for number in numbers for part in ({"type": "text", "text": label(number)}, reference(number))]
    return [*said, {"role": "user", "content": parts}]


def has_pictures(message: Mapping[str, Any]) -> bool:
    """Whether it is one of ours with pictures in it."""
    return any(_number(part) is not None for part in _parts(message))


def with_some_pictures(message: Mapping[str, Any], stands: Callable[[int], bool]) -> dict[str, Any] | None:
    """A message of `result_messages` with those of its pictures that stand; `None` if none does."""
    parts = _parts(message)
    kept: list[Any] = []
    for words, picture in zip(parts[::2], parts[1::2], strict=True):
        number = _number(picture)
        if number is not None and stands(number):
            kept += [words, picture]
    return {**message, "content": kept} if kept else None


def with_pictures(messages: Sequence[Any], parts: Mapping[tuple[int, int], Any]) -> list[Any]:
    """The history with these image parts, each behind the words that stand in its place, by message and position."""
    of_message: dict[int, dict[int, Any]] = {}
    for (message, position), part in parts.items():
        of_message.setdefault(message, {})[position] = part
    return [
        _with_parts(message, of_message[index]) if index in of_message else message
        for index, message in enumerate(messages)
    ]


def _with_parts(message: Mapping[str, Any], parts: Mapping[int, Any]) -> dict[str, Any]:
    content: list[Any] = []
    for position, words in enumerate(message["content"]):
        content.append(words)
        if position in parts:
            content.append(parts[position])
    return {**message, "content": content}


def referenced(messages: Sequence[Any]) -> list[int]:
    """The images whose data are missing, each once."""
    numbers = [_number(part) for message in messages for part in _parts(message)]
    return list(dict.fromkeys(number for number in numbers if number is not None))


def filled(messages: Sequence[Any], urls: Mapping[int, str | None]) -> list[Any]:
    """The history as it goes out; `urls`: of all that `referenced` named, `None` where the data are gone."""

    def part(value: Any) -> Any:
        number = _number(value)
        if number is None:
            return value
        if (url := urls[number]) is None:
            return {"type": "text", "text": f"(Image #{number} is no longer available.)"}
        return {"type": "image_url", "image_url": {"url": url}}

    return [
        {**message, "content": [part(value) for value in _parts(message)]} if has_pictures(message) else message
        for message in messages
    ]


def _parts(message: Any) -> list[Any]:
    if not isinstance(message, Mapping) or message.get("role") != "user":
        return []
    content = message.get("content")
    return content if isinstance(content, list) else []


def _number(part: Any) -> int | None:
    if not isinstance(part, Mapping) or part.get("type") != "image_url":
        return None
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else None
    if not isinstance(url, str) or not url.startswith(_REFERENCE):
        return None
    digits = url.removeprefix(_REFERENCE)
    return int(digits) if digits.isascii() and digits.isdigit() else None
