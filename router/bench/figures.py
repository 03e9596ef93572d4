"""From times and counts to figures: pure.

Of one stream with `n` completion tokens (the server's usage) in `e` events, `f` of which came at the first moment:
these were made before the interval began, so `n * (e - f) / e` tokens fall between the first moment and the last,
`n / e` being the mean of an event.  With one token an event that is the usual `n - 1`.

There is no rate where the most came at the first moment, or where all of it came in less time than the client itself
was late in: that would be the speed at which something emptied a buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

from router.bench.plan import Side


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer that came whole.  Seconds since it was due."""

    arrivals: tuple[float, ...]
    """Of the events with text or reasoning; not empty."""
    ended: float
    completion_tokens: int
    """0: the server told none."""
    prompt_tokens: int = 0
    cached_tokens: int | None = None

    @property
    def first(self) -> float:
        return self.arrivals[0]

    @property
    def tokens_after_first(self) -> float:
        events = len(self.arrivals)
        return self.completion_tokens * (events - self.arrivals.count(self.first)) / events

    @property
    def span(self) -> float:
        return self.arrivals[-1] - self.arrivals[0]

    @property
    def rate(self) -> float | None:
        """Tokens a second while it decodes."""
        in_a_burst = 2 * self.arrivals.count(self.first) > len(self.arrivals)
        if in_a_burst or not self.completion_tokens or self.span <= 0:
            return None
        return self.tokens_after_first / self.span

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.arrivals)]


@dataclass(frozen=True, slots=True)
class Measured:
    """A wave that is over."""

    streams: int
    round: int
    side: Side
    answers: tuple[Stream, ...]
    failures: tuple[str, ...] = ()
    """Of those that did not come whole, why."""
    lag: float = 0.0
    """Seconds by which the client itself was late at worst."""


@dataclass(frozen=True, slots=True)
class Metric:
    key: str
    """In JSON."""
    title: str
    unit: str
    of: Callable[[Measured], float | None]
    only_single: bool = False
    """Makes sense with one stream only."""


def quantile(values: Sequence[float], share: float) -> float:
    """Between the two nearest ranks, as `numpy.quantile` does.  Raises `ValueError` for no values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("nothing was measured")
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _first_median(wave: Measured) -> float | None:
    return 1000 * median(one.first for one in wave.answers) if wave.answers else None


def _first_slowest(wave: Measured) -> float | None:
    return 1000 * max(one.first for one in wave.answers) if wave.answers else None


def _rate(wave: Measured) -> float | None:
    rates = [one.rate for one in wave.answers if one.rate is not None and one.span > wave.lag]
    return median(rates) if rates else None


def _aggregate(wave: Measured) -> float | None:
    """All tokens of all streams after their first events, over the time in which any of them decoded."""
    told = [one for one in wave.answers if one.completion_tokens]
    if not told or all(one.rate is None for one in told):
        return None
    span = max(one.arrivals[-1] for one in told) - min(one.first for one in told)
    return sum(one.tokens_after_first for one in told) / span if span > wave.lag else None


def _output(wave: Measured) -> float | None:
    """All tokens over the whole wave, prefill and waiting included."""
    tokens = sum(one.completion_tokens for one in wave.answers)
    span = max((one.ended for one in wave.answers), default=0.0)
    return tokens / span if tokens and span > 0 else None


def _prefill(wave: Measured) -> float | None:
    if wave.streams != 1 or not wave.answers or not wave.answers[0].prompt_tokens:
        return None
    (one,) = wave.answers
    return one.prompt_tokens / one.first if one.first > 0 else None


def _gap(share: float) -> Callable[[Measured], float | None]:
    def of(wave: Measured) -> float | None:
        gaps = [gap for one in wave.answers for gap in one.gaps]
        return 1000 * quantile(gaps, share) if gaps else None

    return of


METRICS: Final = (
    Metric("ttft_ms", "first token, median", "ms", _first_median),
    Metric("ttft_slowest_ms", "first token, slowest", "ms", _first_slowest),
    Metric("stream_tokens_per_s", "decode, per stream", "tok/s", _rate),
    Metric("aggregate_tokens_per_s", "decode, all streams", "tok/s", _aggregate),
    Metric("output_tokens_per_s", "output, with waiting", "tok/s", _output),
    Metric("prefill_tokens_per_s", "prefill", "tok/s", _prefill, only_single=True),
    Metric("gap_p50_ms", "between events, median", "ms", _gap(0.5)),
    Metric("gap_p99_ms", "between events, p99", "ms", _gap(0.99)),
)


@dataclass(frozen=True, slots=True)
class Summary:
    """Over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary | None:
        return cls(median(values), min(values), max(values)) if values else None


def whole(waves: Sequence[Measured], streams: int, side: Side) -> list[Measured]:
    """The waves of this level and side in which every stream came whole.  Others make no figures: the load was not the
    one that the level says."""
    found = [wave for wave in waves if (wave.streams, wave.side) == (streams, side)]
    return [wave for wave in found if not wave.failures]


def summed_up(waves: Sequence[Measured], metric: Metric, streams: int, side: Side) -> Summary | None:
    values = [metric.of(wave) for wave in whole(waves, streams, side)]
    return Summary.of([value for value in values if value is not None])


def ratio(waves: Sequence[Measured], metric: Metric, streams: int) -> Summary | None:
    """Behind Chiasm over alone, each from the two waves of one round."""
    alone = _by_round(waves, metric, streams, "alone")
    behind = _by_round(waves, metric, streams, "behind")
    return Summary.of([behind[number] / alone[number] for number in alone if number in behind and alone[number] > 0])


def added(waves: Sequence[Measured], metric: Metric, streams: int) -> Summary | None:
    """Behind Chiasm less alone, likewise."""
    alone = _by_round(waves, metric, streams, "alone")
    behind = _by_round(waves, metric, streams, "behind")
    return Summary.of([behind[number] - alone[number] for number in alone if number in behind])


def _by_round(waves: Sequence[Measured], metric: Metric, streams: int, side: Side) -> Mapping[int, float]:
    found = {wave.round: metric.of(wave) for wave in whole(waves, streams, side)}
    return {number: value for number, value in found.items() if value is not None}
