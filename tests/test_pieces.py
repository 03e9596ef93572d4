"""A text that grows by words."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.protocol import pieces as module
from router.protocol.pieces import Pieces


@given(st.lists(st.text(max_size=5)))
def test_it_is_what_was_appended(words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST", 3)
        pieces = Pieces()
        for word in words:
            pieces.append(word)
    assert str(pieces) == "".join(words)
    assert bool(pieces) == bool(words)
    assert pieces == Pieces(words)


def test_other_words_are_another_text() -> None:
    assert Pieces(["a"]) != Pieces(["b"])
    assert Pieces(["a"]) != "a"


def test_a_hundred_thousand_words_take_little_more_than_their_letters() -> None:
    letters = 600_000
    tracemalloc.start()
    try:
        pieces = Pieces()
        for number in range(100_000):
            pieces.append(f"{number:06}")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(str(pieces)) == letters
    assert held < 1.5 * letters
