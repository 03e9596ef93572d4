"""The decoder of server-sent events, against a slow one that follows the specification line by line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.protocol.sse import MAX_EVENT_BYTES, EventTooLarge, ServerSentEvent, SSEDecoder, comment, data_event
from tests.pure_splice import at, byte_by_byte, somewhere, whole


def decode(pieces: Iterable[bytes]) -> list[ServerSentEvent]:
    decoder = SSEDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.close()


def reference(stream: bytes) -> list[ServerSentEvent]:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html, "event stream interpretation", word by word; but
    an event that the stream's end cuts off is reported, too."""
    if stream.startswith(b"\xef\xbb\xbf"):
        stream = stream[3:]
    events: list[ServerSentEvent] = []
    data: list[bytes] = []
    name = b""
    for line in [*re.split(rb"\r\n|\n|\r", stream), b""]:
        if line == b"":
            if data:
                events.append(ServerSentEvent(b"\n".join(data), name.decode("utf-8", "replace")))
            data, name = [], b""
            continue
        if line.startswith(b":"):
            continue
        field, colon, value = line.partition(b":")
        if colon and value.startswith(b" "):
            value = value[1:]
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return events


CASES: dict[str, tuple[bytes, list[ServerSentEvent]]] = {
    "one event": (b'data: {"a":1}\n\n', [ServerSentEvent(b'{"a":1}')]),
    "two events": (b"data: a\n\ndata: b\n\n", [ServerSentEvent(b"a"), ServerSentEvent(b"b")]),
    "no space after the colon": (b"data:a\n\n", [ServerSentEvent(b"a")]),
    "only the first space goes": (b"data:  a \n\n", [ServerSentEvent(b" a ")]),
    "several data lines": (b"data: a\ndata:\ndata: b\n\n", [ServerSentEvent(b"a\n\nb")]),
    "data without a colon": (b"data\n\n", [ServerSentEvent(b"")]),
    "a named event": (b"event: ping\ndata: {}\n\n", [ServerSentEvent(b"{}", "ping")]),
    "the name after the data": (b"data: {}\nevent: ping\n\n", [ServerSentEvent(b"{}", "ping")]),
    "a name does not outlive its event": (b"event: ping\n\ndata: a\n\n", [ServerSentEvent(b"a")]),
    "comments": (b": hello\n\n:\n\ndata: a\n: in between\ndata: b\n\n", [ServerSentEvent(b"a\nb")]),
    "id and retry are nothing to us": (b"id: 1\nretry: 5\ndata: a\n\n", [ServerSentEvent(b"a")]),
    "unknown fields": (b"dat: x\nDATA: y\n data: z\ndata: a\n\n", [ServerSentEvent(b"a")]),
    "CR": (b"data: a\r\rdata: b\rdata: c\r\r", [ServerSentEvent(b"a"), ServerSentEvent(b"b\nc")]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [ServerSentEvent(b"a"), ServerSentEvent(b"b")]),
    "all line ends": (b"data: a\r\n\rdata: b\n\r\ndata: c\r\n\n", [ServerSentEvent(x) for x in (b"a", b"b", b"c")]),
    "a byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [ServerSentEvent(b"a")]),
    "a byte order mark only at the start": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [ServerSentEvent(b"a")]),
    "a byte order mark that is none": (b"\xef\xbbdata: a\n\n", []),
    "empty lines": (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [ServerSentEvent(b"a"), ServerSentEvent(b"b")]),
    "an unterminated event": (b"data: a\n\ndata: b", [ServerSentEvent(b"a"), ServerSentEvent(b"b")]),
    "an unterminated event with its line end": (b"data: a\r\n", [ServerSentEvent(b"a")]),
    "an unterminated comment": (b"data: a\n\n: b", [ServerSentEvent(b"a")]),
    "nothing": (b"", []),
    "line ends of Unicode": (
        'data: {"a":"x\u2028y\u2029z\u0085\v\f"}\n\n'.encode(),
        [ServerSentEvent('{"a":"x\u2028y\u2029z\u0085\v\f"}'.encode())],
    ),
    "long characters": ("data: 🐱é漢\n\n".encode(), [ServerSentEvent("🐱é漢".encode())]),
    "a name that is no UTF-8": (b"event: \xff\ndata: a\n\n", [ServerSentEvent(b"a", "\ufffd")]),
}


@pytest.mark.parametrize(("stream", "events"), CASES.values(), ids=CASES.keys())
def test_a_stream_is_the_same_however_it_is_cut(stream: bytes, events: list[ServerSentEvent]) -> None:
    assert reference(stream) == events
    assert decode(whole(stream)) == events
    assert decode(byte_by_byte(stream)) == events
    for place in range(len(stream)):
        assert decode(at(place)(stream)) == events
    for seed in range(20):
        assert decode(somewhere(seed, 4)(stream)) == events


