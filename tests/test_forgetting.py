"""Which images are forgotten, when, and in which order."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cache.forgetting import NEAR, LoadLimits, to_forget
from cache.table import ImageTable, LoadedImage

ROOM = 10**9


def table_of(*images: LoadedImage) -> ImageTable:
    return ImageTable(next=len(images) + 1, loaded={number: replace(image) for number, image in enumerate(images, 1)})


def person(tokens: int = 1, likeness: str = "") -> LoadedImage:
    return LoadedImage(1, False, tokens, likeness)


def tool(likeness: str = "", tokens: int = 1) -> LoadedImage:
    return LoadedImage(1, True, tokens, likeness)


def test_nothing_is_forgotten_up_to_the_limit() -> None:
    table = table_of(*[person(2)] * 30)
    assert to_forget(table, LoadLimits(30, 20, 60), ()) == []


def test_one_too_many_and_the_least_recently_used_go_down_to_the_mark_in_one_go() -> None:
    table = table_of(*[person()] * 31)
    table.use(1)
    assert to_forget(table, LoadLimits(30, 20, ROOM), ()) == list(range(2, 13))


def test_after_forgetting_there_is_room_until_the_limit_is_reached_again() -> None:
    table = table_of(*[person()] * 31)
    limits = LoadLimits(30, 20, ROOM)
    table.forget(to_forget(table, limits, ()))
    assert len(table.loaded) == 20
    for _ in range(10):
        table.arrive(table.give(str(table.next)), tool=False, tokens=1)
        assert to_forget(table, limits, ()) == []
    table.arrive(table.give("last"), tool=False, tokens=1)
    assert len(to_forget(table, limits, ())) == 11


def test_too_many_tokens_go_down_to_two_thirds() -> None:
    table = table_of(*[person(100)] * 9)
    assert to_forget(table, LoadLimits(30, 20, 900), ()) == []
    table.use(1, 1)
    assert to_forget(table, LoadLimits(30, 20, 900), ()) == [2, 3, 4, 5]


def test_images_that_add_nothing_stay_when_only_tokens_are_too_many() -> None:
    table = table_of(person(0), person(500), person(0), person(500))
    assert to_forget(table, LoadLimits(30, 20, 600), ()) == [2, 4]
    assert to_forget(table, LoadLimits(3, 2, 600), ()) == [1, 2, 4]


def test_screenshots_that_a_later_one_resembles_go_first_then_tools_then_persons() -> None:
    table = table_of(person(), tool("00"), tool("ff00"), person(), tool("01"), tool())
    assert to_forget(table, LoadLimits(5, 0, ROOM), ()) == [2, 3, 5, 6, 1, 4]


def test_of_many_alike_the_last_one_stays() -> None:
    table = table_of(tool("00"), tool("01"), tool("00"), tool("ffff"))
    assert to_forget(table, LoadLimits(3, 2, ROOM), ()) == [1, 2]


def test_one_that_only_resembles_another_that_goes_is_no_twin() -> None:
    first, between, last = "0", f"{2**NEAR - 1:x}", f"{2 ** (2 * NEAR) - 1:x}"
    table = table_of(person(), tool(first), tool(between), tool(last))
    assert to_forget(table, LoadLimits(3, 3, ROOM), ()) == [3]


def test_how_near_is_near() -> None:
    near, far = f"{2**NEAR - 1:016x}", f"{2 ** (NEAR + 1) - 1:016x}"
    limits = LoadLimits(2, 2, ROOM)
    assert to_forget(table_of(tool(), tool("0" * 16), tool(near)), limits, ()) == [2]
    assert to_forget(table_of(tool(), tool("0" * 16), tool(far)), limits, ()) == [1]


def test_what_a_person_put_there_is_no_twin_and_may_be_one_that_stays() -> None:
    table = table_of(person(likeness="00"), tool(), tool("00"), person(likeness="00"))
    assert to_forget(table, LoadLimits(3, 0, ROOM), ()) == [3, 2, 1, 4]


def test_pinned_and_newest_never_go_even_if_that_leaves_too_many() -> None:
    table = table_of(*[person(100)] * 5)
    table.pin(1)
    table.pin(3)
    going = to_forget(table, LoadLimits(2, 1, 1), [5])
    assert going == [2, 4]
    table.forget(going)
    assert to_forget(table, LoadLimits(2, 1, 1), [5]) == []


images = st.builds(
    LoadedImage,
    since=st.just(1),
    tool=st.booleans(),
    tokens=st.integers(0, 50),
    likeness=st.sampled_from(["", "0", "1", "3", "f", "ff", "fff", "ffffffffffffffff"]),
    pinned=st.booleans(),
)


@given(
    st.lists(images, max_size=15),
    st.integers(0, 15),
    st.integers(0, 15),
    st.integers(0, 400),
    st.sets(st.integers(1, 15)),
)
def test_never_more_than_needed_and_within_the_limits_or_nothing_left(
    loaded: list[LoadedImage], high: int, low: int, most_tokens: int, newest: set[int]
) -> None:
    limits = LoadLimits(max(high, low), min(high, low), most_tokens)
    table = table_of(*loaded)
    too_many, too_much = len(loaded) > limits.max_loaded, table.tokens > most_tokens
    going = to_forget(table, limits, newest)
    assert going == to_forget(table, limits, newest)
    assert bool(going) <= (too_many or too_much)
    assert len(set(going)) == len(going)
    free = [number for number, image in table.loaded.items() if not image.pinned and number not in newest]
    assert set(going) <= set(free)

    def done(gone: list[int]) -> bool:
        few = not too_many or len(loaded) - len(gone) <= limits.keep_loaded
        return few and (
            not too_much or table.tokens - sum(table.loaded[n].tokens for n in gone) <= int(most_tokens * 2 / 3)
        )

    if going:
        assert not done(going[:-1])
    if not done(going):
        assert all(table.loaded[number].tokens == 0 for number in set(free) - set(going))
        assert not too_many or len(loaded) - len(going) <= limits.keep_loaded or set(going) == set(free)
