"""The arguments of our own tools, made whole where a server or a model broke them.

The ladder, from the strict to the hopeful; each rung is there because a real server or model needed it:

1.  One JSON object, as it should be.
2.  The first complete JSON value, whatever follows: some parsers repeat the arguments or add a brace.
3.  JSON encoded twice: a string that holds the object.
4.  XML parameters, when a parser let the model's own syntax through: `<parameter=image>1</parameter>`.
5.  A lost opening brace, a lost end.
6.  What `json_repair` makes of it: single quotes, unquoted words, fences.
7.  `image=1`, when even the keys are mangled.

A client's own calls are never touched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import json_repair

_NAME = re.compile(r"[\w-]{1,64}")
_PAIR = re.compile(r"\b(\w+)\s*[=:]\s*\"?([^\"\n,}]+)")
IMAGE_KEYS = ("image", "imageId", "images", "image_id", "imageIds", "image_ids", "number")
"""Under which models and older prompts name an image."""

_LONGEST = 64 * 1024
"""A model that writes more than this into a look is in a loop; no task needs it."""

_LONGEST_REPAIRED = 2 * 1024
"""`json_repair` takes time with the square of some texts: a fifth of a second for the worst of this length."""


def parse_arguments(text: str, *, hopeful: bool = True) -> dict[str, Any]:
    """The arguments as an object; empty where nothing can be made of them.

    `hopeful`: climb the rungs that guess, too.  Not for text that anyone may send in any amount.
    """
    text = text.strip()[:_LONGEST]
    rungs: tuple[Callable[[str], dict[str, Any]], ...] = (_first_value, _xml, _closed)
    for rung in (*rungs, _repaired, pairs) if hopeful else rungs:
        arguments = rung(text)
        if arguments:
            return arguments
    return {}


def _first_value(text: str) -> dict[str, Any]:
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text)
        if isinstance(value, str):
            value, _ = json.JSONDecoder(strict=False).raw_decode(value.strip())
    except (ValueError, RecursionError):
        return {}
    return dict(value) if isinstance(value, dict) else {}


def _xml(text: str) -> dict[str, Any]:
    arguments = {}
    for parameter in text.split("<parameter=")[1:]:
        name, _, value = parameter.partition(">")
        if _NAME.fullmatch(name):
            arguments[name] = value.partition("</parameter>")[0].partition("</function>")[0].strip()
    return arguments


def _closed(text: str) -> dict[str, Any]:
    """An object that lost its first brace, or its end."""
    opened = text if text.startswith("{") else "{" + text
    for end in ("", "}", '"}'):
        if arguments := _first_value(opened + end):
            return arguments
    return {}


def _repaired(text: str) -> dict[str, Any]:
    text = text[:_LONGEST_REPAIRED]
    if not text or ('"' not in text and "'" not in text):
        return {}
    candidate = text if text.startswith(("{", "[", '"{')) else "{" + text
    try:
        value = json_repair.loads(candidate)
    except (ValueError, RecursionError):
        return {}
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), None)
    return dict(value) if isinstance(value, Mapping) else {}


def pairs(text: str) -> dict[str, Any]:
    """The last rung by itself: `image=1`, wherever it stands."""
    return {key: value.strip() for key, value in _PAIR.findall(text)}


def as_text(value: object) -> str:
    """A parameter as the string it should be: numbers, lists and objects come instead of strings when a parser
    converts by schema."""
    match value:
        case None:
            return ""
        case str():
            return value.strip()
        case bool() | int() | float():
            return str(value)
        case list():
            return ", ".join(as_text(item) for item in value)
        case _:
            return json.dumps(value, ensure_ascii=False)


def first_of(arguments: Mapping[str, object], keys: Sequence[str]) -> str:
    """The first of these that says something; empty where none does."""
    return next((text for key in keys if (text := as_text(arguments.get(key)))), "")


def image_numbers(text: str) -> list[int]:
    """`3`, `#3`, `[Image #3]`, `Image 3`, or several: each number once, in order of appearance."""
    return list(dict.fromkeys(int(number) for number in re.findall(r"\d{1,6}", text)))


def images_named(arguments: str, *, most: int, done: str) -> list[int] | str:
    """The images that a call names; or why it cannot be carried out, in words for the brain.  `done`: what would be
    done with them, such as "brought back"."""
    numbers = image_numbers(first_of(parse_arguments(arguments), IMAGE_KEYS))
    if not numbers:
        return 'The parameter "image" is missing: give the number of an image.'
    return numbers if len(numbers) <= most else f"At most {most} images can be {done} in one call; ask for fewer."
