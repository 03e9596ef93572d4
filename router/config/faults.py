"""What is wrong with the configuration, in sentences that say what to do next and show no secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import get_args

from pydantic import SecretStr
from pydantic_core import ErrorDetails

from router.config.places import Loc, heading, place, short
from router.config.settings import TABLES
from router.config.spelling import nearest


class ConfigError(Exception):
    """The configuration cannot be used.

    `str(error)` is one line that suffices to mend the first fault; `problems` has one such line for each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        first, *more = self.problems
        return f"{first} (and {len(more)} more)" if more else first


_EXPECTED: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "tuple_type": "a list",
    "model_type": "a table",
    "string_pattern_mismatch": "one to eight letters",
    "string_too_short": "a string that is not empty",
    "greater_than": "more than {gt:.0f}",
    "greater_than_equal": "at least {ge:.0f}",
    "less_than_equal": "at most {le:.0f}",
    "literal_error": "one of {expected}",
}


def sentence(error: ErrorDetails, written: object) -> str:
    """What pydantic found wrong, in our words; `written` is the faulty value as the user wrote it."""
    kind, loc, context = error["type"], error["loc"], error.get("ctx", {})
    if kind == "extra_forbidden":
        if len(loc) > 1:
            return _unknown_option(loc)
        is_table = isinstance(error["input"], dict | list)
        return unknown_table(str(loc[0])) if is_table else _stray_option(str(loc[0]))
    if kind == "missing":
        if len(loc) == 1:
            return f"there is no {heading(str(loc[0]))}: add one with a base_url, or give --{loc[0]} URL"
        return f"{place(loc[:-1])} needs {loc[-1]}"
    if len(loc) == 1 and kind == "tuple_type" and isinstance(written, dict):
        return f"[{loc[0]}] must be written [[{loc[0]}]], with double brackets, because there may be several"
    if len(loc) == 1 and kind == "model_type" and isinstance(written, list):
        return f"[[{loc[0]}]] must be written [{loc[0]}], with single brackets, because there is only one"
    if kind == "value_error":
        message = str(context["error"])
        if not any(isinstance(part, str) for part in loc[1:]):  # of a whole table: the message says it all
            return f"{place(loc)} {message}".lstrip()
        if _is_secret(loc):
            return f"{place(loc)} {message}"
    elif kind in _EXPECTED:
        message = "must be " + _EXPECTED[kind].format_map(context)
    else:
        message = f"is wrong: {error['msg']}"
    return f"{place(loc)} {message}, not {_given(written, loc)}"


# --- what does not exist ---------------------------------------------------------------------------------------------


def unknown_table(name: str) -> str:
    near = nearest(name, TABLES)
    return f"there is no table {short(name)}; " + (
        f"did you mean {heading(near)}?" if near else f"there are {', '.join(map(heading, TABLES))}"
    )


def _stray_option(name: str) -> str:
    near = nearest(name, [option for model in TABLES.values() for option in model.model_fields])
    return f"{short(name)} stands outside every table; " + (
        f"did you mean {near!r}, under {' or '.join(_homes(near))}?"
        if near
        else f"put options under {', '.join(map(heading, TABLES))}"
    )


def _unknown_option(loc: Loc) -> str:
    option, options = str(loc[-1]), TABLES[str(loc[0])].model_fields
    if homes := _homes(option):
        advice = f"it belongs under {' or '.join(homes)}"
    elif near := nearest(option, options):
        advice = f"did you mean {near!r}?"
    else:
        advice = f"it has {', '.join(options)}"
    return f"{place(loc[:-1])} has no option {short(option)}; {advice}"


def _homes(option: str) -> list[str]:
    return [heading(table) for table, model in TABLES.items() if option in model.model_fields]


# --- what was given instead ------------------------------------------------------------------------------------------


def _given(value: object, loc: Loc) -> str:
    """`value` as an error may show it: secrets and whole tables (which may hold some) only by their kind."""
    if _is_secret(loc):
        return _kind(value)
    match value:
        case bool():
            return str(value).lower()
        case str():
            # So long a word without a colon or slash is rather a key in the wrong place.
            # Addresses carry keys before an @ and behind a question mark.
            masked = re.sub(r"//[^/]*@", "//****@", value)
            masked = re.sub(r"(://[^?#]*[?#]).+", r"\1****", masked, flags=re.DOTALL)
            return _kind(value) if re.fullmatch(r"[\w.+=-]{20,}", value) else short(masked)
        case float():
            return repr(value)
        case int():
            return f"{value}" if abs(value) < 10**40 else "so large a number"
        case _:
            return _kind(value)


def _kind(value: object) -> str:
    match value:
        case str():
            return "a string"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case list() | tuple():
            return "a list"
        case dict():
            return "a table"
        case _:
            return f"a {type(value).__name__}"


def _is_secret(loc: Loc) -> bool:
    model = TABLES.get(str(loc[0])) if loc else None
    fields = model.model_fields if model else {}
    return any(_holds_secret(fields[part].annotation) for part in loc[1:] if isinstance(part, str) and part in fields)


def _holds_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_holds_secret(part) for part in get_args(annotation))