SNIPPETS = st.sampled_from(
    [
        b"data",
        b":",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"event",
        b"data: a",
        b"\xef\xbb\xbf",
        "🐱".encode(),
        b"x",
        b'{"a":1}',
    ]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(SNIPPETS, max_size=30).map(b"".join), st.lists(st.integers(0, 200), max_size=8))
def test_any_bytes_in_any_pieces_are_read_as_the_specification_says(stream: bytes, places: Sequence[int]) -> None:
    assert decode(at(*places)(stream)) == reference(stream)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_rubbish_is_read_as_the_specification_says(stream: bytes, places: Sequence[int]) -> None:
    assert decode(at(*places)(stream)) == reference(stream)


def test_an_event_is_reported_with_the_byte_that_ends_it() -> None:
    for end in (b"\n\n", b"\r\r", b"\r\n\r"):
        decoder = SSEDecoder()
        assert decoder.feed(b"data: a" + end[:-1]) == []
        assert decoder.feed(end[-1:]) == [ServerSentEvent(b"a")]
    assert decoder.feed(b"\ndata: b\n\n") == [ServerSentEvent(b"b")]


def test_what_the_end_of_the_stream_gave_is_not_given_again() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a") == []
    assert decoder.close() == [ServerSentEvent(b"a")]
    assert decoder.close() == []


def test_empty_reads_change_nothing() -> None:
    assert decode([b"", b"data: a\r", b"", b"\n", b"", b"\r\n", b""]) == [ServerSentEvent(b"a")]


def test_what_is_written_is_read_again() -> None:
    stream = comment("keep-alive") + data_event(b'{"a":1}') + comment("bye") + data_event(b"[DONE]")
    assert stream == b': keep-alive\n\ndata: {"a":1}\n\n: bye\n\ndata: [DONE]\n\n'
    assert decode([stream]) == [ServerSentEvent(b'{"a":1}'), ServerSentEvent(b"[DONE]")]


# Limits and costs


def test_an_event_of_the_greatest_size_passes_whole_and_in_pieces() -> None:
    event = b"data: " + b"x" * (MAX_EVENT_BYTES - 6)
    for pieces in (
        [event + b"\n\ndata: b\n\n"],
        [event, b"\n", b"\ndata: b\n\n"],
        [event[:9], event[9:], b"\r\n\r\ndata: b\n\n"],
    ):
        assert [len(event.data) for event in decode(pieces)] == [MAX_EVENT_BYTES - 6, 1]


def test_a_larger_event_is_refused_whole_and_in_pieces() -> None:
    event = b"data: " + b"x" * (MAX_EVENT_BYTES - 5)
    for pieces in ([event + b"\n\n"], [event, b"\n\n"], [event, b"\n", b"\n"], [event, b"x", b"x"]):
        with pytest.raises(EventTooLarge, match=str(MAX_EVENT_BYTES)):
            decode(pieces)


def test_an_endless_event_is_refused_before_it_fills_the_memory() -> None:
    decoder = SSEDecoder()
    piece = b"x" * 65536

    def flood() -> None:
        for _ in range(2 * MAX_EVENT_BYTES // len(piece)):
            decoder.feed(piece)

    with pytest.raises(EventTooLarge):
        flood()
    assert len(decoder._buffer) <= MAX_EVENT_BYTES + len(piece)


class Counted(bytearray):
    """Counts the bytes that are searched for the end of an event."""

    searched = 0

    def find(self, sub: object, start: object = 0, end: object = None) -> int:
        assert isinstance(sub, bytes)
        assert isinstance(start, int)
        found = super().find(sub, start)
        self.searched += (len(self) if found < 0 else found + len(sub)) - start
        return found


@pytest.mark.parametrize("piece", [1, 7, 1000, 100_000])
@pytest.mark.parametrize("event", [20, 100_000])
def test_each_byte_is_searched_a_fixed_number_of_times(event: int, piece: int) -> None:
    stream = (b"data: " + b"x" * (event - 8) + b"\n\n") * (100_000 // event)
    decoder = SSEDecoder()
    buffer = decoder._buffer = Counted()
    events = sum(len(decoder.feed(stream[start : start + piece])) for start in range(0, len(stream), piece))
    assert events == len(stream) // event
    reads = -(-len(stream) // piece)
    assert len(stream) - reads <= buffer.searched <= len(stream) + reads  # at most one byte again at every read
    assert buffer == b"", "no more is kept than the unfinished event"
