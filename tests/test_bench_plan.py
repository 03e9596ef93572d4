"""What `chiasm bench` will run, and that it stays within what it said."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.bench.outputs import Outputs
from router.bench.plan import BadPlan, Bounds, Plan, Wave, numbers
from router.bench.purse import Purse, Spent


def test_sides_alternate_and_each_round_begins_with_the_other() -> None:
    assert list(Plan(streams=(4,), rounds=2).waves()) == [
        Wave(4, 0, "alone"),
        Wave(4, 0, "behind"),
        Wave(4, 1, "behind"),
        Wave(4, 1, "alone"),
    ]


def test_the_bounds_hold_all_that_is_planned() -> None:
    plan = Plan(streams=(1, 8), rounds=3, prompt_tokens=100, max_tokens=50, needle_tokens=1000, images=2)
    warm_ups, sweep, needles, images = 2, 9 * 3 * 2, 5 * 2, 2
    assert plan.requests == warm_ups + sweep + needles + images
    bounds = plan.bounds(exact=True, tools=False)
    assert bounds.requests > plan.requests
    assert bounds.tokens > sweep * 150 + needles * 1000 + images * 10_000
    assert plan.bounds(exact=False, tools=False).tokens > bounds.tokens
    assert plan.bounds(exact=True, tools=True).tokens > bounds.tokens


@pytest.mark.parametrize(
    ("wishes", "word"),
    [
        ({"streams": (0,)}, "--streams"),
        ({"streams": (2, 2)}, "--streams"),
        ({"streams": (100_000,)}, "--streams"),
        ({"prompt_tokens": 3}, "--prompt-tokens"),
        ({"needle_tokens": 3}, "--needle"),
        ({"sides": ("alone",), "images": 1}, "--images"),
        ({"streams": ()}, "nothing to measure"),
        ({"sides": ()}, "no side"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_in_words(wishes: dict[str, Any], word: str) -> None:
    with pytest.raises(BadPlan, match=word):
        Plan(**wishes)


def test_levels_are_numbers_separated_by_commas() -> None:
    assert numbers("1, 2,16") == (1, 2, 16)
    assert numbers("") == ()
    with pytest.raises(BadPlan, match="'1;2'"):
        numbers("1;2")


def test_files_that_cannot_be_written_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match=r"--plot.*\.svg"):
        Outputs(plot=tmp_path / "plot.pdf")
    with pytest.raises(BadPlan, match="--json: there is no folder"):
        Outputs(json=tmp_path / "nowhere" / "figures.json")


def test_requests_side_by_side_hold_their_worst_cases_together() -> None:
    purse = Purse(Bounds(requests=10, tokens=100, seconds=1))
    with purse.lend(60):
        assert not purse.has(1, 41)
        with pytest.raises(Spent), purse.lend(41):
            pass
        with purse.lend(40) as loan:
            loan.cost = 5
    assert purse.tokens == 65


def test_what_nobody_counted_costs_its_worst_case() -> None:
    purse = Purse(Bounds(requests=10, tokens=100, seconds=1))
    with purse.lend(30):
        pass
    assert purse.tokens == 30


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50), st.booleans())))
def test_no_order_of_loans_goes_beyond_the_bounds(loans: list[tuple[int, int, bool]]) -> None:
    purse = Purse(Bounds(requests=12, tokens=200, seconds=1))
    asked = 0
    with ExitStack() as open_loans:
        for worst, cost, stays in loans:
            try:
                loan = open_loans.enter_context(purse.lend(worst))
            except Spent:
                continue
            asked += 1
            loan.cost = min(cost, worst)
            if not stays:
                open_loans.close()
    assert asked == purse.requests <= 12
    assert purse.tokens <= 200
