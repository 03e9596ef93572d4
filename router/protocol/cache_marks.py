"""Anthropic's cache marks, which clients set on the last blocks of a history and move on with every turn."""

from __future__ import annotations

from typing import Any


def without_cache_control(value: Any) -> Any:
    """`value` without them, wherever they stand: vLLM's stricter forks refuse them.  What holds none is the same
    object."""
    if isinstance(value, list):
        items = [without_cache_control(item) for item in value]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        fields = {key: without_cache_control(item) for key, item in value.items() if key != "cache_control"}
        return fields if len(fields) != len(value) or any(fields[key] is not value[key] for key in fields) else value
    return value
