"""`chiasm doctor` on a healthy pair: no false alarm, within its budget; and what a user sees of it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from router.config import Settings
from router.doctor.brain import CHECKS as BRAIN_CHECKS
from router.doctor.budget import DEFAULT_REPEAT, DEFAULT_TOKENS, Budget, granted
from router.doctor.check import Checked
from router.doctor.embedded import CHECKS as EMBEDDED_CHECKS
from router.doctor.eyes import CHECKS as EYES_CHECKS
from router.doctor.path import CHECKS as PATH_CHECKS
from router.doctor.report import Json, Lines, passed
from router.doctor.verdict import fail, ok, warn
from tests.brain import Calls, nobody, refuses, says
from tests.live import running
from tests.patients import (
    KEY,
    Cards,
    WellBrain,
    WellEyes,
    anything,
    calls,
    checkup,
    drawn,
    eye_test,
    whole_visit,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cards]:
    with drawn(monkeypatch) as cards:
        yield cards


def settings(brain: str, eyes: str, **tables: Any) -> Settings:
    text = {"base_url": brain, **tables.pop("text", {})}
    return Settings.model_validate(
        {"text": [text], "vision": [{"base_url": eyes}], "store": {"kind": "memory"}, "server": {"port": 0}, **tables}
    )


async def test_a_healthy_pair_gets_no_complaint(cards: Cards) -> None:
    budget = Budget(DEFAULT_TOKENS)
    async with WellBrain() as brain, WellEyes(cards) as eyes:
        made = await whole_visit(settings(brain.url, eyes.url), budget=budget)
    assert {(one.subject, one.check): one.verdict for one in made if one.verdict.level != "ok"} == {}
    assert len(made) == len(BRAIN_CHECKS) + len(EYES_CHECKS) + len(PATH_CHECKS)
    assert 0 < budget.spent <= budget.limit


async def test_a_chiasm_that_runs_where_the_configuration_says_is_the_one_that_is_examined(cards: Cards) -> None:
    async with WellBrain() as brain, WellEyes(cards) as eyes, running(settings(brain.url, eyes.url)) as port:
        made = await whole_visit(settings(brain.url, eyes.url, server={"port": port}))
    (which,) = [one for one in made if one.check == "Chiasm"]
    assert f":{port}/v1" in which.verdict.seen
    assert all(one.verdict.level == "ok" for one in made if one.subject == which.subject)


@pytest.mark.parametrize("limit", [1, 3000, 9000])
async def test_no_more_tokens_are_spent_than_were_granted_and_what_was_left_out_is_said(
    cards: Cards, limit: int
) -> None:
    budget = Budget(limit)
    async with WellBrain() as brain, WellEyes(cards) as eyes:
        made = await whole_visit(settings(brain.url, eyes.url), budget=budget)
        asked = len(brain.asked) + len(eyes.asked)
    assert budget.spent <= limit
    assert any("--max-tokens" in one.verdict.change for one in made)
    assert not passed(made)
    assert asked == 0 or limit > 1


async def test_a_server_that_counts_nothing_is_charged_the_worst_case(cards: Cards) -> None:
    counted, uncounted = Budget(DEFAULT_TOKENS), Budget(DEFAULT_TOKENS)
    async with WellBrain() as brain:
        await checkup(brain, budget=counted)
    async with WellBrain() as brain:
        brain.ill(anything, says("It is 42.", usage=None))
        await checkup(brain, budget=uncounted)
        asked = sum(asked.json["max_tokens"] for asked in brain.asked)
    assert uncounted.limit >= uncounted.spent > asked
    assert counted.spent < uncounted.spent


async def test_each_further_repetition_brings_the_tokens_that_it_may_take(cards: Cards) -> None:
    spent: list[int] = []
    for repeat in (DEFAULT_REPEAT, DEFAULT_REPEAT + 2):
        budget = Budget(10 * DEFAULT_TOKENS)
        async with WellBrain() as brain:
            brain.ill(calls, says(Calls("analyzeImage", '{"image": "1", "task": "What?"}'), usage=None))
            await checkup(brain, budget=budget, repeat=repeat)
        spent.append(budget.spent)
    assert granted(DEFAULT_REPEAT) == DEFAULT_TOKENS
    assert granted(DEFAULT_REPEAT + 2) - granted(DEFAULT_REPEAT) >= spent[1] - spent[0] > 0


async def test_every_request_says_how_much_may_be_answered(cards: Cards) -> None:
    async with WellBrain() as brain, WellEyes(cards) as eyes:
        await checkup(brain)
        await eye_test(eyes)
        assert all(0 < asked.json["max_tokens"] <= 1000 for asked in [*brain.asked, *eyes.asked])


async def test_what_needs_a_failed_check_is_skipped_and_names_it() -> None:
    async with nobody() as url, WellBrain() as brain:
        found = await checkup(brain, url=url)
    assert found["reachable"].level == "fail"
    others = [verdict for name, verdict in found.items() if name != "reachable"]
    assert all(verdict.level == "skipped" for verdict in others)
    assert "because 'reachable' failed" in found["key"].seen


async def test_checks_that_do_not_need_a_failed_one_are_made(cards: Cards) -> None:
    async with WellBrain() as brain:
        brain.ill(calls, says(Calls("analyzeImage", '{"image": "1"')))
        found = await checkup(brain)
    assert found["tool call"].level == "fail"
    assert {found[name].level for name in ("prefix cache", "tool_choice", "thinking switch")} == {"ok"}


async def test_keys_are_shown_nowhere(cards: Cards) -> None:
    async with WellBrain() as brain, WellEyes(cards) as eyes:
        brain.ill(anything, refuses(401, f"Incorrect API key provided: {KEY}"))
        eyes.ill(anything, refuses(500, f"do not tell {KEY}, {'A' * 300}\x1b[2J"))
        made = await whole_visit(settings(brain.url, eyes.url, text={"api_key": KEY}))
    said = repr(made)
    assert "[key]" in said
    assert KEY not in said
    assert "AAAA" not in said
    assert "\\x1b" not in said


def test_a_file_gets_one_line_for_each_check_with_verdict_what_was_seen_and_the_change() -> None:
    out = StringIO()
    lines = Lines(Console(file=out, width=40, highlight=False))
    lines.checked(Checked("brain", "streams", ok("first event after 0.10 s, and more words than fit"), 0.1))
    lines.checked(Checked("brain", "tool call", fail("2 of 3 broken", "num_speculative_tokens = 2"), 0.1))
    first, second = out.getvalue().splitlines()
    assert re.fullmatch(r"  ok    streams +first event after 0.10 s, and more words than fit", first)
    assert re.fullmatch(r"  FAIL  tool call +2 of 3 broken → num_speculative_tokens = 2", second)


def test_a_servers_words_do_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The names of models and of the tools that a model makes up come as the server wrote them."""
    hostile = "a\x1b]0;b\x07c\x9b2Jd\u202ee\r\nf\ud800"
    made = [Checked(hostile, "tools", warn(f"called {hostile}", f"set model = {hostile}"), 0.1)]
    out = StringIO()
    for terminal in (False, True):
        lines = Lines(Console(file=out, width=200, highlight=False, force_terminal=terminal, no_color=True))
        lines.subject(hostile)
        lines.checked(made[0])
    Json().closing(made, Budget(1))
    said = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()) + capsys.readouterr().out
    assert said.count("]0;b") == 9
    assert all(letter.isprintable() or letter == "\n" for letter in said)
    assert "e\nf" not in said


