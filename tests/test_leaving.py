"""Who goes in the middle of an answer, in every phase of it and every wire format: the client, or the service.

A client that goes, by whatever way, takes brain and eyes with it, and nobody else is asked for it.  A service that is
killed never ends an answer as if it were whole; one that is told to end says so where the answer cannot wait.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import orjson
import pytest

from tests.brain import Asked, Begins, Brain, Finishes, Hangs, Script, hangs, looks, says
from tests.eyes import Eyes, sees
from tests.live import (
    Footprint,
    Line,
    Options,
    ServiceProcess,
    becomes,
    live,
    picture,
    post,
    service_process,
    shown,
    soon,
    user,
)
from tests.speakers import SPEAKERS
from tests.speakers.speaker import Speaker

pytestmark = [pytest.mark.anyio, pytest.mark.live]

HANG_UP_SECONDS: Final = 5.0
"""Well before a heartbeat would find out."""

LOOKING: Final = "at the eyes"
FINISHED: Final = "behind the finish reason"

PHASES: Final[dict[str, tuple[Script, ...]]] = {
    "before the headers": (hangs,),
    "before the first event": (says(Hangs()),),
    "in the text": (says("Hello", Hangs()),),
    "in a call": (says("Hello", Begins("analyzeImage", '{"ima', "c9"), Hangs()),),
    LOOKING: (),
    "before the headers of a follow-up": (hangs,),
    "before the first event of a follow-up": (says(Hangs()),),
    "in the text of a follow-up": (says("World", Hangs()),),
    FINISHED: (says("Hello", Finishes("stop"), Hangs()),),
}
"""What the brain says last, if it is asked."""

AFTER_A_LOOK: Final = {LOOKING, *(phase for phase in PHASES if phase.endswith("follow-up"))}
SILENT: Final = {"before the headers", "before the first event"}
"""Nothing of the answer has come."""


class Scene:
    """Brain and eyes stop in the phase that the question names."""

    def __init__(self, brain: Brain, eyes: Eyes) -> None:
        self.came: Counter[str] = Counter()
        """Who was asked in the phase that is meant, by question."""
        self.asked: dict[str, Asked] = {}
        """The request in that phase."""
        brain.answers, eyes.answers = self._brain, self._eyes

    def _brain(self, asked: Asked) -> Script:
        first = asked.messages[0]["content"]
        if isinstance(first, str):
            return says("Hello there.")
        question = first[0]["text"]
        phase, _, _ = question.partition(", ")
        if phase in AFTER_A_LOOK and asked.messages[-1]["role"] != "tool":
            return says("Hello", looks(1, question))
        self._note(question, asked)
        return PHASES[phase][0]

    def _eyes(self, asked: Asked) -> Script:
        found = re.search(rf"({LOOKING}, \w+)", str(asked.messages))
        if found is None:
            return sees("A cat.")
        self._note(found[1], asked)
        return hangs

    def _note(self, question: str, asked: Asked) -> None:
        self.came[question] += 1
        self.asked[question] = asked

    async def reached(self, line: Line, question: str) -> None:
        """Until the answer stands in that phase."""
        phase, _, _ = question.partition(", ")
        await becomes(lambda: question in self.asked)
        if phase not in SILENT:
            await line.until(b"World" if phase == "in the text of a follow-up" else b"Hello")


def request(speaker: Speaker, question: str) -> bytes:
    body = {"messages": [user(question, shown(picture(1)))], "stream": True}
    headers = {"x-chiasm-conversation": question}
    return post(orjson.dumps(speaker.request(body)), path=speaker.path, headers=headers)


# The client


@pytest.mark.usefixtures("speaker", "brief_connections")
@pytest.mark.parametrize("way", ["close", "reset", "half"])
async def test_a_client_that_goes_in_any_phase_takes_brain_and_eyes_with_it(way: str) -> None:
    async with live() as house:
        scene = Scene(house.brain, house.eyes)
        assert (await house.chat(user("Hi."), stream=True)).text == "Hello there."
        await becomes(lambda: not house.brain.open_connections)
        before = Footprint.now()
        for phase in PHASES:
            question = f"{phase}, {way}"
            async with Line(house.port, request(house.speaker, question)) as line:
                await scene.reached(line, question)
                if way == "reset":
                    line.reset()
                elif way == "half":
                    line.close_writing()
                else:
                    await line.hang_up()
                await soon(scene.asked[question].gone.wait(), HANG_UP_SECONDS)
        assert set(scene.came.values()) == {1}, "somebody was asked for one who is gone"
        assert (await house.chat(user("Hi."), stream=True)).text == "Hello there."
        await before.returns()


# The service


@asynccontextmanager
async def an_answer_in_each_phase(folder: Path) -> AsyncIterator[tuple[ServiceProcess, dict[str, Line]]]:
    """Of a service of its own, in every format; by question."""
    async with Brain() as brain, Eyes() as eyes:
        tables = Options(server={"drain_seconds": 1}).tables(brain.url, eyes.url)
        async with service_process(folder, tables) as service, AsyncExitStack() as stack:
            scene = Scene(brain, eyes)
            lines: dict[str, Line] = {}
            for phase in PHASES:
                for speaker in SPEAKERS.values():
                    question = f"{phase}, {speaker.name}"
                    lines[question] = Line(service.port, request(speaker, question))
                    await stack.enter_async_context(lines[question])
                    await scene.reached(lines[question], question)
            yield service, lines


async def test_a_service_that_is_killed_in_any_phase_ends_no_answer_as_if_it_were_whole(tmp_path: Path) -> None:
    async with an_answer_in_each_phase(tmp_path) as (service, lines):
        service.process.kill()
        for question, line in lines.items():
            with pytest.raises((EOFError, ConnectionError)):
                await line.rest()
            said = bytes(line.raw)
            assert b"[DONE]" not in said, question
            assert b"message_stop" not in said, question
            assert b"response.completed" not in said, question


async def test_a_service_that_is_told_to_end_says_so_in_every_phase(tmp_path: Path) -> None:
    async with an_answer_in_each_phase(tmp_path) as (service, lines):
        service.terminate()
        for question, line in lines.items():
            phase, _, _ = question.partition(", ")
            if phase == FINISHED:  # it waits for what else the brain may say, here longer than it may
                continue
            got = await line.rest()
            if phase in SILENT:
                assert (got.status, got.error["code"]) == (503, "server_shutdown"), question
                continue
            answer = got.speaker.read_stream(got.body)
            assert answer.text == ("Hello\n\nWorld" if phase == "in the text of a follow-up" else "Hello"), question
            assert (answer.finish, answer.calls) == (None, []), question
            assert answer.error is not None, question
            assert answer.error["code"] == "server_shutdown", question
        await service.ended()
        assert "Traceback" not in service.log.read_text()
