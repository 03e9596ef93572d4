"""Which server goes on which GPU, and how much of its memory it may take.

Pure arithmetic on what the catalogue says.  Brain and eyes get GPUs of their own where there are enough; else the eyes
share the brain's last one, and the brain gives up as much on each of its GPUs, because engines take one share for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from router.recipes.catalogue import Machine, Model, NoSuchRecipe

_ALONE = 0.9
"""What a server takes that has its GPUs to itself: the default of vLLM and SGLang for long."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs."""

    first: int
    gpus: int
    share: float
    """Of each of these GPUs' memory."""

    @property
    def devices(self) -> str:
        return ",".join(str(number) for number in range(self.first, self.first + self.gpus))


def places(
    machine: Machine, brain: Model | None, eyes: Model | None, *, besides: float = 0.0
) -> tuple[Place | None, Place | None]:
    """For brain and eyes; `None` for what is served elsewhere.

    `besides`: of each GPU, what a server of this engine takes on top of what it is told to.
    Raises `NoSuchRecipe` where they do not fit.
    """
    if brain is None:
        return None, None if eyes is None else _roomy(machine, eyes, 1, 0, besides)
    if eyes is None:
        return _roomy(machine, brain, machine.gpus, 0, besides), None
    if machine.gpus > 1:
        try:
            place = _roomy(machine, brain, machine.gpus - 1, 0, besides)
            return place, _roomy(machine, eyes, 1, place.gpus, besides)
        except NoSuchRecipe:
            pass
    taken = math.ceil(100 * eyes.gb / machine.gb) / 100 + 0.01
    left = round(machine.share - taken - 2 * besides, 2)
    place = _widest(machine, brain, machine.gpus, 0, left, beside=eyes)
    return place, Place(place.gpus - 1, 1, round(taken, 2))


def _roomy(machine: Machine, model: Model, gpus: int, first: int, besides: float) -> Place:
    """With the usual part of its GPUs, or all that the machine allows where that is too little."""
    most = round(machine.share - besides, 2)
    try:
        return _widest(machine, model, gpus, first, min(_ALONE, most))
    except NoSuchRecipe:
        return _widest(machine, model, gpus, first, most)


def _widest(machine: Machine, model: Model, gpus: int, first: int, share: float, beside: Model | None = None) -> Place:
    """Over as many GPUs as it can be split over: they read their memory at the same time."""
    for number in sorted(model.gpus, reverse=True):
        if number <= gpus and number * machine.gb * share >= model.gb:
            return Place(first, number, share)
    raise NoSuchRecipe(
        f"{model.name} needs {model.gb:g} GB over {' or '.join(map(str, model.gpus))} GPUs, and {machine.gpus} × "
        f"{machine.gb:g} GB do not hold that"
        + (f" beside the eyes {beside.name}" if beside else "")
        + ": take another --model, --eyes ocr (no GPU), or more --gpus"
    )
