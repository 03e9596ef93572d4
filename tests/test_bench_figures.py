"""The figures of `chiasm bench`, against cases worked out by hand."""

from __future__ import annotations

import pytest

from router.bench.figures import METRICS, Measured, Metric, Stream, Summary, added, quantile, ratio, summed_up
from router.bench.plan import Side

METRIC = {metric.key: metric for metric in METRICS}
FIRST = METRIC["ttft_ms"]


def of(key: str, wave: Measured) -> float | None:
    return METRIC[key].of(wave)


def single(stream: Stream) -> Measured:
    return Measured(1, 0, "alone", (stream,))


def first_at(seconds: float, number: int, side: Side, *failures: str) -> Measured:
    return Measured(2, number, side, (Stream((seconds, 9.0), 9.0, 2),), failures)


def test_one_token_an_event_gives_the_usual_rate() -> None:
    stream = Stream((1.0, 1.5, 2.0, 3.0), 3.5, 4)
    assert stream.rate == 3 / 2.0


def test_several_tokens_an_event_are_counted_by_usage() -> None:
    stream = Stream((1.0, 2.0, 3.0), 3.5, 12)
    assert stream.rate == 8 / 2.0


def test_what_comes_with_the_first_event_was_made_before_the_interval() -> None:
    stream = Stream((1.0, 1.0, 2.0, 3.0), 3.5, 8)
    assert stream.rate == 4 / 2.0


@pytest.mark.parametrize("arrivals", [(1.0,), (1.0, 1.0)])
def test_a_stream_that_came_at_one_moment_has_no_rate(arrivals: tuple[float, ...]) -> None:
    assert Stream(arrivals, 1.0, 20).rate is None


def test_a_stream_that_came_in_a_burst_has_no_rate() -> None:
    assert Stream((1.0, 1.0, 1.0, 1.001), 1.0, 4).rate is None


def test_a_stream_that_came_while_the_client_was_late_has_no_rate() -> None:
    stream = Stream((1.0, 1.01, 1.02), 1.1, 3)
    late, on_time = (Measured(1, 0, "alone", (stream,), lag=lag) for lag in (0.03, 0.001))
    for key in ("stream_tokens_per_s", "aggregate_tokens_per_s"):
        assert of(key, late) is None
        assert of(key, on_time) == pytest.approx(100)


def test_without_usage_there_are_times_and_no_rates() -> None:
    wave = single(Stream((1.0, 2.0), 2.0, 0))
    assert of("ttft_ms", wave) == 1000
    keys = ("stream_tokens_per_s", "aggregate_tokens_per_s", "output_tokens_per_s", "prefill_tokens_per_s")
    assert [of(key, wave) for key in keys] == [None] * 4


def test_prefill_is_the_prompt_over_the_first_token() -> None:
    assert of("prefill_tokens_per_s", single(Stream((0.5, 1.0), 1.0, 2, prompt_tokens=400))) == 800


def test_prefill_of_streams_side_by_side_is_not_told() -> None:
    stream = Stream((0.5, 1.0), 1.0, 2, prompt_tokens=400)
    assert of("prefill_tokens_per_s", Measured(2, 0, "alone", (stream, stream))) is None


def test_the_aggregate_counts_from_the_first_word_of_any_to_the_last_of_any() -> None:
    early, late = Stream((1.0, 2.0, 3.0), 3.0, 3), Stream((2.0, 4.0, 6.0), 6.0, 6)
    wave = Measured(2, 0, "alone", (early, late))
    assert of("aggregate_tokens_per_s", wave) == (2 + 4) / 5.0
    assert of("output_tokens_per_s", wave) == 9 / 6.0
    assert of("stream_tokens_per_s", wave) == (2 / 2.0 + 4 / 4.0) / 2
    assert of("ttft_ms", wave) == 1500
    assert of("ttft_slowest_ms", wave) == 2000


def test_gaps_lie_within_streams_and_never_between_them() -> None:
    wave = Measured(2, 0, "alone", (Stream((1.0, 1.1), 2, 2), Stream((5.0, 5.3), 6, 2)))
    assert of("gap_p50_ms", wave) == pytest.approx(200)
    assert of("gap_p99_ms", wave) == pytest.approx(298)


def test_a_quantile_lies_between_the_nearest_ranks() -> None:
    assert [quantile([40, 10, 20, 30], share) for share in (0, 0.5, 0.9, 1)] == pytest.approx([10, 25, 37, 40])
    with pytest.raises(ValueError, match="nothing"):
        quantile([], 0.5)


def test_a_ratio_is_made_of_the_two_waves_of_one_round() -> None:
    # The machine was twice as slow in round 1: the ratio of the medians would be 5 / 3, that of each round is 2 or 1.
    waves = [
        first_at(1.0, 0, "alone"),
        first_at(2.0, 0, "behind"),
        first_at(8.0, 1, "behind"),
        first_at(4.0, 1, "alone"),
        first_at(3.0, 2, "alone"),
        first_at(3.0, 2, "behind"),
    ]
    assert ratio(waves, FIRST, 2) == Summary(2.0, 1.0, 2.0)
    assert added(waves, FIRST, 2) == Summary(1000, 0, 4000)
    assert summed_up(waves, FIRST, 2, "alone") == Summary(3000, 1000, 4000)


def test_a_round_with_one_side_only_makes_no_ratio() -> None:
    waves = [first_at(1.0, 0, "alone"), first_at(3.0, 1, "behind")]
    assert ratio(waves, FIRST, 2) is None
    assert added(waves, FIRST, 2) is None


def test_a_wave_in_which_a_stream_failed_makes_no_figure() -> None:
    waves = [first_at(1.0, 0, "alone"), first_at(7.0, 1, "alone", "the connection broke")]
    assert summed_up(waves, FIRST, 2, "alone") == Summary(1000, 1000, 1000)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.key)
def test_no_metric_breaks_on_a_wave_without_answers(metric: Metric) -> None:
    assert metric.of(Measured(1, 0, "alone", (), ("HTTP 500",))) is None
