"""The effective configuration, printed without its secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import SecretStr

from router.config.places import heading
from router.config.settings import LISTS, TABLES, Settings

_UNSET: Mapping[str, str] = {
    "name": "the first model that the server lists",
    "model": "the first model that the server lists",
    "vision": "the first [[vision]]",
}


def masked(settings: Settings) -> str:
    """The effective configuration as TOML, each secret as `"****"` (an empty one stays empty).

    What only the server can tell, or only follows from other entries, stands there as a comment.
    """
    blocks = []
    for table in TABLES:
        value = getattr(settings, table)
        for entry in value if table in LISTS else (value,):
            lines = [heading(table)]
            for option in type(entry).model_fields:
                inner = getattr(entry, option)
                lines.append(f"# {option}: {_UNSET[option]}" if inner is None else f"{option} = {_toml(inner)}")
            blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case SecretStr():
            return '"****"' if value.get_secret_value() else '""'
        case _:
            # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
