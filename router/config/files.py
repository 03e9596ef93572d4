"""The configuration file: where it is looked for, and what may keep it from being read."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from router.config.faults import ConfigError


def candidates(*, environ: Mapping[str, str], cwd: Path, home: Path, etc: Path) -> list[Path]:
    """Where a file is looked for, the first place first."""
    # A relative $XDG_CONFIG_HOME is to be ignored (XDG Base Directory Specification, "Environment variables").
    xdg = Path(environ.get("XDG_CONFIG_HOME", ""))
    folder = xdg if xdg.is_absolute() else home / ".config"
    return [cwd / "config.toml", folder / "chiasm" / "config.toml", etc / "chiasm" / "config.toml"]


def first_there(paths: Iterable[Path]) -> Path | None:
    """The first of `paths` where there is anything, be it readable or not."""
    for path in paths:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # PermissionError: the folder is closed to us, so what is in it is not meant for us
        except OSError:
            pass  # something is there; reading it says what is wrong with it
        return path
    return None


def shown(path: Path, cwd: Path) -> str:
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def read(path: Path, name: str) -> str:
    """The text of a file, with or without the byte order mark that Windows editors put first.

    `name` is what `ConfigError` calls it.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        problem = "there is no such file"
    except IsADirectoryError:
        problem = "is a folder; name the file in it"
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text (at byte {error.start}); save it as UTF-8"
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise ConfigError(f"{name}: {problem}")


def parse(text: str, name: str) -> dict[str, Any]:
    """The tables of a TOML file; `name` is what `ConfigError` calls it."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        problem = "brackets nested too deeply"
    except ValueError as error:  # TOMLDecodeError is one; so is Python's limit on digits
        problem = str(error)
    # Raised out here, so that no chained exception carries the text: it may hold keys.
    raise ConfigError(f"{name}: not valid TOML: {problem}")
