"""What the log says of a service that runs: one line for each exchange, and the request's id on every line."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.intake.conversation import key_of
from router.log_lines import FORMATTERS, REQUEST_ID, Fields, JsonLines, LogLines
from tests.brain import Brain, Hangs, looks, refuses, says
from tests.eyes import Eyes, sees
from tests.live import DEADLINE, Options, becomes, live, picture, service_process, shown, user
from tests.speakers.speaker import Speaker

pytestmark = [pytest.mark.anyio]

CAT = picture(1)
MARK = "Kumquat"


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """Our own lines, as a service with `log_format = "json"` writes them."""
    heard: list[dict[str, Any]] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(json.loads(self.format(record)))

    listener, ours = Listener(), logging.getLogger("chiasm")
    listener.setFormatter(JsonLines())
    level = ours.level
    ours.addHandler(listener)
    ours.setLevel(logging.INFO)
    yield heard
    ours.removeHandler(listener)
    ours.setLevel(level)


def exchanges(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["message"] == "exchange"]


@pytest.mark.live
async def test_each_exchange_has_one_line_with_all_of_its_numbers(
    speaker: Speaker, lines: list[dict[str, Any]]
) -> None:
    async with live() as house:
        house.brain.will(says("Let me look.", looks(1, "What?"), usage=(100, 10)), says("A cat.", usage=(150, 4)))
        house.eyes.will(sees("a cat", usage=(70, 6)))
        headers = {"x-request-id": "r-1", "x-chiasm-conversation": MARK}
        await house.chat(user("What?", shown(CAT)), stream=True, headers=headers)
    (line,) = exchanges(lines)
    times = {name: line.pop(name) for name in ("time", "ms", "ms_first", "chunks")}
    assert line == {
        "level": "INFO",
        "logger": "chiasm",
        "message": "exchange",
        "request_id": "r-1",
        "conversation": key_of(MARK)[:16],
        "format": speaker.name,
        "model": "brain",
        "engine": "auto",
        "stream": "true",
        "turns": 2,
        "looks": 1,
        "input_tokens": 250,
        "output_tokens": 14,
        "cached_tokens": 0,
        "vision_input_tokens": 70,
        "vision_output_tokens": 6,
        "outcome": "stop",
    }
    assert 0 <= times["ms_first"] <= times["ms"]
    assert times["chunks"] >= 2


@pytest.mark.live
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_exchange_that_fails_says_why(lines: list[dict[str, Any]], stream: bool) -> None:
    async with live() as house:
        house.brain.answers = lambda _: refuses(400, MARK, code="context_length_exceeded")
        await house.send({"messages": [user(MARK)], "stream": stream}, headers={"x-request-id": "r-2"})
    (line,) = exchanges(lines)
    assert (line["outcome"], line["turns"], line["request_id"]) == ("context_length_exceeded", 1, "r-2")
    assert MARK not in json.dumps(lines)


@pytest.mark.live
async def test_a_client_that_leaves_has_its_line(lines: list[dict[str, Any]]) -> None:
    async with live() as house:
        house.brain.will(says("Half", Hangs()))
        async with house.line(user("Hi."), stream=True) as line:
            await line.until(b"Half")
        await becomes(lambda: bool(exchanges(lines)))
    assert [one["outcome"] for one in exchanges(lines)] == ["cancelled"]


@pytest.mark.live
async def test_every_line_that_a_request_causes_has_its_id_and_no_other(lines: list[dict[str, Any]]) -> None:
    async with live() as house:
        house.eyes.answers = lambda _: refuses(400, "no")

        async def ask(name: str) -> None:
            task = f"What is {name}?"
            await house.chat(user(task, shown(CAT)), headers={"x-request-id": name, "x-chiasm-conversation": name})

        house.brain.answers = lambda asked: (
            says("I cannot see it.") if len(asked.messages) > 1 else says(looks(1, asked.headers["x-request-id"]))
        )
        await asyncio.gather(*(ask(f"r-{number}") for number in range(5)))
    warned = [line["request_id"] for line in lines if "could not look" in line["message"]]
    assert sorted(warned) == [f"r-{number}" for number in range(5)]
    assert all("request_id" in line for line in lines)
    assert sorted(line["request_id"] for line in exchanges(lines)) == sorted(warned)


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("chiasm", logging.INFO, "", 0, message, args, None)


def test_in_text_the_id_stands_behind_the_words_and_only_once() -> None:
    token = REQUEST_ID.set("r-1")
    try:
        lines = LogLines("%(levelname)s %(message)s")
        assert lines.format(record("the store is slow")) == "INFO the store is slow request_id=r-1"
        fields = record("exchange %s", Fields(request_id="r-1", turns=2))
        fields.args = Fields(request_id="r-1", turns=2)  # as `logging` keeps a lone mapping
        assert lines.format(fields) == "INFO exchange request_id=r-1 turns=2"
    finally:
        REQUEST_ID.reset(token)
    assert lines.format(record("idle")) == "INFO idle"


def test_values_that_are_no_single_word_are_quoted() -> None:
    assert str(Fields(a="b c", d='"', e="x=y", f=1.5, g="")) == 'a="b c" d="\\"" e="x=y" f=1.5 g=""'


def test_a_json_line_is_one_line_whatever_is_in_it() -> None:
    (line,) = JsonLines().format(record("a\nb %s", "data:image/png;base64,AAAA \ud800")).splitlines()
    assert json.loads(line)["message"] == "a b […] \ud800"


def test_a_json_line_has_the_place_of_an_exception_and_not_its_words() -> None:
    error = KeyError(MARK)
    failed = record("a fault")
    failed.exc_info = (KeyError, error, None)
    line = JsonLines().format(failed)
    assert "KeyError" in json.loads(line)["exception"]
    assert MARK not in line


def test_there_is_a_form_for_each_that_can_be_set() -> None:
    assert FORMATTERS.keys() == {"text", "json"}


@pytest.mark.live
@pytest.mark.parametrize("form", ["text", "json"])
async def test_the_service_writes_its_log_as_it_is_told(tmp_path: Path, form: str) -> None:
    async with Brain() as brain, Eyes() as eyes:
        brain.answers = lambda _: says("Hello.")
        tables = Options(server={"log_format": form}).tables(brain.url, eyes.url)
        async with service_process(tmp_path, tables) as service:
            import httpx

            async with httpx.AsyncClient(timeout=DEADLINE, trust_env=False) as client:
                url = f"http://127.0.0.1:{service.port}/v1/chat/completions"
                await client.post(url, json={"messages": [user("Hi.")]}, headers={"x-request-id": "r-7"})
            service.terminate()
            await service.ended()
            log = [line for line in service.log.read_text().splitlines() if "exchange" in line]
    assert len(log) == 1
    if form == "json":
        assert json.loads(log[0])["request_id"] == "r-7"
    else:
        assert re.match(r"\S+ \S+ INFO chiasm exchange request_id=r-7 .*outcome=stop ms=\d+$", log[0])
