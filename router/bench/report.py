"""What the user sees: the bounds, progress, and tables; and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from router.bench.figures import METRICS, Measured, Metric, Summary, added, ratio, summed_up
from router.bench.images import ImageTurn
from router.bench.needle import Needle
from router.bench.plan import Side
from router.bench.result import Result
from router.doctor.words import cleaned

_STOPPED = {
    "interrupted": "stopped by a signal: these are the figures so far",
    "seconds": "stopped: the time was up (--seconds); these are the figures so far",
    "bounds": "stopped: the next request could have gone beyond the bounds; these are the figures so far",
}


class Report(Protocol):
    def opening(self, result: Result) -> None:
        """Everything is known that is said before the first request."""

    def doing(self, words: str) -> None: ...

    def step(self, requests: int = 1) -> None: ...

    def closing(self, result: Result) -> None: ...


class Screen:
    """Tables on `out`, progress on `err`, where that is a terminal."""

    def __init__(self, out: Console, err: Console, *, tables: bool = True) -> None:
        self._out = out
        self._err = err
        self._tables = tables
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)

    def opening(self, result: Result) -> None:
        bounds = result.bounds
        assert bounds is not None
        lines = [
            f"chiasm bench: at most {bounds.requests} requests, {bounds.tokens:,} tokens, {bounds.seconds:g} s",
            f"  brain   {cleaned(result.brain)} at {result.brain_url}",
            *([f"  chiasm  {result.chiasm}"] if result.chiasm else []),
            "  prompts " + ("counted by the server's tokenizer" if result.exact else _ESTIMATED),
        ]
        for line in lines:
            self._err.print(line, soft_wrap=True)
        self._progress.update(self._task, total=result.plan.requests)
        self._progress.start()

    def doing(self, words: str) -> None:
        self._progress.update(self._task, description=words)

    def step(self, requests: int = 1) -> None:
        self._progress.advance(self._task, requests)

    def closing(self, result: Result) -> None:
        self._progress.stop()
        if self._tables:
            self._show(result)
        for line in _remarks(result):
            self._err.print(line, soft_wrap=True)

    def _show(self, result: Result) -> None:
        tables = [
            *(sweep_table(result.waves, streams) for streams in _levels(result.waves)),
            *([needle_table(result.needles)] if result.needles else []),
            *([image_table(result.images)] if result.images else []),
        ]
        for table in tables:
            self._out.print()
            self._out.print(table)


_ESTIMATED = "of about this length: the server has no /tokenize, so words were counted"


def _levels(waves: Sequence[Measured]) -> list[int]:
    return list(dict.fromkeys(wave.streams for wave in waves))


def _remarks(result: Result) -> list[str]:
    purse, failures = result.purse, [words for wave in result.waves for words in wave.failures]
    lines = [f"note: {words}" for words in result.notes]
    if failures:
        lines.append(f"note: {len(failures)} streams failed, their waves count for nothing: {failures[0]}")
    if purse is not None:
        lines.append(f"{purse.requests} requests and {purse.tokens:,} tokens spent")
    if result.stopped:
        lines.append(_STOPPED[result.stopped])
    if result.failed:
        lines.append(f"chiasm: {result.failed}")
    return lines


# Tables


def sweep_table(waves: Sequence[Measured], streams: int) -> Table:
    """Medians over the rounds; of the ratio also between which values the rounds lay."""
    table = _table(f"{streams} stream{'s' if streams > 1 else ''} at once")
    table.add_column("", no_wrap=True)
    for name in ("alone", "behind", "added", "behind/alone"):
        table.add_column(name, justify="right", no_wrap=True)
    for metric in METRICS:
        found = [summed_up(waves, metric, streams, side) for side in ("alone", "behind")]
        if not any(found) or _says_nothing(metric, streams):
            continue
        more = added(waves, metric, streams) if metric.unit == "ms" else None
        cells = ["–" if one is None else _number(one.median) for one in (*found, more)]
        table.add_row(f"{metric.title} ({metric.unit})", *cells, _spread(ratio(waves, metric, streams)))
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)


def _says_nothing(metric: Metric, streams: int) -> bool:
    return streams == 1 and metric.key in ("ttft_slowest_ms", "aggregate_tokens_per_s")


def needle_table(needles: Sequence[Needle]) -> Table:
    table = _table("needle")
    for name in ("depth", "side", "", "prompt tokens", "first token (ms)"):
        table.add_column(name, justify="left" if name in ("side", "") else "right")
    for one in needles:
        words = f"{one.outcome}: {one.why}" if one.why else one.outcome
        first = "–" if one.first is None else _number(1000 * one.first)
        table.add_row(f"{one.depth:.0%}", one.side, words, str(one.prompt_tokens or "–"), first)
    return table


def image_table(turns: Sequence[ImageTurn]) -> Table:
    table = _table("image turns behind Chiasm")
    for name in ("first token (ms)", "longest silence (ms)", "whole (ms)", "turns", "looks", "eyes' tokens"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in turns:
        times = ["–" if value is None else _number(1000 * value) for value in (one.first, one.silence, one.whole)]
        eyes = str(one.vision_prompt_tokens + one.vision_completion_tokens)
        words = one.why or ("read" if one.read else "not read")
        table.add_row(*times, str(one.turns), str(one.vision_calls), eyes, words)
    return table


def _spread(summary: Summary | None) -> str:
    if summary is None:
        return "–"
    if summary.low == summary.high:
        return _number(summary.median)
    return f"{_number(summary.median)} ({_number(summary.low)}–{_number(summary.high)})"


def _number(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


# JSON


def as_json(result: Result) -> str:
    return json.dumps(told(result), indent=2) + "\n"


def told(result: Result) -> dict[str, Any]:
    """All that was measured; docs/bench.md tells the fields."""
    plan, purse = result.plan, result.purse
    return {
        "chiasm": version("chiasm"),
        "began": result.began.isoformat(timespec="seconds"),
        "machine": {"system": platform.system(), "cores": os.cpu_count()},
        "brain": {"model": result.brain, "base_url": result.brain_url},
        "behind": result.chiasm,
        "plan": asdict(plan),
        "prompts": "counted" if result.exact else "estimated",
        "bounds": asdict(result.bounds) if result.bounds else None,
        "spent": {"requests": purse.requests, "tokens": purse.tokens} if purse else None,
        "sweep": [_level(result.waves, streams, side) for streams in _levels(result.waves) for side in plan.sides],
        "ratios": [_ratios(result.waves, streams) for streams in _levels(result.waves)],
        "needle": [asdict(one) for one in result.needles],
        "images": [asdict(one) for one in result.images],
        "notes": result.notes,
        "stopped": result.stopped,
        "failed": result.failed,
    }


def _level(waves: Sequence[Measured], streams: int, side: Side) -> dict[str, Any]:
    here = [wave for wave in waves if (wave.streams, wave.side) == (streams, side)]
    return {
        "streams": streams,
        "side": side,
        "figures": {
            metric.key: _summary(summed_up(waves, metric, streams, side))
            for metric in METRICS
            if streams == 1 or not metric.only_single
        },
        "prompt_tokens": sorted({one.prompt_tokens for wave in here for one in wave.answers}),
        "completion_tokens": sum(one.completion_tokens for wave in here for one in wave.answers),
        "cached_tokens": sum(one.cached_tokens or 0 for wave in here for one in wave.answers),
        "client_lag_ms": round(1000 * max((wave.lag for wave in here), default=0.0), 3),
        "rounds": len(here),
        "failures": [words for wave in here for words in wave.failures],
    }


def _ratios(waves: Sequence[Measured], streams: int) -> dict[str, Any]:
    wanted = [metric for metric in METRICS if streams == 1 or not metric.only_single]
    return {"streams": streams, **{metric.key: _summary(ratio(waves, metric, streams)) for metric in wanted}}


def _summary(summary: Summary | None) -> dict[str, float] | None:
    return None if summary is None else {name: round(value, 4) for name, value in asdict(summary).items()}
