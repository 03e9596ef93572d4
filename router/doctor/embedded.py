"""Eyes in this process (`kind = "ocr"`): are they installed, and do they read."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

from router.doctor.card import Card, large, reads, small
from router.doctor.check import Check
from router.doctor.eyes import WORD
from router.doctor.facts import Facts
from router.doctor.verdict import Verdict, fail, ok, warn
from tools.vision.backend import VisionBackend, VisionError, VisionImage, VisionQuery


@dataclass(frozen=True, slots=True)
class Said:
    card: Card
    text: str
    problem: str
    seconds: float


class Embedded:
    def __init__(self, backend: VisionBackend, *, title: str, place: str, chance: random.Random) -> None:
        self.title = title
        self.backend = backend
        self.chance = chance
        self.facts = Facts(place=place, base_url="", configured=None)

    async def look(self, card: Card) -> Said:
        begun = time.monotonic()
        text = problem = ""
        try:
            text = (await self.backend.look(VisionQuery((VisionImage(1, card.data),), WORD))).text
        except VisionError as error:
            problem = str(error)
        return Said(card, text, problem, time.monotonic() - begun)


def _ready(facts: Facts, problem: str | None) -> Verdict:
    return ok("in this process") if problem is None else fail(problem, "install it: pip install '.[ocr]'")


def _read(facts: Facts, said: Said) -> Verdict:
    size = f"{said.card.width}x{said.card.height}"
    if said.problem:
        return fail(f"{size}: {said.problem}", f"raise timeout_seconds in {facts.place}, or use a vision model")
    if reads(said.text, said.card.words[0]):
        return ok(f"{size}: {said.card.words[0]!r} read in {said.seconds:.1f} s")
    return warn(f"{size}: {said.card.words[0]!r} stands there and was not read", "a vision model reads more than OCR")


CHECKS: tuple[Check[Embedded, Any], ...] = (
    Check("installed", lambda eyes: eyes.backend.ready(), _ready),
    Check("reads a small card", lambda eyes: eyes.look(small(eyes.chance)), _read, ("installed",)),
    Check("reads a large card", lambda eyes: eyes.look(large(eyes.chance)), _read, ("installed",)),
)
