"""The checks of eyes, and how each is asked: as `tools.vision.openai` asks, pictures first and the task last."""

from __future__ import annotations

import random
from typing import Any

from router.config import UpstreamSettings
from router.doctor import judge_eyes, judge_server
from router.doctor.card import Card, large, layout, small, tiny
from router.doctor.check import Check
from router.doctor.heard import Heard, Page
from router.doctor.judge_eyes import Read, Silent, Taken, Timed
from router.doctor.judge_server import Room
from router.doctor.probe import Probe
from router.doctor.server import Server
from tools.vision.openai import EyesProfile
from tools.vision.question import SYSTEM

_LOOK_TOKENS = 128
"""Enough for a word, and for seeing that thoughts come first."""

_ALLOWED_TOKENS = 8192
"""A screen in full takes 4096, and an answer 2048."""

_MOST_PICTURES = 8
"""As many as one look may compare."""

WORD = "What is the code word?"


class Eyes(Server):
    """Eyes, or a brain that is shown pictures itself (`images = "native"`) and asked what eyes are asked."""

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        title: str,
        place: str,
        probe: Probe,
        chance: random.Random,
        profile: EyesProfile,
        thinking: bool,
        timeout_seconds: float,
    ) -> None:
        super().__init__(settings, title=title, place=place, probe=probe, chance=chance)
        self.fields = profile.fields(thinking=thinking)
        self.may_think = thinking
        self.timeout_seconds = timeout_seconds
        self.room = Room(_ALLOWED_TOKENS)
        self.first_card = small(chance)

    async def look(self, task: str, *cards: Card, **fields: Any) -> Heard:
        parts = [*(card.part for card in cards), {"type": "text", "text": f"Task: {task}"}]
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": parts}]
        request = {"model": self.facts.model, "messages": messages, "stream": False, **self.fields, **fields}
        request["max_tokens"] = _LOOK_TOKENS * (8 if self.may_think else 1)
        return await self.probe.chat(request, pictures=sum(card.tokens for card in cards))

    async def first_look(self) -> Heard:
        return await self.look(WORD, self.first_card)


async def _hello(eyes: Eyes) -> Heard | None:
    return await eyes.first_completion(eyes.first_look)


async def _listing_and_hello(eyes: Eyes) -> tuple[Page, Heard | None]:
    return eyes.listing, await _hello(eyes)


async def _ids_and_hello(eyes: Eyes) -> tuple[list[str], Heard | None]:
    return eyes.ids, await _hello(eyes)


async def _room(eyes: Eyes) -> Room:
    return eyes.room


async def _first(eyes: Eyes) -> Read:
    heard = await _hello(eyes)
    assert heard is not None, "the check of the model has passed"
    return Read(heard, eyes.first_card)


async def _places(eyes: Eyes) -> tuple[Read, Read]:
    card = layout(eyes.chance)
    words = await eyes.look("What is the word at the bottom?", card)
    return Read(words, card), Read(await eyes.look("What is the background colour?", card), card)


async def _large(eyes: Eyes) -> Read:
    card = large(eyes.chance)
    return Read(await eyes.look(WORD, card), card)


async def _limits(eyes: Eyes) -> Taken:
    cards = [tiny(eyes.chance) for _ in range(_MOST_PICTURES)]
    several = await eyes.look("How many pictures are there?", *cards)
    kwargs = await eyes.look("Which colour is it?", cards[0], mm_processor_kwargs={"max_pixels": 1024 * 1024})
    return Taken(several, len(cards), kwargs)


async def _silent(eyes: Eyes) -> Silent:
    return Silent((await _first(eyes)).heard, eyes.may_think)


async def _timed(eyes: Eyes) -> Timed:
    # The first look may have found a model that was still being loaded.
    heard = await eyes.look(WORD, small(eyes.chance))
    return Timed(heard.seconds, eyes.timeout_seconds)


LOOKS: tuple[Check[Eyes, Any], ...] = (
    Check("reads a small card", _first, judge_eyes.small, ("model",)),
    Check("thinking off", _silent, judge_eyes.thinking, ("reads a small card",)),
    Check("places and colours", _places, judge_eyes.places, ("reads a small card",)),
    Check("reads a large card", _large, judge_eyes.large, ("reads a small card",)),
    Check("limits", _limits, judge_eyes.limits, ("reads a small card",)),
    Check("latency", _timed, judge_eyes.latency, ("reads a small card",)),
)

CHECKS: tuple[Check[Eyes, Any], ...] = (
    Check("reachable", Eyes.ask_for_models, judge_server.reachable),
    Check("key", _listing_and_hello, lambda facts, e: judge_server.key(facts, *e), ("reachable",)),
    Check("model", _ids_and_hello, lambda facts, e: judge_server.model(facts, *e), ("key",)),
    Check("context length", _room, judge_server.context, ("model",)),
    *LOOKS,
)
