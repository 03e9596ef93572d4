"""A run as a table of ratios, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from figures import Metric, Value, middle, ratio


def table(values: Sequence[Value], floor: str) -> str:
    """A Markdown table: what each target took, and the ratio of Chiasm to the floor, beside the goal."""
    metrics = list(dict.fromkeys(value.metric for value in values))
    targets = list(dict.fromkeys(value.target for value in values))
    rows = [["", "", *targets, f"chiasm × {floor}", "goal", ""]]
    for metric in metrics:
        amounts = [_shown(middle(values, metric, target)) for target in targets]
        times = ratio(values, metric, "chiasm", floor)
        rows.append([metric.name, metric.unit, *amounts, _shown(times), *_goal(values, metric, times, floor)])
    return _markdown(rows)


def as_json(values: Sequence[Value], floor: str) -> str:
    told = [
        {
            "metric": metric.name,
            "unit": metric.unit,
            "target": target,
            "median": amount,
            "times_floor": ratio(values, metric, target, floor),
            "rounds": [value.amount for value in values if value.metric == metric and value.target == target],
        }
        for metric in dict.fromkeys(value.metric for value in values)
        for target in dict.fromkeys(value.target for value in values)
        if (amount := middle(values, metric, target)) is not None
    ]
    return json.dumps({"floor": floor, "figures": told}, indent=1)


def _goal(values: Sequence[Value], metric: Metric, times: float | None, floor: str) -> tuple[str, str]:
    if metric.most is None:
        return "", ""
    if not metric.relative:
        reached = middle(values, metric, "chiasm")
        words = f"≤ {metric.most:g} {metric.unit}"
    elif floor == "nginx":
        reached = times
        words = f"≤ {metric.most:g} × nginx"
    else:
        return f"≤ {metric.most:g} × nginx", "?"
    return words, "" if reached is None else "met" if reached <= metric.most else "missed"


def _shown(amount: float | None) -> str:
    if amount is None:
        return "–"
    return f"{amount:.0f}" if amount >= 100 else f"{amount:.1f}" if amount >= 10 else f"{amount:.2f}"


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