def test_the_documentation_names_every_check() -> None:
    page = (Path(__file__).parents[1] / "docs" / "doctor.md").read_text()
    for checks in (BRAIN_CHECKS, EYES_CHECKS, PATH_CHECKS, EMBEDDED_CHECKS):
        for check in checks:
            assert f"**{check.name}**" in page, check.name
    assert f"{DEFAULT_TOKENS:,}" in page


# The command


async def command(folder: Path, config: str, *arguments: str) -> tuple[int, str, str]:
    (folder / "config.toml").write_text(config)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "router.cli", "doctor", "--config", str(folder / "config.toml"), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def tables(brain: str, eyes: str) -> str:
    return f'server.port = 0\nstore.kind = "memory"\n[[text]]\nbase_url = "{brain}"\n[[vision]]\nbase_url = "{eyes}"\n'


async def test_the_command_fails_with_one_and_says_so_in_json(tmp_path: Path) -> None:
    async with nobody() as brain, nobody() as eyes:
        code, out, err = await command(tmp_path, tables(brain, eyes), "--json", "--max-tokens", "500")
    told = json.loads(out)
    assert (code, err, told["ok"], told["tokens"]) == (1, "", False, {"spent": 0, "limit": 500})
    first = told["checks"][0]
    assert (first["check"], first["verdict"]) == ("reachable", "fail")
    assert "start the server" in first["change"]


async def test_a_bad_configuration_is_exit_code_two_and_a_line(tmp_path: Path) -> None:
    code, out, err = await command(tmp_path, "[[text]]\nbase_ulr = 'x'\n")
    assert (code, out) == (2, "")
    assert err.startswith("chiasm: ")
    assert "base_ulr" in err
