"""Machines, models and facts, read from their files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from router.config.spelling import nearest

EngineName: TypeAlias = Literal["vllm", "sglang", "llamacpp"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)

Entry = TypeVar("Entry")

HOSTED = "hosted"
"""In place of a brain: a model that somebody else serves."""

SAME = "same"
"""In place of eyes: the brain's own server, which sees."""

OCR = "ocr"
"""In place of eyes: the embedded reader of printed words, which needs no GPU."""


class NoSuchRecipe(Exception):
    """What was asked for cannot be given.  `str(error)` is one line that says what can."""


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    text: str
    source: str
    date: str
    """Year and month of what was said or measured."""


@dataclass(frozen=True, slots=True)
class Machine:
    name: str
    title: str
    gpus: int
    gb: float
    """Memory of one GPU, as it is counted."""
    share: float
    """The most of one GPU's memory that all servers on it may take together."""
    engines: tuple[EngineName, ...]
    brain: str
    eyes: str
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    repository: str
    sees: bool
    gb: float
    """For weights and some cache, on all GPUs together."""
    source: str
    """Where `gb` comes from."""
    gpus: tuple[int, ...]
    """Over how many it can be split."""
    context: int
    facts: tuple[str, ...]
    arguments: Mapping[EngineName, tuple[str, ...]]
    """What an engine must be told; an engine that is missing cannot serve it."""
    calls: Mapping[EngineName, tuple[str, ...]]
    """What it must be told besides, to call tools."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    machines: Mapping[str, Machine]
    models: Mapping[str, Model]
    facts: Mapping[str, Fact]

    def machine(self, name: str) -> Machine:
        return _found(name, self.machines, "recipe")

    def model(self, name: str) -> Model:
        return _found(name, self.models, "model")


@cache
def catalogue() -> Catalogue:
    """Everything that is known; read once."""
    machines = [
        Machine(**{**entry, "engines": tuple(entry["engines"]), "facts": tuple(entry["facts"])})
        for entry in _read("machine")
    ]
    models = [_model(entry) for entry in _read("model")]
    facts = [Fact(**entry) for entry in _read("fact")]
    return Catalogue(
        {machine.name: machine for machine in machines},
        {model.name: model for model in models},
        {fact.name: fact for fact in facts},
    )


def _read(table: str) -> list[dict[str, Any]]:
    text = files("router.recipes").joinpath(f"{table}s.toml").read_text("utf-8")
    entries: list[dict[str, Any]] = tomllib.loads(text)[table]
    return entries


def _model(entry: dict[str, Any]) -> Model:
    arguments = {engine: tuple(entry.pop(engine)) for engine in ENGINES if engine in entry}
    calls = {engine: tuple(entry.pop(f"{engine}_calls")) for engine in ENGINES if f"{engine}_calls" in entry}
    lists = {"gpus": tuple(entry["gpus"]), "facts": tuple(entry["facts"])}
    return Model(**{**entry, **lists}, arguments=arguments, calls=calls)


def _found(name: str, entries: Mapping[str, Entry], kind: str) -> Entry:
    if name in entries:
        return entries[name]
    near = nearest(name, entries)
    raise NoSuchRecipe(
        f"there is no {kind} {name!r}; " + (f"did you mean {near!r}?" if near else f"there are {', '.join(entries)}")
    )
