"""JSON as servers write it, which is not always JSON."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

import orjson


def parsed(data: bytes | bytearray) -> Any:
    """JSON as servers write it.  Raises ValueError.

    Python's own writer lets NaN and Infinity through (log-probabilities of tokens that cannot be), JavaScript's a half
    of a surrogate pair, and some servers cut a character in two.  One bad token, or a number that is beyond all others,
    is no reason to lose an answer.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            lenient = json.loads(
                data.decode("utf-8", "replace"),
                parse_constant=lambda _: None,
                parse_float=lambda text: number if isfinite(number := float(text)) else None,
                parse_int=lambda text: int(text) if len(text) < 20 else None,
            )
        except RecursionError:
            raise error from None
        text = json.dumps(lenient, ensure_ascii=False)
        return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def is_json(data: bytes) -> bool:
    try:
        parsed(data)
    except ValueError:
        return False
    return True
