"""Healthy servers for `chiasm doctor`, and ways to make them ill.

    async with WellBrain() as brain, WellEyes(cards) as eyes:
        brain.ill(calls, says(Calls("analyzeImage", '"image": "1"}')))      # instead of a whole call
        made = await checkup(brain)                                         # {name of the check: verdict}

The brain answers by rules to whatever the checks ask.  The eyes cannot see: they know every card that was drawn while
`drawn` watched, by its pixels.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import orjson
import pytest
from PIL import Image

from router.config import Settings, TextSettings, VisionSettings
from router.doctor import brain as brain_checks
from router.doctor import card as cards_module
from router.doctor import eyes as eyes_checks
from router.doctor.brain import Brain as BrainSubject
from router.doctor.budget import Budget
from router.doctor.card import Card
from router.doctor.check import Check, Checked, Subject, examined
from router.doctor.eyes import Eyes as EyesSubject
from router.doctor.probe import Limits, Probe
from router.doctor.run import examine
from router.doctor.verdict import Verdict
from router.http_client import http_client
from tests.brain import Asked, Brain, Calls, Finishes, Script, Sends, Thinks, Waits, Wire, event, looks, says, whole
from tests.eyes import Eyes, sees
from tools.vision.open import profile_of

SHORT: Final = Limits(page=2.0, first_event=3.0, silence=2.0, whole=20.0)
"""Seconds for servers that never answer."""

PATIENT: Final = Limits(page=20.0, first_event=40.0, silence=40.0, whole=60.0)
"""For a Chiasm that has to start, on a machine that is busy."""

BUDGET: Final = 60_000
VLLM: Final = {"id": "brain-7b", "object": "model", "owned_by": "vllm", "max_model_len": 131_072}
KEY: Final = "sk-hunter2-correct-horse"


# What a request asks for


def counts(asked: Asked) -> bool:
    return "Count from one" in _last(asked)


def calls(asked: Asked) -> bool:
    """One look is wanted, of a brain that does not think, and no other tool is there."""
    return asked.tools == ["analyzeImage"] and "[Image #1]" in _last(asked) and "#2]" not in _last(asked)


def streamed_calls(asked: Asked) -> bool:
    return calls(asked) and bool(asked.json.get("stream"))


def calls_beside(asked: Asked) -> bool:
    return asked.tools == ["Read", "analyzeImage"]


def calls_two(asked: Asked) -> bool:
    return "[Image #2]" in _last(asked)


def forces(asked: Asked) -> bool:
    return bool("tool_choice" in asked.json)


def thinks(asked: Asked) -> bool:
    return bool(asked.json.get("chat_template_kwargs", {}).get("enable_thinking", True))


def sums(asked: Asked) -> bool:
    return "17 + 25" in _last(asked)


def has_result(asked: Asked) -> bool:
    return bool(asked.messages[-1]["role"] == "tool")


def several_systems(asked: Asked) -> bool:
    return len([message for message in asked.messages if message["role"] == "system"]) > 1


def long(asked: Asked) -> bool:
    return "night watch" in _last(asked)


def _last(asked: Asked) -> str:
    content = asked.messages[-1]["content"]
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return str(content)


Ill = Callable[[Asked], bool]


class WellBrain(Brain):
    """Answers as a good model on a good server does, but where it was made `ill`."""

    def __init__(self, row: Mapping[str, Any] = VLLM, version: str = "0.33.0") -> None:
        super().__init__()
        self.models = whole({"object": "list", "data": [row]})
        self.version = version
        self.answers = self._script
        self._ills: list[tuple[Ill, Script]] = []
        self.tokens_counted = 0

    def ill(self, where: Ill, script: Script) -> None:
        self._ills.append((where, script))

    async def answer(self, asked: Asked, wire: Wire) -> None:
        if asked.path == "/version":
            await whole({"version": self.version})(asked, wire)
        else:
            await super().answer(asked, wire)

    def _script(self, asked: Asked) -> Script:
        for where, script in self._ills:
            if where(asked):
                return script
        return self.well(asked)

    def well(self, asked: Asked) -> Script:
        thoughts = [Thinks("Let me see.")] if thinks(asked) else []
        if counts(asked):
            pieces = [piece for number in range(30) for piece in (f"{number} ", Waits(0.003))]
            return says(*thoughts, *pieces, usage=(30, 40))
        if long(asked):
            seen = sum(earlier.body == asked.body for earlier in self.asked)
            details = {"cached_tokens": 2000 if seen > 1 else 0}
            usage = {
                "prompt_tokens": 2010,
                "completion_tokens": 2,
                "total_tokens": 2012,
                "prompt_tokens_details": details,
            }
            last = event({"id": "chatcmpl-long", "object": "chat.completion.chunk", "choices": [], "usage": usage})
            return says("The gate's.", Finishes("stop"), Sends(last), usage=None)
        if forces(asked):
            return says(Calls("Read", '{"file_path": "notes.txt"}'))
        if has_result(asked) and (told := " ".join(_last_results(asked))):
            return says(*thoughts, f"It says {told}.")
        if "Read the file" not in _last(asked) and not asked.tools:
            return says(*thoughts, "It is 42, as ever.")
        numbers = list(dict.fromkeys(re.findall(r"\[Image #(\d+)\]", _all_words(asked))))
        wanted = [looks(number, "What is the code word?") for number in numbers]
        if "read the file" in _last(asked):
            wanted.append(Calls("Read", '{"file_path": "notes.txt"}'))
        return says(*thoughts, *wanted)


def _last_results(asked: Asked) -> Iterator[str]:
    for message in reversed(asked.messages):
        if message["role"] != "tool":
            return
        if str(message["content"]).startswith(">"):
            yield from re.findall(r"\b[A-Z]{4,5}\b", str(message["content"]))


def _all_words(asked: Asked) -> str:
    return orjson.dumps(asked.messages).decode()


# Eyes


class Cards:
    """Every card that was drawn, by its pixels."""

    def __init__(self) -> None:
        self._known: dict[str, Card] = {}

    def note(self, card: Card) -> None:
        self._known[_pixels(card.data)] = card

    def find(self, data: bytes) -> Card:
        return self._known[_pixels(data)]


def _pixels(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
        return hashlib.sha256(repr(rgb.size).encode() + rgb.tobytes()).hexdigest()


@contextmanager
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cards]:
    cards, draw = Cards(), cards_module._drawn

    def noted(*args: Any, **fields: Any) -> Card:
        card = draw(*args, **fields)
        cards.note(card)
        return card

    with monkeypatch.context() as patch:
        patch.setattr(cards_module, "_drawn", noted)
        yield cards


class WellEyes(Eyes):
    def __init__(self, cards: Cards) -> None:
        super().__init__()
        self._cards = cards
        self._ills: list[tuple[Ill, Script]] = []
        self.answers = self._script
        row = {"id": "eyes-2b", "object": "model", "owned_by": "vllm", "max_model_len": 32_768}
        self.models = whole({"object": "list", "data": [row]})

    def ill(self, where: Ill, script: Script) -> None:
        self._ills.append((where, script))

    async def answer(self, asked: Asked, wire: Wire) -> None:
        if asked.path == "/version":
            await whole({"version": "0.33.0"})(asked, wire)
        else:
            await super().answer(asked, wire)

    def _script(self, asked: Asked) -> Script:
        for where, script in self._ills:
            if where(asked):
                return script
        return self.well(asked)

    def well(self, asked: Asked) -> Script:
        found = [self._cards.find(picture) for picture in pictures(asked)]
        tokens = 60 + sum(max(64, card.width * card.height // 1024) for card in found)
        return sees(_seen(_last(asked), found), usage=(tokens, 4))

    def word(self, asked: Asked) -> str:
        """What a healthy one would say."""
        return _seen(_last(asked), [self._cards.find(picture) for picture in pictures(asked)])


def _seen(task: str, found: list[Card]) -> str:
    if "How many" in task:
        return str(len(found))
    if "colour" in task:
        return found[0].background
    return found[0].words[-1] if "bottom" in task else found[0].words[0]


def pictures(asked: Asked) -> list[bytes]:
    urls = [part["image_url"]["url"] for part in asked.messages[-1]["content"] if part["type"] == "image_url"]
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


def pictures_of(count: int) -> Ill:
    return lambda asked: len(pictures(asked)) == count


def is_large(asked: Asked) -> bool:
    with Image.open(io.BytesIO(pictures(asked)[0])) as image:
        return image.width > 1000


def anything(asked: Asked) -> bool:
    return True


# At the doctor's


class Quiet:
    """A report that says nothing."""

    def opening(self, budget: Budget) -> None: ...

    def subject(self, title: str) -> None: ...

    def checked(self, one: Checked) -> None: ...

    def closing(self, made: Any, budget: Budget) -> None: ...


async def checkup(
    brain: WellBrain, *, budget: Budget | None = None, repeat: int = 2, url: str = "", **text: Any
) -> dict[str, Verdict]:
    """Every check of a brain."""
    settings = TextSettings(base_url=url or brain.url, **text)
    async with http_client() as client:
        subject = BrainSubject(
            settings,
            title="brain",
            place="[[text]] #1",
            probe=_probe(client, settings, budget),
            chance=random.Random(7),
            repeat=repeat,
            max_loaded_tokens=60_000,
        )
        return await _all(subject, brain_checks.CHECKS)


async def eye_test(eyes: WellEyes, *, budget: Budget | None = None, **vision: Any) -> dict[str, Verdict]:
    """Every check of eyes."""
    settings = VisionSettings(base_url=eyes.url, **vision)
    async with http_client() as client:
        subject = EyesSubject(
            settings,
            title="eyes",
            place="[[vision]] #1",
            probe=_probe(client, settings, budget),
            chance=random.Random(7),
            profile=profile_of("qwen" if settings.kind == "qwen" else "openai"),
            thinking=settings.thinking,
            timeout_seconds=settings.timeout_seconds,
        )
        return await _all(subject, eyes_checks.CHECKS)


def _probe(client: Any, settings: TextSettings | VisionSettings, budget: Budget | None) -> Probe:
    key = settings.api_key.get_secret_value()
    return Probe(client, base_url=settings.base_url, api_key=key, budget=budget or Budget(BUDGET), limits=SHORT)


async def _all(subject: Subject, checks: tuple[Check[Any, Any], ...]) -> dict[str, Verdict]:
    async with asyncio.timeout(60):
        return {one.check: one.verdict async for one in examined(subject, checks, time.monotonic, {})}


async def whole_visit(settings: Settings, *, budget: Budget | None = None, repeat: int = 2) -> list[Checked]:
    """Brain, eyes and path."""
    async with asyncio.timeout(60):
        return await examine(
            settings,
            Quiet(),
            budget=budget or Budget(BUDGET),
            repeat=repeat,
            chance=random.Random(7),
            limits=PATIENT,
        )
