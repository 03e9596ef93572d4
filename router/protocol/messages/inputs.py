"""A call's arguments, which are text everywhere between the two ends, as the object that Messages wants."""

from __future__ import annotations

from typing import Any

import orjson

from router.protocol.body import MOST_LEVELS


def input_of(arguments: str) -> Any:
    """The value; an empty object where it is none, or one that nests deeper than we take from anybody: the parser reads
    it, but the writer stops."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}
    return {} if _is_too_deep(arguments, value) else value


def _is_too_deep(text: str, value: Any) -> bool:
    if text.count("{") + text.count("[") <= MOST_LEVELS:
        return False
    level = [value]
    for _ in range(MOST_LEVELS):
        inside = (item for one in level for item in (one.values() if isinstance(one, dict) else one))
        level = [item for item in inside if isinstance(item, dict | list)]
        if not level:
            return False
    return True
