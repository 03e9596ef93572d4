"""aider: pictures among the files of the chat, which it sends again with every question.  It calls no tools."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import pytest

from tests.brain import Fails, Thinks, looks, says
from tests.clients.roster import BY_NAME
from tests.clients.stage import KEY, Ran, Stage
from tests.live import picture

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.client("aider")]

OnStage = Callable[..., AbstractAsyncContextManager[Stage]]

AIDER: Final = BY_NAME["aider"].folder / "bin" / "aider"

OPTIONS: Final = (
    "--no-check-update --analytics-disable --yes-always --no-git --map-tokens 0 --no-pretty --no-show-release-notes"
)


async def aider(stage: Stage) -> Ran:
    (stage.home / "cat.png").write_bytes(picture())
    # As a user does with what is printed: into a shell, and then the program.
    command = f"{stage.printed('aider')}\nexec {AIDER} {OPTIONS} --message 'What is this?' cat.png\n"
    return await stage.run(["sh", "-c", command], LITELLM_LOCAL_MODEL_COST_MAP="True")


async def test_a_picture_that_is_looked_at_between_words(on_stage: OnStage) -> None:
    async with on_stage(server={"api_keys": [KEY], "late_reasoning": "drop"}) as stage:
        stage.house.brain.will(
            says(Thinks("A picture."), "Let me ", "look.", looks(1, "What?"), looks(1, "What colour?")),
            says(Thinks("A cat, then."), "It is a ", "cat.", usage=(150, 7)),
        )
        ran = await aider(stage)
        assert ran.code == 0, ran
        assert "Let me look.\n\nIt is a cat." in ran.out
        assert "A cat, then." not in ran.out
        assert len(stage.house.eyes.looks) == 2


async def test_thoughts_that_come_after_words_stand_among_them(on_stage: OnStage) -> None:
    """Which is why it wants `late_reasoning = "drop"`: it looks for changes to files in its answers."""
    async with on_stage() as stage:
        stage.house.brain.will(says("Let me look.", looks(1, "What?")), says(Thinks("A cat, then."), "It is a cat."))
        ran = await aider(stage)
        assert ran.code == 0, ran
        assert "A cat, then." in ran.out


async def test_an_error_in_the_middle_of_an_answer_is_shown_and_it_asks_again(on_stage: OnStage) -> None:
    async with on_stage() as stage:
        stage.house.brain.will(says("Hello", Fails("card has left")), says("Hello there."))
        ran = await aider(stage)
        assert ran.code == 0, ran
        assert "card has left" in " ".join(ran.out.split())
        assert "Hello there." in ran.out
