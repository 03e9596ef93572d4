"""Arguments of calls as they may stand in a history."""

from __future__ import annotations

import orjson

from router.protocol.turn import is_object
from tools.arguments import parse_arguments

_LONGEST = 64 * 1024
"""Mending takes time with the text, and a history is mended again on every turn."""


def mended(arguments: str) -> str:
    """A JSON object, as servers want it: they parse these texts, and one that is broken fails every later request of
    its conversation (vLLM up to 0.24, Ollama).  What is an object already stays as it is, to the byte."""
    if is_object(arguments):
        return arguments
    try:
        return orjson.dumps(parse_arguments(arguments) if len(arguments) <= _LONGEST else {}).decode()
    except TypeError:  # half a surrogate pair, which no JSON text may hold
        return "{}"
