"""What was measured: a value per metric, target and round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Metric:
    """`unit` is what `Value.amount` counts.  `most` is the goal: times the floor where `relative`, else in the unit."""

    name: str
    unit: str
    most: float | None = None
    relative: bool = True
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Value:
    metric: Metric
    target: str
    round: int
    amount: float


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    if not ordered:
        raise ValueError("nothing was measured")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def middle(values: Sequence[Value], metric: Metric, target: str) -> float | None:
    """The median over the rounds; `None` where this target was not measured."""
    amounts = [value.amount for value in values if value.metric == metric and value.target == target]
    return median(amounts) if amounts else None


def ratio(values: Sequence[Value], metric: Metric, target: str, floor: str) -> float | None:
    """The median over the rounds of what the target took for each one the floor took in the same round."""
    floors = {v.round: v.amount for v in values if v.metric == metric and v.target == floor and v.amount > 0}
    ratios = [
        v.amount / floors[v.round] for v in values if v.metric == metric and v.target == target and v.round in floors
    ]
    return median(ratios) if ratios else None
