"""Chunks that are like one before them are read without being parsed, and say the same as if they were."""

from __future__ import annotations

from collections.abc import Iterable
from unittest.mock import patch

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.protocol.chat.alike import MOST_BYTES, Alike
from router.protocol.chat.reader import ChunkReader
from router.protocol.parts import Part, Reasoning, Text
from tests.pure_splice import at, minting
from tests.test_transcripts import RECORDINGS, STREAMS
from tests.wire_fixtures import DONE, call, chunk, data, start


class Unlike(Alike):
    """Has everything read in full."""

    def read(self, data: bytes) -> tuple[list[Part], bytes]:
        return [], data


def read(pieces: Iterable[bytes]) -> tuple[list[Part], bool]:
    reader = ChunkReader(minting())
    parts = [part for piece in pieces for part in reader.feed(piece)]
    return [*parts, *reader.close()], reader.clean


def read_in_full(pieces: Iterable[bytes]) -> tuple[list[Part], bool]:
    with patch("router.protocol.chat.reader.Alike", Unlike):
        return read(pieces)


def parsed_of(pieces: Iterable[bytes]) -> list[bytes]:
    """What of the stream was parsed as JSON."""
    seen: list[bytes] = []

    def noted(data: bytes) -> object:
        seen.append(data)
        return orjson.loads(data)

    with patch("router.protocol.chat.reader.parsed", noted):
        read(pieces)
    return seen


def events(stream: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in stream.split(b"\n\n")[:-1]]


def word(text: str) -> bytes:
    return chunk({"content": text})


@pytest.mark.parametrize("name", STREAMS)
def test_a_recorded_stream_says_the_same_with_an_event_in_each_read(name: str) -> None:
    pieces = events(RECORDINGS[name].body)
    assert read(pieces) == read_in_full(pieces)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 50_000), max_size=12), st.integers(1, 5))
def test_a_recorded_stream_says_the_same_at_any_cuts(name: str, places: list[int], together: int) -> None:
    whole = events(RECORDINGS[name].body)
    grouped = [b"".join(whole[i : i + together]) for i in range(0, len(whole), together)]
    half = len(grouped) // 2
    pieces = [*grouped[:half], *at(*places)(b"".join(grouped[half:]))]  # the first half, so that something is learnt
    assert read(pieces) == read_in_full(pieces)


LETTERS = st.sampled_from(['"', "\\", "}", "]", ",", ":", "\n", "\r", " ", "é", "\U0001f600", "\u2028", "\0", "a"])
TEXTS = st.lists(LETTERS, max_size=8).map("".join) | st.text(max_size=8) | st.just('"},"finish_reason":null}]}\n\n')
FIELDS = st.sampled_from(["content", "reasoning", "reasoning_content", "refusal"])


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    match draw(st.integers(0, 7)):
        case 0:
            delta = {name: draw(TEXTS) for name in draw(st.lists(FIELDS, max_size=3))}
            return chunk(delta, draw(st.sampled_from([None, "stop"])))
        case 1:
            return call(index=0, id="", arguments=draw(TEXTS))
        case 2:
            return chunk({"content": draw(TEXTS), "tool_calls": [{"index": 0, "function": {"arguments": "x"}}]})
        case 3:
            return draw(st.sampled_from([DONE, b": alive\n\n", b"data: alive\n\n", b"\n\n", word("")]))
        case 4:
            return word(draw(TEXTS)).replace(b"\n", b"\r\n")
        case 5:
            return word("MARK").replace(
                b"MARK", draw(st.sampled_from([b"\\ud83d", b"\xff", b"\t", b'a","content":"b']))
            )
        case _:
            return word(draw(TEXTS))


@settings(max_examples=500, deadline=None)
@given(st.lists(chunks(), max_size=12), st.lists(st.integers(0, 5_000), max_size=3), st.booleans())
def test_any_stream_says_the_same(pieces: list[bytes], places: list[int], whole: bool) -> None:
    pieces = [start(), word("a"), *pieces] if whole else [start(), word("a"), *at(*places)(b"".join(pieces))]
    assert read(pieces) == read_in_full(pieces)


@pytest.mark.parametrize("field", ["content", "reasoning", "reasoning_content"])
def test_of_many_chunks_that_are_alike_one_is_parsed(field: str) -> None:
    pieces = [start(), *(chunk({field: text}) for text in ("one", 'two "\\\n', "é", "}"))]
    kind = Text if field == "content" else Reasoning
    assert read(pieces)[0][1:] == [kind(text) for text in ("one", 'two "\\\n', "é", "}")]
    whole = [piece for piece in parsed_of(pieces) if b"nobody says this" not in piece]
    assert whole == [piece[6:-2] for piece in pieces[:2]]


def test_chunks_that_are_alike_are_not_parsed_when_they_come_together() -> None:
    pieces = [start(), word("one"), word("two") + word("three") + word("four")[:20], word("four")[20:]]
    assert [part.text for part in read(pieces)[0] if isinstance(part, Text)] == ["one", "two", "three", "four"]
    assert not [piece for piece in parsed_of(pieces) if b"two" in piece or b"three" in piece]


def test_a_server_that_tells_the_time_is_learnt_anew_each_second() -> None:
    pieces = [start()]
    for second in range(20):
        pieces += [data({"created": second, "choices": [{"delta": {"content": f"{second}{i}"}}]}) for i in range(3)]
    whole = [piece for piece in parsed_of(pieces) if b"nobody says this" not in piece]
    assert len(whole) == 1 + 20


def test_a_server_that_counts_in_each_chunk_is_not_learnt_for_ever() -> None:
    pieces = [start(), *(data({"id": i, "choices": [{"delta": {"content": "a"}}]}) for i in range(100))]
    assert len(parsed_of(pieces)) < 1 + 100 + 10


def test_a_fragment_of_a_call_beside_words_is_not_lost() -> None:
    both = [
        chunk({"content": text, "tool_calls": [{"index": 0, "function": {"arguments": text}}]}) for text in ("{", "}")
    ]
    pieces = [start(), *both, call(index=0, id="c", name="f")]
    assert read(pieces) == read_in_full(pieces)


def test_nothing_is_said_after_the_end() -> None:
    assert [part for part in read([start(), word("a"), DONE, word("b")])[0] if isinstance(part, Text)] == [Text("a")]


def test_a_very_long_text_is_read_in_full() -> None:
    long = "x" * MOST_BYTES
    pieces = [start(), word("a"), word(long), word("b")]
    assert [part.text for part in read(pieces)[0] if isinstance(part, Text)] == ["a", long, "b"]
    assert any(long.encode() in piece for piece in parsed_of(pieces))
