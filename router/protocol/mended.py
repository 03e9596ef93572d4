"""Arguments of calls as they may stand in a history."""

from __future__ import annotations

from functools import lru_cache

import orjson

from router.protocol.turn import is_object
from tools.arguments import parse_arguments

_LONGEST = 16 * 1024
"""Beyond this the time it takes would stop everybody's streams."""


def mended(arguments: str) -> str:
    """A JSON object, as servers want it: they parse these texts, and one that is broken fails every later request of
    its conversation (vLLM up to 0.24, Ollama).  What is an object already stays as it is, to the byte."""
    return arguments if is_object(arguments) else _repaired(arguments)


@lru_cache(maxsize=256)
def _repaired(arguments: str) -> str:
    """Remembered, because the same history comes again with every turn and mending takes milliseconds."""
    try:
        return orjson.dumps(parse_arguments(arguments) if len(arguments) <= _LONGEST else {}).decode()
    except TypeError:  # half a surrogate pair, which no JSON text may hold
        return "{}"
