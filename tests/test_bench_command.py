"""`chiasm bench` as a command: its own Chiasm, its files, and its ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from pydantic import BaseModel, ConfigDict
from rich.console import Console

from router.bench import plan
from router.bench.chiasm import DidNotStart, some_chiasm
from router.bench.figures import METRICS, Measured, Stream
from router.bench.plot import picture, png, svg
from router.bench.report import Screen, as_json
from router.bench.result import Result
from router.config import Flags
from router.http_client import http_client
from tests.eyes import Eyes
from tests.live import Options, becomes, children_of, running
from tests.paced import Pace, PacedBrain

pytestmark = [pytest.mark.anyio, pytest.mark.live]

PATIENCE = 60.0
"""Seconds after which a command hangs."""


# What the JSON holds, to the last field


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Spread(Strict):
    median: float
    low: float
    high: float


class Bounds(Strict):
    requests: int
    tokens: int
    seconds: float


class Level(Strict):
    streams: int
    side: str
    figures: dict[str, Spread | None]
    prompt_tokens: list[int]
    completion_tokens: int
    cached_tokens: int
    client_lag_ms: float
    rounds: int
    failures: list[str]


class Told(Strict):
    chiasm: str
    began: str
    machine: dict[str, Any]
    brain: dict[str, str]
    behind: str
    plan: dict[str, Any]
    prompts: str
    bounds: Bounds | None
    spent: dict[str, int] | None
    sweep: list[Level]
    ratios: list[dict[str, Spread | int | None]]
    needle: list[dict[str, Any]]
    images: list[dict[str, Any]]
    notes: list[str]
    stopped: str
    failed: str


@asynccontextmanager
async def command(
    folder: Path, brain: PacedBrain, eyes: Eyes, *flags: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    config = folder / "config.toml"
    config.write_text(f'[server]\nport = 0\n[store]\nkind = "disk"\npath = "{folder}/store"\n')
    servers = ["--text", brain.url, "--vision", eyes.url]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "router.cli", "bench", "--config", str(config), *servers, *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_a_run_shows_its_bounds_first_and_its_tables_last_and_leaves_no_process(tmp_path: Path) -> None:
    async with PacedBrain(Pace(first=0.05, gap=0.02, events=8)) as brain, Eyes() as eyes:
        brain.will_pace()
        flags = ["--streams", "1,2", "--rounds", "2", "--prompt-tokens", "100", "--max-tokens", "8"]
        files = ["--json", str(tmp_path / "figures.json"), "--plot", str(tmp_path / "sweep.svg")]
        async with command(tmp_path, brain, eyes, *flags, *files) as process:
            await brain.came(4)
            (child,) = children_of(process.pid)
            code, out, err = await ended(process)
        assert (code, "Traceback" in err) == (0, False), err
        assert not runs(child)
        assert not (tmp_path / "store").exists(), "its store is in memory"
        assert err.startswith("chiasm bench: at most "), err
        assert "1 stream at once" in out
        assert "2 streams at once" in out
        assert "decode, per stream (tok/s)" in out

        told = Told.model_validate_json((tmp_path / "figures.json").read_bytes())
        assert told.brain == {"model": brain.model, "base_url": brain.url}
        assert (told.stopped, told.failed, told.prompts) == ("", "", "counted")
        assert [(level.streams, level.side, level.rounds) for level in told.sweep] == [
            (1, "alone", 2),
            (1, "behind", 2),
            (2, "alone", 2),
            (2, "behind", 2),
        ]
        assert all(level.prompt_tokens == [100] for level in told.sweep)
        assert told.sweep[0].figures.keys() == {metric.key for metric in METRICS}
        assert told.sweep[2].figures.keys() == {metric.key for metric in METRICS if not metric.only_single}
        assert told.bounds is not None
        assert told.spent is not None
        assert told.spent["requests"] == len(brain.asked) <= told.bounds.requests
        assert told.spent["tokens"] <= told.bounds.tokens
        assert ElementTree.parse(tmp_path / "sweep.svg").getroot().tag.endswith("svg")


async def test_json_on_standard_output_stands_alone(tmp_path: Path) -> None:
    async with PacedBrain(Pace(events=4)) as brain, Eyes() as eyes:
        brain.will_pace()
        async with command(tmp_path, brain, eyes, "--alone", "--streams", "1", "--json", "-") as process:
            code, out, err = await ended(process)
        assert code == 0, err
        told = Told.model_validate_json(out)
        assert told.behind == ""
        assert told.ratios[0]["ttft_ms"] is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_shows_what_was_measured_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    async with PacedBrain(Pace(first=0.05, gap=0.05, events=10)) as brain, Eyes() as eyes:
        brain.will_pace()
        file = tmp_path / "figures.json"
        flags = ["--streams", "1,2", "--rounds", "50", "--json", str(file)]
        async with command(tmp_path, brain, eyes, *flags) as process:
            await brain.came(6)  # two to warm up, one wave of each side at least
            (child,) = children_of(process.pid)
            process.send_signal(number)
            code, out, err = await ended(process)
        assert (code, "Traceback" in err) == (128 + number, False), err
        assert "1 stream at once" in out
        assert "figures so far" in err
        assert not runs(child)
        told = Told.model_validate_json(file.read_bytes())
        assert told.stopped == "interrupted"
        assert told.sweep[0].figures["ttft_ms"] is not None
        # The stream that was cut was closed, and is no figure.
        await becomes(lambda: all(asked.over.is_set() for asked in brain.asked))


async def test_the_time_limit_ends_a_run_with_what_there_is(tmp_path: Path) -> None:
    async with PacedBrain(Pace(first=0.05, gap=0.05, events=10)) as brain, Eyes() as eyes:
        brain.will_pace()
        flags = ["--alone", "--streams", "1", "--rounds", "1000", "--seconds", "3", "--json", "-"]
        async with command(tmp_path, brain, eyes, *flags) as process:
            code, out, err = await ended(process)
        assert (code, "Traceback" in err) == (0, False), err
        told = Told.model_validate_json(out)
        assert told.stopped == "seconds"
        assert 0 < told.sweep[0].rounds < 10
        assert "the time was up" in err


async def test_a_time_limit_that_leaves_time_for_nothing_is_a_failure(tmp_path: Path) -> None:
    async with PacedBrain(Pace(first=30)) as brain, Eyes() as eyes:
        brain.will_pace()
        async with command(tmp_path, brain, eyes, "--alone", "--seconds", "1") as process:
            code, out, err = await ended(process)
        assert (code, out) == (1, "")
        assert "the time was up" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--plot", "sweep.pdf"], "--plot: 'sweep.pdf' ends neither in .svg nor in .png"),
        (["--streams", "none"], "--streams: numbers separated by commas, not 'none'"),
        (["--alone", "--images", "1"], "--images: a text model alone sees none; leave --alone out"),
        (["--brain", "nobody"], "--brain: there is no 'nobody'"),
    ],
)
async def test_a_wish_that_cannot_be_met_is_one_line_and_nothing_is_asked(
    tmp_path: Path, flags: list[str], words: str
) -> None:
    async with PacedBrain() as brain, Eyes() as eyes, command(tmp_path, brain, eyes, *flags) as process:
        code, out, err = await ended(process)
        assert (code, out) == (2, "")
        assert err.startswith(f"chiasm: {words}"), err
        assert err.count("\n") == 1
        assert not brain.asked


def test_a_servers_words_do_nothing_to_a_terminal() -> None:
    written = StringIO()
    screen = Screen(Console(file=written), Console(file=written, markup=False))
    result = Result(
        plan.Plan(), brain="m\x1b]0;title\x07\x9b31m\u202e\nnote: all is well", bounds=plan.Bounds(100, 10_000, 60.0)
    )
    screen.opening(result)
    screen.closing(result)
    assert [one for one in written.getvalue() if not one.isprintable() and one != "\n"] == []
    assert "\nnote:" not in written.getvalue()
    assert as_json(result).isascii()
    assert json.loads(as_json(result))["brain"]["model"] == result.brain


async def test_a_brain_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    async with PacedBrain() as brain, Eyes() as eyes:
        await brain.stop_listening()
        async with command(tmp_path, brain, eyes) as process:
            code, _, err = await ended(process)
        assert (code, "Traceback" in err) == (1, False), err
        assert "lists no model" in err


async def test_a_chiasm_that_does_not_start_is_told_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no room on this machine >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(broken))
    settings = Options().settings("http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1")
    async with http_client() as client:
        with pytest.raises(DidNotStart, match="no room on this machine"):
            async with some_chiasm(settings, None, Flags(), "brain", client):
                pass


async def test_a_chiasm_that_runs_where_configured_is_the_one_that_is_measured() -> None:
    async with PacedBrain() as brain, Eyes() as eyes, running(Options().settings(brain.url, eyes.url)) as port:
        settings = Options(server={"port": port}).settings(brain.url, eyes.url)
        async with http_client() as client, some_chiasm(settings, None, Flags(), "brain", client) as (url, where):
            assert url == f"http://127.0.0.1:{port}/v1"
            assert where == f"the one that runs at {url}"
        assert not children_of(os.getpid())


# The picture


def waves() -> list[Measured]:
    return [
        Measured(streams, number, side, (Stream((0.1 * streams, 1.0 + 0.1 * number), 1.2, 20),) * streams)
        for streams in (1, 2, 8)
        for number in range(2)
        for side in ("alone", "behind")
    ]


def test_the_picture_is_svg_that_parses_and_names_every_level() -> None:
    root = ElementTree.fromstring(svg(picture(waves(), "a <brain> & more")))
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words[0] == "a <brain> & more"
    assert {"1", "2", "8", "brain alone", "behind Chiasm"} <= set(words)
    dots = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(dots) == 3 * (3 * 2 + 2)
    for dot in dots:
        assert 0 <= float(dot.attrib["cx"]) <= float(root.attrib["width"])
        assert 0 <= float(dot.attrib["cy"]) <= float(root.attrib["height"])


def test_the_picture_is_a_png_of_the_same_shape(tmp_path: Path) -> None:
    drawn = picture(waves(), "a brain")
    (tmp_path / "sweep.png").write_bytes(png(drawn))
    with Image.open(tmp_path / "sweep.png") as image:
        assert (image.format, image.width * drawn.height) == ("PNG", image.height * drawn.width)
        assert len(image.getcolors(10**6) or []) > 4


def test_a_run_without_figures_is_a_picture_with_its_title_only() -> None:
    root = ElementTree.fromstring(svg(picture([], "nothing")))
    assert [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")] == ["nothing"]
