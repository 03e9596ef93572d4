"""A number is given once; what is loaded, forgotten, pinned or deleted; which looks still stand in the prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.table import MOST_GAPS, MOST_RECENT, ImageTable

# Numbers


def test_images_are_numbered_in_order_of_appearance() -> None:
    table = ImageTable()
    assert [table.give(digest) for digest in "aabac"] == [1, 1, 2, 1, 3]


def test_the_clients_number_is_given_if_it_is_free() -> None:
    table = ImageTable()
    assert table.give("a", 2) == 2
    assert table.give("b", 2) == 3
    assert table.give("c", 1) == 1
    assert table.give("d") == 4
    assert table.give("a", 9) == 2


@pytest.mark.parametrize("wanted", [0, -1, 100_000, 10**30])
def test_a_number_that_is_no_counter_is_not_given(wanted: int) -> None:
    table = ImageTable()
    assert table.give("a", wanted) == 1
    assert list(table.numbers()) == [1]


def test_numbers_that_were_left_out_are_known_to_be_free() -> None:
    table = ImageTable()
    table.give("a", 5)
    assert (len(table), list(table.numbers()), 3 in table) == (1, [5], False)
    assert table.give("b", 3) == 3
    assert (table.gaps, list(table.numbers())) == ([(1, 2), (4, 4)], [3, 5])
    assert table.give("c", 4) == 4
    assert table.gaps == [(1, 2)]
    assert table.give("d") == 6


def test_a_number_that_would_make_one_gap_too_many_is_not_given_and_nothing_is_lost() -> None:
    table = ImageTable()
    for step in range(MOST_GAPS):
        assert table.give(f"odd {step}", 2 * step + 2) == 2 * step + 2
    highest = 2 * MOST_GAPS
    assert table.give("beyond", highest + 2) == highest + 1
    assert table.give("in a gap", 3) == 3
    assert len(table.gaps) == MOST_GAPS - 1
    assert len(table) == MOST_GAPS + 2


def test_a_gap_is_not_split_when_that_makes_one_too_many() -> None:
    table = ImageTable()
    for step in range(MOST_GAPS):
        table.give(f"fourth {step}", 4 * step + 4)
    assert table.give("middle", 2) == 4 * MOST_GAPS + 1
    assert table.give("edge", 1) == 1
    assert len(table.gaps) == MOST_GAPS


steps = st.lists(
    st.one_of(
        st.tuples(st.just("give"), st.integers(0, 20), st.none() | st.integers(-1, 30)),
        st.tuples(st.just("give"), st.integers(0, 200), st.none() | st.integers(1, 2000)),
        st.tuples(st.just("delete"), st.integers(0, 40), st.none()),
        st.tuples(st.just("move out"), st.integers(0, 8), st.none()),
    ),
    max_size=120,
)


@given(steps)
def test_a_number_never_moves_and_never_means_two(story: list[tuple[str, int, int | None]]) -> None:
    table = ImageTable()
    numbers: dict[int, int] = {}
    for step, which, wanted in story:
        match step:
            case "give":
                if which in numbers and str(which) not in table.recent:
                    continue  # its number stands elsewhere, and nobody asks the table
                new, free = which not in numbers, wanted is not None and wanted > 0 and wanted not in numbers.values()
                number = table.give(str(which), wanted)
                assert new == (number not in numbers.values())
                assert numbers.setdefault(which, number) == number
                if new and free and len(table.gaps) < MOST_GAPS - 1:
                    assert number == wanted
            case "delete":
                table.delete(which)
            case _:
                table.move_out(list(table.recent)[:which])
        given_out = sorted(numbers.values())
        assert list(table.numbers()) == given_out
        assert len(table) == len(given_out)
        assert [number for number in range(-1, table.next + 2) if number in table] == given_out
        assert len(table.gaps) <= MOST_GAPS
        assert len(table.recent) + table.moved_out == len(given_out)
        assert not set(table.deleted) & set(table.loaded)


def test_a_number_is_not_given_again_after_its_image_was_deleted() -> None:
    table = ImageTable()
    assert [table.give("a"), table.give("b")] == [1, 2]
    table.delete(2)
    assert table.give("c", 2) == 3
    assert table.give("b") == 2
    assert 2 in table


def test_the_older_half_moves_out_when_there_are_too_many() -> None:
    table = ImageTable()
    for image in range(MOST_RECENT):
        table.give(str(image))
    assert table.overflow() == {}
    table.give("one more")
    moving = table.overflow()
    assert list(moving.items())[:2] == [("0", 1), ("1", 2)]
    assert len(table.recent) - len(moving) == MOST_RECENT // 2
    table.move_out([*moving, "never seen"])
    assert table.moved_out == len(moving)
    assert list(table.recent)[-1] == "one more"
    assert len(table) == MOST_RECENT + 1
    table.move_out(moving)
    assert table.moved_out == len(moving)


# Loaded and forgotten


def table_of(count: int, *, tokens: int = 40) -> ImageTable:
    table = ImageTable()
    for image in range(count):
        table.arrive(table.give(str(image)), tool=False, tokens=tokens)
    return table


def test_an_image_is_loaded_from_its_arrival() -> None:
    table = table_of(2)
    assert [table.status(1), table.status(2)] == ["loaded", "loaded"]
    assert table.tokens == 80
    assert table.forgot == 0


def test_forgetting_says_what_went_and_moves_the_stamp_once() -> None:
    table = table_of(3)
    before = table.stamp
    assert table.forget([1, 3, 1, 7]) == [1, 3]
    assert [table.status(number) for number in (1, 2, 3)] == ["forgotten", "loaded", "forgotten"]
    assert table.stamp == table.forgot == before + 1
    assert table.forget([1]) == []
    assert table.stamp == before + 1


def test_a_look_loads_what_was_forgotten_and_is_the_most_recent_use() -> None:
    table = table_of(3)
    assert table.use(1, 100) is False
    assert list(table.loaded) == [2, 3, 1]
    assert table.tokens == 220
    table.forget([2])
    stamp = table.stamp
    assert table.use(2, 7) is True
    assert table.stamp == table.forgot == stamp + 1
    assert list(table.loaded) == [3, 1, 2]
    assert table.loaded[2].tokens == 7


def test_whose_image_it_is_can_be_said_again_when_it_comes_back() -> None:
    table = ImageTable()
    table.arrive(table.give("shot"), tool=True, tokens=1)
    table.forget([1])
    table.use(1, tool=True)
    assert table.loaded[1].tool


def test_an_unknown_number_cannot_be_used_pinned_or_deleted() -> None:
    table = table_of(1)
    table.give("b", 5)
    before = table.stamp
    for number in (0, -1, 2, 4, 6):
        assert table.use(number) is False
        table.pin(number)
        table.delete(number)
    assert (list(table.loaded), table.deleted, table.stamp) == ([1], [], before)


def test_pinning_loads_and_unpinning_leaves_it_loaded() -> None:
    table = table_of(2)
    table.forget([1])
    table.pin(1)
    assert [number for number, image in table.loaded.items() if image.pinned] == [1]
    table.unpin(1)
    assert [number for number, image in table.loaded.items() if image.pinned] == []
    assert table.status(1) == "loaded"
    table.unpin(9)


def test_a_deleted_image_is_neither_loaded_nor_forgotten_and_never_comes_back() -> None:
    table = table_of(2)
    table.pin(1)
    table.delete(1)
    assert table.status(1) == "deleted"
    assert table.use(1) is False
    table.pin(1)
    table.arrive(1, tool=False, tokens=1)
    table.delete(1)
    assert (table.status(1), table.deleted, list(table.loaded)) == ("deleted", [1], [2])


@pytest.mark.parametrize("forgotten", [True, False])
def test_the_brain_is_to_be_told_of_a_deletion_even_if_the_image_was_forgotten_before(forgotten: bool) -> None:
    table = table_of(1)
    table.forget([1] if forgotten else [])
    before = table.stamp
    table.delete(1)
    assert table.stamp == table.forgot == before + 1


def test_a_look_stands_while_its_images_stay_loaded_and_not_again_after_they_came_back() -> None:
    table = table_of(2)
    look = table.stamp
    assert table.stands([1], look)
    assert table.stands([1, 2], look)
    table.arrive(table.give("later"), tool=False, tokens=1)
    assert table.stands([1, 2], look)
    assert not table.stands([3], look)
    table.forget([1])
    assert not table.stands([1], look)
    assert not table.stands([1, 2], look)
    assert table.stands([2], look)
    table.use(1)
    assert not table.stands([1], look)
    assert table.stands([1, 2], table.stamp)


def test_what_is_found_out_is_noted_of_loaded_images_only() -> None:
    table = table_of(2)
    table.forget([1])
    for number in (1, 2, 9):
        table.note(number, likeness="ff")
    table.note(2, described=True)
    assert {number: (image.likeness, image.described) for number, image in table.loaded.items()} == {2: ("ff", True)}


def test_a_person_brings_back_all_that_was_seen_and_a_brain_does_not() -> None:
    table = ImageTable()
    number = table.give("a")
    table.arrive(number, tool=False, tokens=5)
    seen = table.stamp
    table.forget([number])
    table.use(number)
    assert not table.stands([number], seen)
    table.forget([number])
    assert table.load(number, 7, tool=True)
    assert table.stands([number], seen)
    assert (table.loaded[number].tokens, table.loaded[number].tool) == (7, True)
    assert table.forgot == table.stamp, "the brain is told"


def test_loading_what_is_loaded_deleted_or_nobodys_changes_nothing() -> None:
    table = ImageTable()
    first, second = table.give("a"), table.give("b")
    for number in (first, second):
        table.arrive(number, tool=False, tokens=5)
    table.delete(second)
    before = (table.stamp, list(table.loaded))
    assert not any(table.load(number, 7) for number in (first, second, 9))
    assert (table.stamp, list(table.loaded)) == before
