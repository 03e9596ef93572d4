"""Writes docs/configuration.md from the settings and from config.example.toml:

.venv/bin/python -m router.config.reference > docs/configuration.md

What an option is stands under its field in `settings.py`, when to change it in the example; neither is written twice.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from router.config.places import heading
from router.config.settings import LISTS, TABLES

_EXAMPLE = Path("config.example.toml")

_HEAD = """\
<!-- Made by `python -m router.config.reference > docs/configuration.md`; change router/config/settings.py or
config.example.toml instead. -->

# Configuration

A TOML file, looked for in this order: `--config FILE`, `./config.toml`, `$XDG_CONFIG_HOME/chiasm/config.toml`
(`~/.config/…`), `/etc/chiasm/config.toml`. Only the first is read. With `--text` and `--vision` none is needed.

```sh
chiasm check-config
```

prints what is in force, secrets masked, and says where it comes from. [config.example.toml](../config.example.toml) is
a file to begin with: it holds every option, and works as it stands for servers on ports 8000 and 8001.
[Recipes](recipes/README.md) have files for known machines.

**Variables.** Any string may hold `${VAR}` or `${VAR:-default}`; `$${` is a literal `${`. `CHIASM_SERVER__PORT=9000`
overrides one option of a table in single brackets, `CHIASM_TEXT='[{…}]'` all of a table in double brackets, as JSON.
Where a variable is not set, the same name with `_FILE` behind it may name a file that holds the value, as container
platforms hand secrets over.

**What wins**: flags, then `CHIASM_…` variables, then the file, then the defaults below.

**Mistakes.** An option or table that does not exist is an error that names the nearest one that does. A value of a
wrong kind is an error that says what is expected. `chiasm` then ends with exit code 2 and one line for each.
"""

_KINDS: Mapping[str, str] = {
    "Count": "whole number, at least 1",
    "Turns": "whole number, at least 2",
    "Port": "0 to 65535",
    "Amount": "number above 0",
    "AmountOrZero": "number, at least 0",
    "BaseUrl": "http or https address",
    "BaseUrlOrEmpty": "http or https address",
    "ListenHost": "address or name",
    "OptionalName": "string",
    "Secret": "string, kept secret",
    "SecretStr": "string, kept secret",
    "tuple[Secret, ...]": "list of strings, kept secret",
    "tuple[Host, ...]": "list of hosts",
    "tuple[Network, ...]": "list of address ranges",
    "Path": "folder",
    "Price": "number, at least 0",
    "Currency": "name of a currency",
    "bool": "`true` or `false`",
    "str": "string",
}


def reference(example: str) -> str:
    """The page; `example` is the text of config.example.toml."""
    when = dict(_when(example))
    return "\n".join([_HEAD, *(_table(name, model, when) for name, model in TABLES.items())]).rstrip() + "\n"


def _table(name: str, model: type[BaseModel], when: Mapping[tuple[str, str], str]) -> str:
    words = (model.__doc__ or "").partition(": ")[2]
    rows = []
    what = _documented(model)
    for option, field in model.model_fields.items():
        cells = [f"`{option}`", _default(field), _kind(model, option), what[option], when[name, option]]
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    repeated = " May be repeated, each with a `name`." if name in LISTS else ""
    return "\n".join(
        [
            f"## `{heading(name)}`",
            "",
            f"{_sentence(' '.join(words.split()))}{repeated}",
            "",
            "| option | default | may be | what it is | when to change it |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _documented(model: type[BaseModel]) -> dict[str, str]:
    """The string under each field, also those of the table that this one extends."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls.__module__ != model.__module__:
            continue
        (tree,) = ast.parse(inspect.getsource(cls)).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=option)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[option] = " ".join(text.split())
    return found


def _annotations(model: type[BaseModel]) -> dict[str, str]:
    """How the kind of each option is spelt in the source: the names say more than what they stand for."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls.__module__ == model.__module__:
            found |= {option: str(kind) for option, kind in inspect.get_annotations(cls).items()}
    return found


def _kind(model: type[BaseModel], option: str) -> str:
    annotation = model.model_fields[option].annotation
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{word}`" for word in typing.get_args(annotation))
    spelt = _annotations(model)[option]
    return _KINDS[spelt]


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "*needed*"
    match value:
        case None:
            return '`""`'
        case SecretStr():
            return f'`"{value.get_secret_value()}"`'
        case bool():
            return f"`{str(value).lower()}`"
        case tuple():
            return "`[]`"
        case int() | float():
            return f"`{value:g}`" if value < 10_000 else f"`{value}`"
        case _:
            return f'`"{value}"`'


def _when(example: str) -> Iterator[tuple[tuple[str, str], str]]:
    """From (table, option) to the comment above it."""
    table, above = "", ""
    for line in example.splitlines():
        if found := re.fullmatch(r"\[+([a-z]+)\]+", line):
            table, above = found[1], ""
        elif found := re.match(r"#?([a-z_]+) = ", line):
            yield (table, found[1]), above
            above = ""
        elif line.startswith("# "):
            above = f"{above} {line[2:]}".strip()
        else:
            above = ""


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if not text or text[-1] in ".…)" else f"{text}."


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def main() -> None:
    """Print the page."""
    sys.stdout.write(reference(_EXAMPLE.read_text("utf-8")))


if __name__ == "__main__":
    main()
