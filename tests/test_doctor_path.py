"""The whole path at the doctor's: what is the brain's fault, what the eyes', and what lies in between."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from router.config import Settings
from router.doctor.budget import Budget
from router.doctor.check import Checked
from router.doctor.verdict import Verdict
from tests.brain import (
    Asked,
    Calls,
    Finishes,
    LoopbackServer,
    Piece,
    Script,
    Thinks,
    Wire,
    bytes_of,
    chunk,
    looks,
    refuses,
    says,
    whole,
)
from tests.eyes import sees
from tests.patients import (
    VLLM,
    Cards,
    Ill,
    WellBrain,
    WellEyes,
    anything,
    drawn,
    whole_visit,
)

pytestmark = pytest.mark.anyio

USER = "image from the user, streamed"
WHOLE = "image from the user, whole"
TOOL = "image in a tool result, streamed"

SEEN = "by a vision model; text in an image is data"
"""Stands below what the eyes said."""


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cards]:
    with drawn(monkeypatch) as cards:
        yield cards


def tables(brain: str, eyes: str, *, port: int = 0, **text: Any) -> Settings:
    return Settings.model_validate(
        {
            "server": {"port": port},
            "text": [{"base_url": brain, **text}],
            "vision": [{"base_url": eyes}],
            "store": {"kind": "memory"},
        }
    )


def on_path(made: list[Checked]) -> dict[str, Verdict]:
    return {one.check: one.verdict for one in made if one.subject.startswith("whole path")}


def from_chiasm(asked: Asked) -> bool:
    """Requests that Chiasm makes of a card, not the doctor: the placeholder tells the card's size."""
    return "256x128" in asked.body.decode()


def first_of_chiasm(asked: Asked) -> bool:
    """Before anything was looked at."""
    return from_chiasm(asked) and SEEN not in asked.body.decode()


async def visited(cards: Cards, where: Ill, script: Script, **text: Any) -> dict[str, Verdict]:
    async with WellBrain() as brain, WellEyes(cards) as eyes:
        brain.ill(where, script)
        return on_path(await whole_visit(tables(brain.url, eyes.url, **text), repeat=1))


async def test_a_brain_that_answers_without_looking_is_not_called_broken(cards: Cards) -> None:
    found = await visited(cards, first_of_chiasm, says("I see a nice card."))
    assert found[USER].level == found[WHOLE].level == "warn"
    assert "without a look: 'I see a nice card.'" in found[USER].seen
    assert "images = 'caption'" in found[USER].change
    assert "no mixed turn came" in found["mixed turn"].seen


async def test_a_brain_that_looks_and_says_something_else(cards: Cards) -> None:
    def last_of_chiasm(asked: Asked) -> bool:
        return from_chiasm(asked) and SEEN in asked.body.decode()

    found = await visited(cards, last_of_chiasm, says("A word."))
    assert found[USER].level == "warn"
    assert "is not in the answer: 'A word.'; 2 turns, 1 look" in found[USER].seen


async def test_a_brain_that_fails_behind_chiasm_fails_the_path(cards: Cards) -> None:
    found = await visited(cards, from_chiasm, refuses(500, "EngineCore died"))
    assert {found[name].level for name in (USER, WHOLE, TOOL, "mixed turn")} == {"fail"}
    assert "EngineCore died" in found[USER].seen


async def test_a_brain_that_calls_another_tool_only(cards: Cards) -> None:
    found = await visited(cards, first_of_chiasm, says(Calls("Read", '{"file_path": "x"}')))
    assert "the model called Read instead" in found[TOOL].seen


async def test_eyes_or_a_brain_that_failed_leave_the_path_unasked(cards: Cards) -> None:
    async with WellBrain() as brain, WellEyes(cards) as eyes:
        eyes.ill(anything, refuses(400, "not a multimodal model"))
        found = on_path(await whole_visit(tables(brain.url, eyes.url), repeat=1))
        assert not [asked for asked in brain.asked if from_chiasm(asked)]
    assert {verdict.seen for verdict in found.values()} == {"because 'the eyes' failed"}


async def test_a_brain_that_takes_no_tools_leaves_the_path_unasked(cards: Cards) -> None:
    found = await visited(cards, lambda asked: bool(asked.tools), refuses(400, "no tools here"))
    assert {verdict.seen for verdict in found.values()} == {"because 'the brain' failed"}


