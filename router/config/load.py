"""From files, variables and flags to checked settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from router.config.faults import ConfigError, sentence
from router.config.files import candidates, first_there, parse, read, shown
from router.config.overrides import NO_FLAGS, Flags, overrides_from
from router.config.places import Loc, place
from router.config.settings import Settings, UpstreamSettings
from router.config.variables import complete, look_up


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, the file they came from (`None`: no file was needed), and lines worth a warning."""

    settings: Settings
    source: Path | None
    notes: tuple[str, ...] = ()


def load_settings(
    config: Path | None = None,
    *,
    flags: Flags = NO_FLAGS,
    environ: Mapping[str, str],
    cwd: Path,
    home: Path,
    etc: Path = Path("/etc"),
) -> Loaded:
    """Find, read, complete and check the configuration.

    `config` is the file that the user named (then no other is looked for); `environ`, `cwd`, `home` and `etc` are what
    `os.environ`, the working folder, the user's home and /etc are to a process.  Raises `ConfigError`, nothing else.
    """
    places = candidates(environ=environ, cwd=cwd, home=home, etc=etc)
    source = first_there(places) if config is None else cwd / config
    name = shown(source, cwd) if source else ""
    file = parse(read(source, name), name) if source else {}
    overrides = overrides_from(environ, cwd, flags)

    # Only what is left of the file is completed: a variable that nothing needs any more need not be set.
    remaining = _remaining(file, overrides.tables)
    value_of = partial(look_up, environ=environ, cwd=cwd)
    data = {table: complete(value, (table,), name, value_of) for table, value in remaining.items()}
    _lay_over(data, overrides.tables)
    origins = overrides.origins | _add_lone_model_ids(data, flags)

    if source is None and "text" not in data:
        raise ConfigError(
            "nothing is configured: give --text URL and --vision URL (base URLs ending in /v1), or write a "
            "configuration file (config.example.toml is one; "
            f"looked for: {', '.join(shown(path, cwd) for path in places)})"
        )

    settings = _checked(data, written=remaining, origins=origins, name=name)
    store = settings.store.model_copy(update={"path": _absolute(settings.store.path, cwd, home)})
    return Loaded(settings.model_copy(update={"store": store}), source, tuple(_notes(settings)))


def _remaining(file: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """What of the file is not replaced: tables in double brackets go as a whole, others option by option."""
    remaining = {}
    for table, value in file.items():
        over = overrides.get(table, {})
        if not isinstance(over, dict):
            continue
        if isinstance(value, dict):
            remaining[table] = {option: inner for option, inner in value.items() if option not in over}
        else:
            remaining[table] = value
    return remaining


def _lay_over(data: dict[str, Any], overrides: dict[str, Any]) -> None:
    for table, value in overrides.items():
        if table not in data:
            data[table] = value
        elif isinstance(data[table], dict):  # anything else is a fault of the file, which must not be covered up
            data[table] = {**data[table], **value}


def _add_lone_model_ids(data: dict[str, Any], flags: Flags) -> dict[Loc, str]:
    """`--text-model` without `--text` means the only [[text]] there is; new eyes serve every brain.

    Says which flag each model id came from.
    """
    origins: dict[Loc, str] = {}
    for table, url, model in flags.upstreams():
        if model is None or url is not None:
            continue
        match data.get(table):
            case [dict() as entry]:
                data[table] = [{**entry, "model": model}]
                origins[(table, 0, "model")] = f"--{table}-model"
            case _:
                raise ConfigError(f"--{table}-model: needs --{table} URL, or a file with exactly one [[{table}]]")
    if flags.vision is not None and isinstance(data.get("text"), list):
        data["text"] = [
            {option: value for option, value in text.items() if option != "vision"} if isinstance(text, dict) else text
            for text in data["text"]
        ]
    return origins


def _checked(data: dict[str, Any], *, written: dict[str, Any], origins: Mapping[Loc, str], name: str) -> Settings:
    """`data` as settings; `written` is the file before it was completed, for what `ConfigError` shows."""
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    # A misspelt option comes first: it is often why another is missing.
    faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
    problems = []
    for fault in faults:
        loc = fault["loc"]
        origin = next((origins[loc[:end]] for end in range(len(loc), 0, -1) if loc[:end] in origins), None)
        # What a variable gave may be a secret in the wrong place, so the message shows the reference to it.
        template = _at(written, loc) if origin is None else None
        value = template if isinstance(template, str) and "${" in template else fault["input"]
        where = origin or name
        problems.append(f"{where}: {sentence(fault, value)}" if where else sentence(fault, value))
    # Raised out here, so that no chained exception carries the values.
    raise ConfigError(*problems)


def _at(data: Any, loc: Loc) -> Any:
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _absolute(path: Path, cwd: Path, home: Path) -> Path:
    return home.joinpath(*path.parts[1:]) if path.parts[:1] == ("~",) else cwd / path


def _notes(settings: Settings) -> Iterator[str]:
    upstreams: dict[str, tuple[UpstreamSettings, ...]] = {"text": settings.text, "vision": settings.vision}
    for table, entries in upstreams.items():
        for number, entry in enumerate(entries):
            url = entry.base_url
            if url and not re.search(r"/v\d+$", url):  # /v1 nearly everywhere, /v4 at Z.ai
                yield (
                    f"{place((table, number))} base_url does not end in /v1, as most servers' do; "
                    f"requests will go to {url}/chat/completions"
                )
