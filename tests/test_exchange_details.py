"""What a server wants back to the letter: reasoning details, and what it hung on its calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.protocol.chat.reader import ChunkReader, CompletionReader
from router.protocol.chat.writer import ChunkWriter, CompletionWriter
from router.protocol.events import (
    CallTools,
    Complete,
    Keep,
    OpenUpstream,
    SendPart,
    ToolsCompleted,
    UpstreamEnded,
)
from router.protocol.parts import Finish, Opaque, Part, Reasoning, Text, ToolArgs, ToolStart
from router.protocol.reasoning_details import joined
from router.protocol.wire_format import Envelope
from tests.playbook import Playbook, a, counted_ids, mixed, nothing, owning, passes, playbook
from tools.call import ToolResult

ENDED: Final = UpstreamEnded(clean=True)
LOOK: Final = '{"image":"1"}'
FALLBACK: Final = Envelope("ours", 1, "brain")
SIGNATURE: Final = {"google": {"thought_signature": "c2ln"}}


def thought(text: str | None = None, *, index: int | None = 0, **more: Any) -> dict[str, Any]:
    detail = {"type": "reasoning.text", "index": index, **({} if text is None else {"text": text}), **more}
    return {key: value for key, value in detail.items() if key != "index" or index is not None}


def details(*said: Mapping[str, Any]) -> Opaque:
    return Opaque({"reasoning_details": list(said)})


SAID: Final = (details(thought("I must ")), details(thought("look.")), details(thought(signature="s1")))
WHOLE: Final = [thought("I must look.", signature="s1")]
OF_CALL: Final = {"type": "reasoning.encrypted", "index": 0, "id": "tool_0_analyzeImage", "data": "ZW5j"}


def hearing(book: Playbook, *said: Opaque) -> Playbook:
    for part in said:
        book = book >> part << nothing
    return book


def follow_up(book: Playbook) -> Mapping[str, Any]:
    """What the brain said, as it is told again after a look."""
    book = book >> ToolStart(0, "l", "analyzeImage", SIGNATURE_OF_CALL) >> ToolArgs(0, LOOK) >> Finish("tool_calls")
    assert book >> ENDED << a(CallTools) >> ToolsCompleted((ToolResult("l", "a cat"),)) << a(OpenUpstream)
    message = book.requests[-1]["messages"][1]
    assert isinstance(message, dict)
    return message


SIGNATURE_OF_CALL: Final = {"extra_content": SIGNATURE}


def test_a_follow_up_holds_the_details_of_the_thoughts_and_of_the_call() -> None:
    message = follow_up(hearing(playbook(), *SAID, details(OF_CALL)))
    assert message["reasoning_details"] == [*WHOLE, OF_CALL]
    assert message["tool_calls"] == [
        {
            "id": "l",
            "type": "function",
            "function": {"name": "analyzeImage", "arguments": LOOK},
            "extra_content": SIGNATURE,
        }
    ]


def test_a_turn_without_details_is_told_without() -> None:
    assert "reasoning_details" not in follow_up(playbook())


def test_details_of_a_turn_with_a_call_of_ours_never_reach_the_client() -> None:
    book = hearing(playbook(), *SAID, details(OF_CALL))
    follow_up(book)
    assert hearing(book, details(thought("A cat.", signature="s2")))
    assert book >> Text("It is a cat.") << passes >> Finish("stop")
    assert book >> ENDED << SendPart(details(thought("A cat.", signature="s2"))) << a(Complete, reason="stop")
    assert "analyzeImage" not in repr(book.sent)
    assert "s1" not in repr(book.sent)


def test_details_of_a_mixed_turn_are_kept_for_the_brain_only() -> None:
    book = hearing(playbook(), *SAID, details(OF_CALL))
    assert book >> ToolStart(0, "c", "bash", SIGNATURE_OF_CALL) << passes >> ToolArgs(0, "{}") << passes
    assert (
        book
        >> ToolStart(1, "l", "analyzeImage")
        >> ToolArgs(1, LOOK)
        >> Finish("tool_calls")
        >> ENDED
        << mixed()
        << a(Complete)
    )
    said = next(action.said for action in book.actions if isinstance(action, Keep))[-1]
    assert said["reasoning_details"] == [*WHOLE, OF_CALL]
    assert said["tool_calls"][0]["extra_content"] == SIGNATURE
    assert "extra_content" not in said["tool_calls"][1]
    assert not any(isinstance(part, Opaque) for part in book.sent)


def test_details_of_a_turn_with_calls_of_the_client_reach_it_whole_at_the_end() -> None:
    book = hearing(playbook(), *SAID)
    assert book >> ToolStart(0, "c", "bash", SIGNATURE_OF_CALL) << passes >> ToolArgs(0, "{}") << passes
    assert book >> Finish("tool_calls") >> ENDED << SendPart(details(*WHOLE)) << a(Complete, reason="tool_calls")


def test_where_no_tool_of_ours_is_offered_details_pass_as_they_come() -> None:
    book = playbook(own=owning()) >> SAID[0] << passes >> Reasoning("I must ") << passes
    assert book >> ToolStart(0, "c", "bash") << passes >> details(OF_CALL) << passes
    assert book >> Opaque({"x": 1, "reasoning_details": [OF_CALL]}) << SendPart(details(OF_CALL))
    assert book >> Finish("tool_calls") >> ENDED << a(Complete)


def test_other_fields_of_a_delta_pass_without_its_details() -> None:
    assert playbook() >> Opaque({"x": 1, "reasoning_details": WHOLE}) << SendPart(Opaque({"x": 1}))


# Fragments


@pytest.mark.parametrize(
    ("said", "whole"),
    [
        ([thought("a"), thought("b", index=1), thought("c")], [thought("ac"), thought("b", index=1)]),
        ([thought("a", index=None), thought("b", index=None)], [thought("ab", index=None)]),
        ([thought("a", signature=None), thought(signature="s")], [thought("a", signature="s")]),
        ([thought("a", signature="s"), thought("b", signature=None)], [thought("ab", signature="s")]),
        ([thought("a", signature="s"), thought("b", signature="t")], None),
        ([{"type": "reasoning.summary", "index": 0, "summary": "a"}, OF_CALL], None),
        ([OF_CALL, {**OF_CALL, "id": "other"}], None),
        ([OF_CALL, {**OF_CALL, "data": "b3RoZXI="}], None),
        (
            [{"type": "reasoning.encrypted", "data": "YQ=="}, thought("a", index=None), thought("b", index=None)],
            [{"type": "reasoning.encrypted", "data": "YQ=="}, thought("ab", index=None)],
        ),
        ([], None),
    ],
)
def test_fragments_are_joined_by_index_and_type(said: list[Any], whole: list[Any] | None) -> None:
    assert joined(said) == (said if whole is None else whole)


@given(st.lists(st.text(), min_size=1))
def test_no_letter_of_a_streamed_thought_is_lost(texts: list[str]) -> None:
    assert joined(map(thought, texts)) == [thought("".join(texts))]


# On the wire


def chunk(delta: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps({"id": "x", "choices": [{"index": 0, "delta": delta}]}) + b"\n\n"


CALL: Final = {
    "index": 0,
    "id": "c",
    "type": "function",
    "function": {"name": "f", "arguments": "{}"},
    "extra_content": SIGNATURE,
    "nothing": None,
}


def test_what_hangs_on_a_call_is_read_and_written_with_its_first_fragment() -> None:
    (_, start, _) = parts = ChunkReader(counted_ids()).feed(chunk({"tool_calls": [CALL]}))
    assert start == ToolStart(0, "c", "f", SIGNATURE_OF_CALL)
    writer = ChunkWriter(fallback=FALLBACK, include_usage=False)
    written = b"".join(map(writer.write, parts))
    assert written.count(b"extra_content") == 1
    assert b'"function":{"name":"f","arguments":""},"extra_content":' + orjson.dumps(SIGNATURE) in written


def whole(**message: Any) -> tuple[list[Part], dict[str, Any]]:
    """The parts of a whole answer, and what a client gets of them."""
    reader = CompletionReader(counted_ids())
    reader.feed(orjson.dumps({"id": "x", "choices": [{"message": message, "finish_reason": "stop"}]}))
    parts = list(reader.close())
    writer = CompletionWriter(fallback=FALLBACK, last_raw=lambda: reader.raw)
    for part in parts:
        writer.write(part)
    return parts, orjson.loads(writer.complete("stop", None))["choices"][0]["message"]


def test_details_of_a_whole_answer_are_read_and_written() -> None:
    parts, message = whole(content=None, tool_calls=[CALL], reasoning_details=WHOLE)
    assert parts[1] == ToolStart(0, "c", "f", SIGNATURE_OF_CALL)
    assert parts[3] == details(*WHOLE)
    assert message["reasoning_details"] == WHOLE
    assert message["tool_calls"][0]["extra_content"] == SIGNATURE


def test_details_that_the_exchange_keeps_back_are_not_in_a_whole_answer_either() -> None:
    reader = CompletionReader(counted_ids())
    message = {"content": "Hi.", "reasoning_details": WHOLE}
    reader.feed(orjson.dumps({"id": "x", "choices": [{"message": message, "finish_reason": "stop"}]}))
    reader.close()
    writer = CompletionWriter(fallback=FALLBACK, last_raw=lambda: reader.raw)
    writer.write(Text("Hi."))
    assert b"reasoning_details" not in writer.complete("stop", None)


@pytest.mark.parametrize("odd", ["text", {"index": 0}, [], [3], None])
def test_details_that_are_none_are_no_details(odd: Any) -> None:
    book = playbook() >> Opaque({"reasoning_details": odd}) << nothing
    assert book >> Text("Hi.") << passes >> Finish("stop") >> ENDED << a(Complete, reason="stop")
