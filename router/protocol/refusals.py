"""What a server's words mean when it refuses a request.

Servers agree on a status (400 or 422, 413 for some) and on nothing else, so two questions are put to their words: is
the prompt too long, and is one of these fields not taken?  The phrases stand here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import orjson

REFUSING = frozenset({400, 413, 422})
"""The statuses that speak of the request itself, rather than of who asked, how often, or whether the model is there."""

_TOO_LONG = (
    "maximum context length",  # OpenAI, vLLM, DeepSeek, OpenRouter
    "context_length_exceeded",  # OpenAI's code
    "exceed_context_size",  # llama.cpp's type
    "available context size",  # llama.cpp
    "context length",  # SGLang: "is longer than the model's context length"
    "context window",  # Groq, llama-cpp-python, hosted Claude
    "context limit",
    "prompt is too long",
    "prompt too long",
    "input is too long",
    "input length",  # SGLang, TGI, Qwen Cloud
    "input token count",  # Gemini
    "too many tokens",
    "exceeds max length",  # GLM
    "exceeded model token limit",  # Kimi
    "reduce the length of",
)

_NOT_TAKEN = re.compile(
    r"(?i)\bun(?:known|recogni[sz]ed|supported|expected|permitted)\b"  # OpenAI, Gemini, Groq, `transformers serve`
    r"|\bextra (?:inputs?|fields?)\b|\bextra_forbidden\b|\badditional propert"  # pydantic (Mistral, NIM), JSON Schema
    r"|\b(?:not|isn't|aren't) (?:be )?(?:currently )?(?:a )?"
    r"(?:supported|permitted|allowed|accepted|recogni[sz]ed|valid|available)\b"
    r"|\b(?:does not|doesn't) support\b|\bcannot find field\b|\bno such (?:field|parameter)\b"
    r"|\binvalid\b|\bdeprecated\b"
)

_TELLING = ("error", "errors", "detail", "message", "msg", "param", "loc", "code", "type")
"""Where error bodies say what is wrong and where.  Not everywhere: pydantic's also repeat the request, in which every
field has its name."""

_DEEPEST = 8
"""Levels of a body that are looked at; the deepest that we know has five."""

_OF_A_MESSAGE = re.compile(r"(?i)\bmessages\b|\brole\W+assistant\b")


def complaint(body: bytes) -> str:
    """All that an error body says of what is wrong and where: OpenAI's `param` and pydantic's `loc` name the field."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:2000].decode("utf-8", "replace")
    return " ".join(_told(value, _DEEPEST))


def _told(value: Any, levels: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif not levels:
        return
    elif isinstance(value, list):
        for item in value:
            yield from _told(item, levels - 1)
    elif isinstance(value, dict):
        for key in _TELLING:
            yield from _told(value.get(key), levels - 1)


def too_long(words: str) -> bool:
    """Whether a refusal says that the prompt does not fit into the model."""
    words = words.lower()
    return any(phrase in words for phrase in _TOO_LONG)


def refused_fields(words: str, names: Collection[str]) -> frozenset[str]:
    """Which of these fields of a request the refusal names as not taken, by name or by value."""
    return frozenset() if _OF_A_MESSAGE.search(words) else _named(words, names)


def refused_in_messages(words: str, names: Collection[str], at_top: Collection[str] = ()) -> frozenset[str]:
    """Which of these fields of an assistant message it names so; `at_top`: fields of the request itself, which are
    meant where the words do not speak of messages.

    A complaint that one is *missing* (DeepSeek, Kimi: "must be passed back") names it, too, and is none.
    """
    named = _named(words, names)
    return named if _OF_A_MESSAGE.search(words) else named.difference(at_top)


def _named(words: str, names: Collection[str]) -> frozenset[str]:
    if too_long(words) or not _NOT_TAKEN.search(words):
        return frozenset()
    return frozenset(name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", words))
