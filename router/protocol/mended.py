"""Arguments of calls as they may stand in a history."""

from __future__ import annotations

import orjson

from router.protocol.turn import is_object
from tools.arguments import parse_arguments


def mended(arguments: str) -> str:
    """A JSON object, as servers want it: they parse these texts, and one that is broken fails every later request of
    its conversation (vLLM up to 0.24, Ollama).  What is an object already stays as it is, to the byte."""
    return arguments if is_object(arguments) else _repaired(arguments)


def _repaired(arguments: str) -> str:
    try:
        return orjson.dumps(parse_arguments(arguments, hopeful=False)).decode()
    except TypeError:  # half a surrogate pair, which no JSON text may hold
        return "{}"
