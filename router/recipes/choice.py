"""What was asked for, made into servers on GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from router.recipes.catalogue import (
    HOSTED,
    OCR,
    SAME,
    Catalogue,
    EngineName,
    Machine,
    Model,
    NoSuchRecipe,
)
from router.recipes.fit import Place, places

# SGLang's --mem-fraction-static leaves out what it computes with; the others' shares hold everything.
_BESIDES: Mapping[EngineName, float] = {"vllm": 0.0, "sglang": 0.03, "llamacpp": 0.0}


@dataclass(frozen=True, slots=True)
class Server:
    """One model on one engine."""

    model: Model
    place: Place
    port: int
    calls_tools: bool
    looks: bool

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A machine, an engine, and what runs there.  `brain` is `None` where somebody else serves it, `eyes` where the
    brain or the embedded reader looks."""

    machine: Machine
    engine: EngineName
    brain: Server | None
    eyes: Server | None
    looking: str
    """The eyes' name: a model's, `same` or `ocr`."""

    @property
    def servers(self) -> tuple[Server, ...]:
        return tuple(server for server in (self.brain, self.eyes) if server is not None)


def recipe_for(
    known: Catalogue,
    name: str,
    *,
    engine: str | None = None,
    model: str | None = None,
    eyes: str | None = None,
    gpus: str | None = None,
) -> Recipe:
    """The recipe `name`, changed where something is given.  `gpus`: "2", or "2x48" with the GB of each.

    Raises `NoSuchRecipe`.
    """
    machine = _with_gpus(known.machine(name), gpus)
    chosen = _engine(machine, engine)
    brain_name = model or machine.brain
    brain = None if brain_name == HOSTED else _servable(known.model(brain_name), chosen, known)
    looking = eyes or (SAME if model is not None and brain is not None and _too_small_for_two(machine, brain) else "")
    looking = looking or machine.eyes
    if looking == SAME and brain is None:
        raise NoSuchRecipe("--eyes same needs a --model of this machine: a hosted brain has no server here")
    if looking == SAME and brain is not None and not brain.sees:
        seeing_ones = ", ".join(m.name for m in known.models.values() if m.sees and chosen in m.arguments)
        raise NoSuchRecipe(f"{brain.name} cannot see: give it --eyes ocr, or one of {seeing_ones}")
    seeing = None if looking in (SAME, OCR) else _servable(known.model(looking), chosen, known)
    if seeing is not None and not seeing.sees:
        raise NoSuchRecipe(f"{seeing.name} cannot see: it is no --eyes")
    brain_place, eyes_place = places(machine, brain, seeing, besides=_BESIDES[chosen])
    return Recipe(
        machine,
        chosen,
        Server(brain, brain_place, 8000, calls_tools=True, looks=looking == SAME)
        if brain is not None and brain_place is not None
        else None,
        Server(seeing, eyes_place, 8001, calls_tools=False, looks=True)
        if seeing is not None and eyes_place is not None
        else None,
        looking,
    )


def fitting(known: Catalogue, name: str, engine: EngineName) -> Iterator[Recipe]:
    """Every pair of brain and eyes that fits this machine, with the eyes of the recipe, the brain's own, and none."""
    machine = known.machine(name)
    for model in known.models:
        for eyes in dict.fromkeys((machine.eyes, SAME, OCR)):
            try:
                yield recipe_for(known, name, engine=engine, model=model, eyes=eyes)
            except NoSuchRecipe:
                continue


def _too_small_for_two(machine: Machine, brain: Model) -> bool:
    """Whether a brain that sees had better look itself: one GPU, and nothing said about eyes."""
    return machine.gpus == 1 and brain.sees and brain.name != machine.brain


def _servable(model: Model, engine: EngineName, known: Catalogue) -> Model:
    if engine in model.arguments:
        return model
    others = ", ".join(other.name for other in known.models.values() if engine in other.arguments)
    raise NoSuchRecipe(f"there is no command for {model.name} on {engine}; on {engine} there are {others}")


def _engine(machine: Machine, engine: str | None) -> EngineName:
    for known in machine.engines:
        if engine is None or engine == known:
            return known
    raise NoSuchRecipe(f"the recipe {machine.name!r} has no engine {engine!r}; it has {', '.join(machine.engines)}")


def _with_gpus(machine: Machine, gpus: str | None) -> Machine:
    if gpus is None:
        return machine
    match = re.fullmatch(r"([1-9]\d?)(?:x([1-9]\d{0,3}))?", gpus)
    if match is None:
        raise NoSuchRecipe(f"--gpus {gpus!r} is no number of GPUs: write 4, or 2x48 for two with 48 GB each")
    number, gb = int(match[1]), match[2]
    return replace(machine, gpus=number, gb=float(gb) if gb else machine.gb)
