"""Where in the configuration something stands, and how that is written for people."""

from __future__ import annotations

import re

from router.config.settings import LISTS

Loc = tuple[int | str, ...]
"""Where a value stands: `("text", 0, "api_key")`, entries counted from 0."""


def heading(table: str) -> str:
    """`[[text]]` or `[server]`, as in a file."""
    return f"[[{table}]]" if table in LISTS else f"[{_word(table)}]"


def place(loc: Loc) -> str:
    """`[[text]] #1 api_key` for `("text", 0, "api_key")`; nothing for the whole configuration."""
    if not loc:
        return ""
    head, *rest = loc
    return " ".join([heading(str(head)), *(f"#{part + 1}" if isinstance(part, int) else _word(part) for part in rest)])


def short(word: str) -> str:
    """`word` quoted, and cut where it is too long to be one."""
    return repr(word if len(word) <= 60 else word[:59] + "…")


def _word(key: str) -> str:
    return key if re.fullmatch(r"[\w-]{1,60}", key) else short(key)