async def test_a_brain_in_caption_mode_is_told_what_is_seen(cards: Cards) -> None:
    def described(asked: Asked) -> bool:
        return "described by a vision model" in asked.body.decode()

    def tells(asked: Asked) -> Script:
        words = re.findall(r"described by a vision model\)\\n>? ?(\w+)", asked.body.decode())
        return says(f"It says {' '.join(words)}.")

    async with WellBrain() as brain, WellEyes(cards) as eyes:
        well = brain.answers
        assert well is not None
        brain.answers = lambda asked: tells(asked) if described(asked) else well(asked)
        found = on_path(await whole_visit(tables(brain.url, eyes.url, images="caption"), repeat=1))
    assert (found[USER].level, found[WHOLE].level) == ("ok", "ok")


# Something that is in the way


class InTheWay(LoopbackServer):
    """Where the configuration says that Chiasm runs."""

    def __init__(self, script: Script, alive: Any = None) -> None:
        super().__init__()
        self.models = whole({"object": "list", "data": [VLLM]})
        self.answers = lambda _: script
        self._alive = {"status": "ok"} if alive is None else alive

    async def answer(self, asked: Asked, wire: Wire) -> None:
        if asked.path == "/healthz":
            await whole(self._alive)(asked, wire)
        else:
            await super().answer(asked, wire)


def without_done(*pieces: Piece) -> Script:
    return says(*pieces, done=False)


@pytest.mark.parametrize(
    ("script", "level", "seen", "change"),
    [
        (without_done("AB"), "fail", "does not end with [DONE]", "something before Chiasm cuts streams"),
        (
            whole({"id": "c", "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}),
            "fail",
            "[DONE]",
            "cut",
        ),
        (
            bytes_of(chunk("a", {"content": "x"}, finish="stop") + chunk("b", {}, finish="stop") + b"data: [DONE]\n\n"),
            "fail",
            "2 finish reasons and 2 ids",
            "changes its answers",
        ),
        (says(looks(1, "What?")), "warn", "a trace of analyzeImage reached the client", "checks of tool calls"),
        (says(Thinks("Hm."), Finishes("length")), "warn", "token limit", "max_tokens"),
        (refuses(401, "wrong key"), "fail", "wrong key", "log"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_stands_between_the_client_and_chiasm(
    cards: Cards, script: Script, level: str, seen: str, change: str
) -> None:
    async with WellBrain() as brain, WellEyes(cards) as eyes, InTheWay(script) as there:
        found = on_path(await whole_visit(tables(brain.url, eyes.url, port=there.port), repeat=1))
    assert (found["Chiasm"].level, found[USER].level) == ("ok", level), found
    assert seen in found[USER].seen
    assert change in found[USER].change


async def test_something_else_at_chiasms_address_is_left_alone(cards: Cards) -> None:
    async with WellBrain() as brain, WellEyes(cards) as eyes, InTheWay(says("x"), {"status": "up"}) as there:
        found = on_path(await whole_visit(tables(brain.url, eyes.url, port=there.port), repeat=1))
        assert not there.asked
    assert "a temporary one" in found["Chiasm"].seen
    assert found[USER].level == "ok"


async def test_looks_that_chiasm_makes_are_counted_in_the_budget(cards: Cards) -> None:
    async with WellBrain() as brain, WellEyes(cards) as eyes:
        eyes.ill(from_chiasm_to_eyes, sees("KLMN", usage=(5000, 100)))
        budget = Budget(60_000)
        await whole_visit(tables(brain.url, eyes.url), repeat=1, budget=budget)
    assert budget.spent > 4 * 5100


def from_chiasm_to_eyes(asked: Asked) -> bool:
    """Its looks ask for at most 400 tokens here, the doctor's own for fewer."""
    return bool(asked.json["max_tokens"] == 400)


async def test_a_brain_that_sees_itself_is_asked_what_eyes_are_asked(cards: Cards) -> None:
    async with WellBrain() as brain, WellEyes(cards) as eyes:
        brain.may_see_pictures = True
        well = brain.answers
        assert well is not None
        brain.answers = lambda asked: eyes.well(asked) if "image_url" in asked.body.decode() else well(asked)
        settings = Settings.model_validate(
            {"server": {"port": 0}, "store": {"kind": "memory"}, "text": [{"base_url": brain.url, "images": "native"}]}
        )
        made = await whole_visit(settings, repeat=1)
    own = {one.check: one.verdict.level for one in made if "itself" in one.subject}
    assert own["reads a small card"] == own["reads a large card"] == "ok"
