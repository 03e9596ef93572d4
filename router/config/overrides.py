"""What is laid over the file: `CHIASM_…` variables, and over those the flags of the command line.

`CHIASM_SERVER__PORT=9000` sets one option, in any letter case; lists are JSON (`CHIASM_SERVER__API_KEYS='["…"]'`), and
so are whole tables: `CHIASM_TEXT='[{"base_url": "…"}]'`.  A name without `__` that is no table is left alone: clients
keep their key in CHIASM_API_KEY, and Kubernetes sets CHIASM_PORT for a service of our name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from router.config.faults import ConfigError, unknown_table
from router.config.places import Loc
from router.config.settings import LISTS, TABLES
from router.config.variables import secret_file

_PREFIX = "CHIASM_"


@dataclass(frozen=True, slots=True)
class Flags:
    """What `chiasm serve` was told on the command line; `None`: nothing.

    `text` and `vision` are base URLs.  Each replaces the whole list of its name, so that no key or model id that was
    meant for one server goes to another.
    """

    host: str | None = None
    port: int | None = None
    text: str | None = None
    text_model: str | None = None
    vision: str | None = None
    vision_model: str | None = None

    def upstreams(self) -> Iterator[tuple[str, str | None, str | None]]:
        """Of each list its name, base URL and model id."""
        yield "text", self.text, self.text_model
        yield "vision", self.vision, self.vision_model


NO_FLAGS = Flags()


@dataclass(frozen=True, slots=True)
class Overrides:
    """Tables and options in the shape of a file, and which variable or flag each came from."""

    tables: dict[str, Any] = field(default_factory=dict)
    origins: dict[Loc, str] = field(default_factory=dict)

    def set_table(self, table: str, value: Any, origin: str) -> None:
        self.tables[table] = value
        self.origins[(table,)] = origin

    def set_option(self, table: str, option: str, value: Any, origin: str) -> None:
        self.tables.setdefault(table, {})[option] = value
        self.origins[(table, option)] = origin


def overrides_from(environ: Mapping[str, str], cwd: Path, flags: Flags) -> Overrides:
    """What variables and flags set; raises `ConfigError` where a variable does not hold what it should."""
    overrides = Overrides()
    found = _settings_variables(environ, cwd)
    for path in sorted(found):  # `server` before `server__port`: single options are laid over a whole table
        _add_variable(overrides, path, *found[path])
    for option, value in (("host", flags.host), ("port", flags.port)):
        if value is not None:
            overrides.set_option("server", option, value, f"--{option}")
    for table, url, model in flags.upstreams():
        if url is not None:
            entry = {"base_url": url} if model is None else {"base_url": url, "model": model}
            overrides.set_table(table, [entry], f"--{table}")
    return overrides


def _settings_variables(environ: Mapping[str, str], cwd: Path) -> dict[str, tuple[str, str]]:
    """By `server__port`: the name of the variable as it is spelt, and its value (or the content of its file)."""
    # Sorted so that of two spellings of one name the one in capitals comes last, and wins.
    names = sorted((name for name in environ if name.upper().startswith(_PREFIX)), key=str.isupper)
    found = {name[len(_PREFIX) :].lower(): (name, environ[name]) for name in names}
    for path, (name, text) in list(found.items()):
        setting = path.removesuffix("_file")
        if setting != path and _is_setting(setting):
            del found[path]
            if setting not in found:
                found[setting] = name, secret_file(name, text, cwd)
    return found


def _is_setting(path: str) -> bool:
    """Whether `server__port` or `text` (a whole table) is something that may be set."""
    table, separator, option = path.partition("__")
    return table in TABLES and (not separator or option in TABLES[table].model_fields)


def _add_variable(overrides: Overrides, path: str, name: str, text: str) -> None:
    table, separator, option = path.partition("__")
    if not separator:
        if table in TABLES:
            overrides.set_table(table, _json(text, name, list if table in LISTS else dict), name)
    elif table not in TABLES:
        raise ConfigError(f"{name}: {unknown_table(table)}")
    elif table in LISTS:
        raise ConfigError(
            f"{name}: there may be several [[{table}]], so a variable can only give all of them: "
            f"put a JSON list in {_PREFIX}{table.upper()}, or write ${{VAR}} in the file"
        )
    else:
        known = TABLES[table].model_fields.get(option)
        listed = known is not None and get_origin(known.annotation) is tuple
        overrides.set_option(table, option, _json(text, name, list) if listed else text, name)


def _json(text: str, name: str, shape: type[list[Any]] | type[dict[str, Any]]) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, shape):
        example = '["…", "…"]' if "__" in name else '[{"base_url": "…"}]' if shape is list else '{"option": "…"}'
        raise ConfigError(f"{name}: must be a JSON {'list' if shape is list else 'object'} such as {example}")
    return value
