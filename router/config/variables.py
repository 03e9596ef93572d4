"""`${VAR}` in the strings of the file, and variables whose value lies in a file of its own.

Any string may hold `${VAR}` or `${VAR:-default}` (the default also stands in for an empty variable, as in a shell).
Only `${` is special: a lone `$` and `$$` stay as they are, because passwords hold them, and `$${` is how a literal `${`
is written.  What a variable gives is not searched for variables again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from router.config.faults import ConfigError
from router.config.files import read
from router.config.places import Loc, place

LookUp = Callable[[str], str | None]
"""From the name of a variable to its value; `None`: not set."""

# `$${` (literal), a well-formed reference, or a `${` that is neither.  Names are those of POSIX shells.
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>(?:(?!\$\{)[^}])*))?\}|\$\{")


def look_up(variable: str, *, environ: Mapping[str, str], cwd: Path) -> str | None:
    """The value of `variable`, or the content of the file that the same name with `_FILE` behind it names."""
    if (value := environ.get(variable)) is not None:
        return value
    if (path := environ.get(name := f"{variable}_FILE")) is not None:
        return secret_file(name, path, cwd)
    return None


def secret_file(name: str, path: str, cwd: Path) -> str:
    """The content of the file at `path`, which the variable `name` gave."""
    # Editors and `echo` end a file with a newline, which is no part of the key.
    # The path is not shown: by mistake it may be the key itself.
    return read(cwd / path, f"the file that {name} names").rstrip("\r\n")


def complete(value: Any, loc: Loc, name: str, value_of: LookUp) -> Any:
    """`value`, which stands at `loc` of the file `name`, with every `${VAR}` in its strings replaced."""
    if len(loc) > 4:
        # The deepest option is table, entry, option, item of a list; what is deeper will be refused, but
        # a dotted key can be thousands deep.
        return value
    if isinstance(value, dict):
        return {key: complete(inner, (*loc, key), name, value_of) for key, inner in value.items()}
    if isinstance(value, list):
        return [complete(inner, (*loc, number), name, value_of) for number, inner in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        variable, default = match["name"], match["default"]
        if variable is None:
            raise ConfigError(
                f"{name}: {place(loc)} has a '${{' that begins no ${{NAME}} or ${{NAME:-default}}; "
                "write '$${' where the two characters themselves are meant"
            )
        found = value_of(variable)
        if default is not None:
            return found or default
        if found is None:
            raise ConfigError(
                f"{name}: {place(loc)} needs the environment variable {variable}, which is not set; "
                f"set it, or write ${{{variable}:-}} if it may be empty"
            )
        return found

    return _REFERENCE.sub(replace, value)
