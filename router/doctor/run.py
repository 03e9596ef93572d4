"""The flow of `chiasm doctor`: every brain, every pair of eyes, then the path through each brain."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import httpx
from rich.console import Console

from router.config import Settings, TextSettings, UpstreamSettings, VisionSettings
from router.doctor import brain as brains
from router.doctor import embedded, eyes, path
from router.doctor.brain import Brain
from router.doctor.budget import DEFAULT_REPEAT, Budget, granted
from router.doctor.check import Check, Checked, Subject, examined
from router.doctor.embedded import Embedded
from router.doctor.eyes import Eyes
from router.doctor.path import Path, some_chiasm
from router.doctor.probe import Limits, Probe
from router.doctor.report import Json, Lines, Report, passed
from router.doctor.verdict import Verdict, ok
from router.http_client import http_client
from router.protocol.profiles import eyes_switch
from tools.vision.open import open_eyes, profile_of

GOOD, FAILED = 0, 1


def doctor(
    settings: Settings, *, as_json: bool = False, repeat: int = DEFAULT_REPEAT, max_tokens: int | None = None
) -> int:
    """Examine everything that the configuration names; the exit code: 0 only if nothing failed.

    `max_tokens`: what all requests may take; `None`: `granted`.
    """
    logging.getLogger("chiasm").addHandler(logging.NullHandler())  # what the temporary Chiasm warns of, we say better
    report = Json() if as_json else Lines(Console(highlight=False, markup=False, emoji=False))
    budget = Budget(granted(repeat) if max_tokens is None else max_tokens)
    made = asyncio.run(examine(settings, report, budget=budget, repeat=repeat, chance=random.SystemRandom()))
    return GOOD if passed(made) else FAILED


async def examine(
    settings: Settings,
    report: Report,
    *,
    budget: Budget,
    repeat: int,
    chance: random.Random,
    limits: Limits | None = None,
) -> list[Checked]:
    """All checks, told to `report` as they are made.  Never raises for what a server does."""
    made: list[Checked] = []
    report.opening(budget)
    async with http_client() as client:
        ward = _Ward(settings, client, budget, repeat, chance, limits or Limits())
        async with aclosing(ward.rounds(report)) as rounds:
            async for one in rounds:
                made.append(one)
                report.checked(one)
    report.closing(made, budget)
    return made


class _Ward:
    def __init__(
        self,
        settings: Settings,
        client: httpx.AsyncClient,
        budget: Budget,
        repeat: int,
        chance: random.Random,
        limits: Limits,
    ) -> None:
        self._settings = settings
        self._client = client
        self._budget = budget
        self._repeat = repeat
        self._chance = chance
        self._limits = limits

    async def rounds(self, report: Report) -> AsyncGenerator[Checked]:
        settings = self._settings
        brain_of: list[Brain] = []
        works: list[Verdict] = []
        sees: list[Verdict] = []
        for number, text in enumerate(settings.text, 1):
            brain = self._brain(number, text)
            brain_of.append(brain)
            async for one in _of(report, brain, brains.CHECKS):
                if one.check == "answers":
                    works.append(one.verdict)
                elif one.check == "tools" and one.verdict.level == "fail":
                    works[-1] = one.verdict
                yield one
            if text.images == "native":
                async for one in _of(report, self._own_eyes(number, text), eyes.CHECKS):
                    yield one
        for number, vision in enumerate(settings.vision, 1):
            async for one in self._eyes(report, number, vision):
                if one.check == "reads a small card":
                    sees.append(one.verdict)
                yield one
        for text, brain, verdict in zip(settings.text, brain_of, works, strict=True):
            if text.images == "off":
                continue
            wanted = settings.eyes_for(text)
            known = {path.BRAIN: verdict, path.EYES: ok("its own")}
            if wanted is not None and text.images != "native":
                known[path.EYES] = sees[settings.vision.index(wanted)]
            async for one in self._whole_path(report, text, brain, known):
                yield one

    async def _whole_path(
        self, report: Report, text: TextSettings, brain: Brain, known: Mapping[str, Verdict]
    ) -> AsyncGenerator[Checked]:
        if not all(verdict.usable for verdict in known.values()):
            async for one in _of(report, self._path(text, brain, "", ""), path.CHECKS, known):
                yield one
            return
        async with some_chiasm(self._settings, text, self._client) as (url, where):
            async for one in _of(report, self._path(text, brain, url, where), path.CHECKS, known):
                yield one

    def _brain(self, number: int, text: TextSettings) -> Brain:
        # What looks fill concerns a brain whose images are forgotten by their tokens.
        loaded = 0 if text.images == "off" else self._settings.images.max_loaded_tokens
        return Brain(
            text,
            title=f"brain {text.name or 'first model'} at {text.base_url}",
            place=_place("text", number),
            probe=self._probe(text, first_event=min(self._limits.first_event, text.first_byte_seconds)),
            chance=self._chance,
            repeat=self._repeat,
            max_loaded_tokens=loaded,
        )

    def _own_eyes(self, number: int, text: TextSettings) -> Eyes:
        return Eyes(
            text,
            title=f"eyes of brain {text.name or 'first model'} itself",
            place=_place("text", number),
            probe=self._probe(text),
            chance=self._chance,
            profile=profile_of("qwen" if text.engine in ("auto", "vllm", "sglang", "llamacpp") else "openai"),
            thinking=False,
            timeout_seconds=text.first_byte_seconds,
        )

    async def _eyes(self, report: Report, number: int, vision: VisionSettings) -> AsyncGenerator[Checked]:
        place = _place("vision", number)
        if vision.kind == "ocr":
            backend = open_eyes("ocr", name=vision.name or "ocr", timeout_seconds=vision.timeout_seconds)
            title = f"eyes {vision.name} in this process"
            try:
                subject = Embedded(backend, title=title, place=place, chance=self._chance)
                async for one in _of(report, subject, embedded.CHECKS):
                    yield one
            finally:
                await backend.close()
            return
        subject_eyes = Eyes(
            vision,
            title=f"eyes {vision.name or 'first model'} at {vision.base_url}",
            place=place,
            probe=self._probe(vision, first_event=min(self._limits.first_event, vision.timeout_seconds)),
            chance=self._chance,
            profile=profile_of(vision.kind, eyes_switch(vision.engine, vision.base_url, vision.kind)),
            thinking=vision.thinking,
            timeout_seconds=vision.timeout_seconds,
        )
        async for one in _of(report, subject_eyes, eyes.CHECKS):
            yield one

    def _path(self, text: TextSettings, brain: Brain, url: str, where: str) -> Path:
        probe = Probe(
            self._client,
            base_url=url,
            api_key=path.first_key(self._settings),
            budget=self._budget,
            limits=self._limits,
            secrets=self._secrets(),
        )
        name = text.name or brain.facts.model
        return Path(
            title=f"whole path, brain {name or 'first model'}",
            where=where,
            probe=probe,
            facts=replace(brain.facts, model=name),
            chance=self._chance,
            sees=text.images == "native",
        )

    def _probe(self, server: UpstreamSettings, *, first_event: float | None = None) -> Probe:
        limits = self._limits if first_event is None else replace(self._limits, first_event=first_event)
        return Probe(
            self._client,
            base_url=server.base_url,
            api_key=server.api_key.get_secret_value(),
            budget=self._budget,
            limits=limits,
            secrets=self._secrets(),
        )

    def _secrets(self) -> tuple[str, ...]:
        """Every key there is: a gateway may repeat any of them."""
        servers: Sequence[UpstreamSettings] = (*self._settings.text, *self._settings.vision)
        keys = [*(one.api_key for one in servers), *self._settings.server.api_keys, self._settings.server.admin_key]
        return tuple(key.get_secret_value() for key in keys)


async def _of(
    report: Report, subject: Subject, checks: Sequence[Check[Any, Any]], known: Mapping[str, Verdict] | None = None
) -> AsyncGenerator[Checked]:
    report.subject(subject.title)
    async for one in examined(subject, checks, time.monotonic, known or {}):
        yield one


def _place(table: str, number: int) -> str:
    return f"[[{table}]] #{number}"
