"""Answers of real servers, as recorded, through the whole pure path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.protocol.chat.reader import ChunkReader, CompletionReader
from router.protocol.events import Complete, Fail
from router.protocol.own_tools import OwnTools
from router.protocol.parts import ErrorFrame, Finish, Part, Reasoning, Text, ToolArgs, ToolStart, Usage
from router.protocol.turn import is_object
from tests.playbook import client_ids, owning
from tests.pure_splice import (
    Answer,
    Call,
    Cut,
    Spliced,
    at,
    byte_by_byte,
    minting,
    read_stream,
    somewhere,
    splice,
    whole,
)
from tests.wire_fixtures import completion, end, look, start, thoughts, words
from tools.call import ToolCall

FOLDER: Final = Path(__file__).parent / "transcripts"

FOLLOW_UP: Final = (
    b'data: {"id":"f","choices":[{"index":0,"delta":{"role":"assistant","content":"A cat."}}]}\n\n'
    b'data: {"id":"f","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
FOLLOW_UP_WHOLE: Final = b'{"id":"f","choices":[{"message":{"content":"A cat."},"finish_reason":"stop"}]}'

NO_HTTP: Final = {"llamacpp/image_probe.txt", "vllm/uuid_and_image_probe.txt"}
"""Notes of a probe's results, not answers of a server."""

BROKEN_STREAMS: Final = {
    # `transformers serve` could not parse its model's tool call.
    "hf-brain/b_named_stream.txt": '{"error": "json parser could not parse region as JSON.',
    "hf-brain/b_none_stream.txt": '{"error": "json parser could not parse region as JSON.',
    "hf-brain/b_required_stream.txt": '{"error": "json parser could not parse region as JSON.',
    "hf-brain/b_sys_stream.txt": '{"error": "json parser could not parse region as JSON.',
    "hf-brain/b_tool_stream.txt": '{"error": "json parser could not parse region as JSON.',
    "hf-brain/b_tool_stream_usage.txt": '{"error": "json parser could not parse region as JSON.',
    # It failed before its first event, after the status.
    "llama-cpp-python/tools_required_stream.txt": "the text model's server ended its answer in the middle",
    # Its grammar did not cover what the model said.
    "llamacpp/tools_required_stream_think_strict.txt": (
        "The model produced output that does not match the expected peg-native format"
    ),
}


@dataclass(frozen=True)
class Recording:
    name: str
    status: int
    media_type: str
    body: bytes


def recordings() -> list[Recording]:
    # Those of other wire formats have tests of their own.
    files = sorted(path for path in FOLDER.rglob("*.txt") if not path.parent.name.endswith(("-messages", "-responses")))
    names = {path.relative_to(FOLDER).as_posix(): path for path in files}
    assert names.keys() >= NO_HTTP
    return [recording(name, path.read_bytes()) for name, path in names.items() if name not in NO_HTTP]


def recording(name: str, raw: bytes) -> Recording:
    """Takes off what was recorded around an answer: two lines before it, and after it a line end and the times."""
    asked, note, answer = raw.split(b"\n", 2)
    assert asked.startswith(b"# POST "), name
    assert note.startswith(b"# ---- raw response"), name
    head, body = answer.split(b"\r\n\r\n", 1)
    status, *lines = head.split(b"\r\n")
    headers = {key.lower(): value.strip() for key, value in (line.decode().split(":", 1) for line in lines)}
    body, times = body[: body.rindex(b"\n# total ")], body[body.rindex(b"\n# total ") + 1 :]
    assert times.rstrip(b"\n").endswith(b"http " + status.split()[1]), name
    if "content-length" in headers and name.startswith(("vllm", "llamacpp")):  # the others' bodies named folders
        assert int(headers["content-length"]) == len(body), name
    return Recording(name, int(status.split()[1]), headers["content-type"].partition(";")[0], body)


RECORDINGS: Final = {one.name: one for one in recordings()}
STREAMS: Final = [name for name, one in RECORDINGS.items() if one.media_type == "text/event-stream"]
COMPLETIONS: Final = [
    name for name, one in RECORDINGS.items() if one.status == 200 and one.media_type == "application/json"
]


LATER: Final = {
    f"b_{question}_{turn}{manner}.txt"
    for question in ("two_looks", "pictures_first", "mixed")
    for turn in ("", "follow_")
    for manner in ("stream", "stream_think", "nonstream")
}
"""Recorded by `tests.engines.record`: two calls in one turn and what follows them."""


def test_every_recording_is_used() -> None:
    later = {name for name in RECORDINGS if Path(name).name in LATER}
    kinds = Counter((one.media_type, one.status == 200) for name, one in RECORDINGS.items() if name not in later)
    assert kinds == {
        ("text/event-stream", True): 84,
        ("application/json", True): 38,
        ("application/json", False): 34,
        ("text/plain", False): 9,
    }
    assert later >= {f"hf-brain-xml/{name}" for name in LATER}
    assert later <= {*STREAMS, *COMPLETIONS}
    assert {name for name in later if "nonstream" in name} == later & set(COMPLETIONS)
    assert set(BROKEN_STREAMS) <= set(STREAMS)


@cache
def parts_of(name: str) -> tuple[Part, ...]:
    body = RECORDINGS[name].body
    reader = ChunkReader(minting()) if name in STREAMS else CompletionReader(minting())
    return (*reader.feed(body), *reader.close())


WRITTEN_CALLS: Final = {"llamacpp-brain/b_none_stream.txt"}
"""Streams in which the model writes its call as text, because it was forbidden to make one."""


def own(name: str) -> OwnTools:
    """Where calls are forbidden, our tools are not on offer either."""
    return owning() if name in WRITTEN_CALLS else owning("analyzeImage")


def shown(name: str) -> str:
    """The words of a recorded turn as the client sees them."""
    text = said(name, Text)
    called = bool(started(name))
    # vLLM with `required` lets the opening tag through as content before the call
    return text.rstrip().removesuffix("<tool_call>").rstrip() if called else text


OURS: Final = "analyzeImage"


def started(name: str) -> list[ToolStart]:
    return [part for part in parts_of(name) if isinstance(part, ToolStart)]


def of_client(name: str) -> list[ToolStart]:
    return [part for part in started(name) if part.name != OURS]


def thought(name: str) -> str:
    """The thoughts of a recorded turn as the client sees them: white space before a call is not shown."""
    pieces = [part.text for part in parts_of(name) if isinstance(part, Reasoning)]
    while started(name) and pieces and pieces[-1].isspace():
        pieces.pop()
    return "".join(pieces)


def said(name: str, kind: type[Text | Reasoning | ToolArgs]) -> str:
    return "".join(part.text for part in parts_of(name) if isinstance(part, kind))


def looks(name: str) -> bool:
    """Whether the recorded turn is followed by another."""
    reasons = [part.reason for part in parts_of(name) if isinstance(part, Finish)]
    return reasons != ["length"] and bool(started(name)) and not of_client(name)


def arguments_of(name: str, call: ToolStart) -> str:
    return "".join(part.text for part in parts_of(name) if isinstance(part, ToolArgs) and part.slot == call.slot)


def check_calls(name: str, spliced: Spliced, called: Sequence[Call]) -> None:
    """The client has its own calls and no other; ours of a mixed turn run behind its back."""
    theirs, ours = of_client(name), [call for call in started(name) if call.name == OURS]
    assert {call.name for call in theirs} <= {"get_weather"}
    assert called == [Call(call.id, call.name, arguments_of(name, call)) for call in theirs]
    deferred = spliced.deferred.calls if spliced.deferred else ()
    assert deferred == tuple(ToolCall(call.id, OURS, arguments_of(name, call)) for call in ours if theirs)


@cache
def uncut(name: str) -> Spliced:
    return splice([RECORDINGS[name].body, *([FOLLOW_UP] if looks(name) else [])], own=own(name), include_usage=True)


@pytest.mark.parametrize("name", STREAMS)
def test_a_recorded_stream_becomes_a_canonical_answer(name: str) -> None:
    answer = read_stream(uncut(name).client, include_usage=True)
    check_calls(name, uncut(name), answer.calls)
    assert answer.model == ("brain" if RECORDINGS[name].body else "")
    if name in BROKEN_STREAMS:
        assert isinstance(uncut(name).outcome, Fail)
        assert answer.error is not None
        assert answer.error["message"].startswith(BROKEN_STREAMS[name])
        return
    assert isinstance(uncut(name).outcome, Complete)
    if looks(name):
        assert answer.text.endswith("A cat.")
        assert answer.text.startswith(shown(name))
        assert answer.finish == "stop"
        assert len(uncut(name).requests) == 2
    else:
        assert (answer.text, answer.reasoning) == (shown(name), thought(name))
        (finish,) = (part.reason for part in parts_of(name) if isinstance(part, Finish))
        assert answer.finish == finish
    counted = [part.values for part in parts_of(name) if isinstance(part, Usage)]
    assert (answer.usage is None) == (counted == [])
    if answer.usage is not None:
        assert answer.usage["prompt_tokens"] == counted[-1]["prompt_tokens"] > 0
        assert answer.usage["completion_tokens"] == counted[-1]["completion_tokens"] > 0


@pytest.mark.parametrize("name", STREAMS)
def test_a_recorded_stream_is_read_the_same_byte_by_byte(name: str) -> None:
    turns = [RECORDINGS[name].body, *([FOLLOW_UP] if looks(name) else [])]
    assert splice(turns, cut=byte_by_byte, own=own(name), include_usage=True) == uncut(name)
    crlf = [turn.replace(b"\n", b"\r\n") for turn in turns]
    if name not in BROKEN_STREAMS:  # their errors hold line ends of their own
        assert splice(crlf, cut=byte_by_byte, own=own(name), include_usage=True) == uncut(name)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 50_000), max_size=12))
def test_a_recorded_stream_is_read_the_same_at_any_cuts(name: str, places: Sequence[int]) -> None:
    turns = [RECORDINGS[name].body, *([FOLLOW_UP] if looks(name) else [])]
    assert splice(turns, cut=at(*places), own=own(name), include_usage=True) == uncut(name)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(STREAMS), st.integers(0, 50_000))
def test_a_recorded_stream_that_is_cut_off_never_passes_for_a_whole_one(name: str, place: int) -> None:
    body = RECORDINGS[name].body
    body = body[: place % max(1, len(body))]
    reader = ChunkReader(minting())
    parts = [*reader.feed(body), *reader.close()]
    finished = reader.clean or any(isinstance(part, Finish) for part in parts)
    if finished or any(isinstance(part, ToolStart) for part in parts):
        return  # enough was said; the exchange's own tests hold the rules
    spliced = splice([body], own=own(name))
    assert isinstance(spliced.outcome, Fail)
    assert read_stream(spliced.client).finish is None


@pytest.mark.parametrize("name", COMPLETIONS)
def test_a_recorded_completion_becomes_one_answer(name: str) -> None:
    body = RECORDINGS[name].body
    spliced = splice([body, *([FOLLOW_UP_WHOLE] if looks(name) else [])], stream=False)
    assert isinstance(spliced.outcome, Complete)
    answer, recorded = orjson.loads(spliced.client), orjson.loads(body)
    assert answer["model"] == "brain"
    assert answer["id"] == recorded["id"]
    calls = answer["choices"][0]["message"].get("tool_calls", [])
    check_calls(name, spliced, [Call(call["id"], **call["function"]) for call in calls])
    assert calls or b'"tool_calls":' not in spliced.client
    if looks(name):
        assert answer["choices"][0]["message"]["content"].endswith("A cat.")
        assert len(spliced.requests) == 2
        return
    assert not any(isinstance(part, ErrorFrame) for part in parts_of(name))
    (choice,), (theirs,) = answer["choices"], recorded["choices"]
    # One parser lost the call that its finish reason tells of.
    assert choice["finish_reason"] == (
        theirs["finish_reason"] if calls else theirs["finish_reason"].replace("tool_calls", "stop")
    )
    assert choice["message"]["content"] == (theirs["message"]["content"] or (None if calls else ""))
    assert choice["message"].get("reasoning_content", "") == said(name, Reasoning)
    assert answer["usage"].items() >= {key: recorded["usage"][key] for key in ("prompt_tokens", "total_tokens")}.items()
    unknown = recorded.keys() - {"id", "created", "model", "choices", "usage", "object"}
    assert {key: answer[key] for key in unknown} == {key: recorded[key] for key in unknown}


def test_the_calls_in_the_recordings_are_read() -> None:
    """Each server that called our tool, with the arguments its model wrote."""
    called = {
        name: [arguments_of(name, call) for call in started(name) if call.name == OURS]
        for name in (*STREAMS, *COMPLETIONS)
        if started(name)
    }
    whole_calls = {name for name, some in called.items() if all(one != "{}" and is_object(one) for one in some)}
    assert {name.partition("/")[0] for name in whole_calls} >= {"vllm-brain", "llamacpp-brain", "hf-brain-xml"}
    for name in whole_calls:
        if looks(name) and name in STREAMS:
            (calls,) = uncut(name).calls
            assert [(call.name, call.arguments) for call in calls] == [(OURS, some) for some in called[name]]


# The same answers as the second turn, after a look

SCRIPTED: Final = {"prompt_tokens": 50, "completion_tokens": 9}
LOOK_FIRST: Final = start() + thoughts("Hm.") + words("Let me look.") + look() + end("tool_calls", **SCRIPTED)
LOOK_FIRST_WHOLE: Final = completion(
    {
        "role": "assistant",
        "content": "Let me look.",
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "l1", "type": "function", "function": {"name": OURS, "arguments": '{"image": "1"}'}}],
    },
    "tool_calls",
    usage=SCRIPTED,
)
LOOKED: Final = ToolCall("l1", OURS, '{"image": "1"}')


def turns_of(name: str) -> list[bytes]:
    """The recorded answer, and the one after it where it looks; here our tool is always on offer."""
    follows = looks(name) or name in WRITTEN_CALLS
    return [RECORDINGS[name].body, *([FOLLOW_UP if name in STREAMS else FOLLOW_UP_WHOLE] if follows else [])]


@cache
def as_first(name: str) -> Spliced:
    return splice(turns_of(name), include_usage=True, stream=name in STREAMS)


def after_a_look(name: str, cut: Cut = whole) -> Spliced:
    look_first = LOOK_FIRST if name in STREAMS else LOOK_FIRST_WHOLE
    return splice([look_first, *turns_of(name)], cut=cut, include_usage=True, stream=name in STREAMS)


@cache
def uncut_after_a_look(name: str) -> Spliced:
    return after_a_look(name)


def joined(before: str, after: str) -> str:
    return before + after if not after or after.isspace() else f"{before}\n\n{after.lstrip(chr(10))}"


def with_the_look(usage: dict[str, Any] | None, spliced: Spliced) -> dict[str, Any]:
    """The usage of both: the prompt is the last turn's that was counted, the rest is the sum."""
    alone = usage or {"prompt_tokens": 50, "completion_tokens": 0, "chiasm": {"billed_prompt_tokens": 0}}
    looks_made = sum(len(calls) for calls in spliced.calls)
    completion_tokens = alone["completion_tokens"] + 9
    return {
        **alone,
        "completion_tokens": completion_tokens,
        "total_tokens": alone["prompt_tokens"] + completion_tokens,
        "chiasm": {
            "turns": len(spliced.requests),
            "vision_calls": looks_made,
            "vision_prompt_tokens": looks_made * 100,
            "vision_completion_tokens": looks_made * 10,
            "billed_prompt_tokens": alone["chiasm"]["billed_prompt_tokens"] + 50,
        },
    }


def check_requests(first: Spliced, second: Spliced) -> None:
    """What the brain is asked is what it would have been asked, with the look behind the user's words."""
    asked, *following = second.requests
    base = len(asked["messages"])
    assert asked == first.requests[0]
    assert len(following) == len(first.requests)
    hidden = following[0]["messages"][base:]
    assert [message["role"] for message in hidden] == ["assistant", "tool"]
    for with_look, without in zip(following, first.requests, strict=True):
        messages = [*without["messages"][:base], *hidden, *without["messages"][base:]]
        assert with_look == {**without, "messages": messages}
    assert second.calls == [(LOOKED,), *first.calls]
    assert (second.deferred is None) == (first.deferred is None)
    if second.deferred is not None and first.deferred is not None:
        assert (second.deferred.calls, client_ids(second.deferred)) == (
            first.deferred.calls,
            client_ids(first.deferred),
        )
        assert list(second.deferred.said) == [*hidden, *first.deferred.said]


@pytest.mark.parametrize("name", STREAMS)
def test_after_a_look_a_recorded_stream_says_what_it_says_as_the_first_turn(name: str) -> None:
    first, second = as_first(name), uncut_after_a_look(name)
    alone, answer = read_stream(first.client, include_usage=True), read_stream(second.client, include_usage=True)
    assert answer == Answer(
        id="u1",
        created=1,
        model="brain",
        text=joined("Let me look.", alone.text),
        reasoning=joined("Hm.", alone.reasoning),
        calls=alone.calls,
        finish=alone.finish,
        usage=None if alone.error else with_the_look(alone.usage, second),
        error=alone.error,
        order=[kind for kind, _ in groupby(["reasoning", "text", *alone.order])],
    )
    assert type(second.outcome) is type(first.outcome)
    assert b"l1" not in second.client
    assert (OURS.encode() in second.client) == (OURS.encode() in first.client)
    check_requests(first, second)


@pytest.mark.parametrize("name", STREAMS)
def test_after_a_look_a_recorded_stream_is_read_the_same_however_it_is_cut(name: str) -> None:
    for cut in (byte_by_byte, *map(somewhere, range(3))):
        assert after_a_look(name, cut) == uncut_after_a_look(name)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from((*STREAMS, *COMPLETIONS)), st.lists(st.integers(0, 50_000), max_size=12))
def test_after_a_look_a_recorded_answer_is_read_the_same_at_any_cuts(name: str, places: Sequence[int]) -> None:
    assert after_a_look(name, at(*places)) == uncut_after_a_look(name)


@pytest.mark.parametrize("name", COMPLETIONS)
def test_after_a_look_a_recorded_completion_says_what_it_says_as_the_first_turn(name: str) -> None:
    first, second = as_first(name), uncut_after_a_look(name)
    expected, answer = orjson.loads(first.client), orjson.loads(second.client)
    message = expected["choices"][0]["message"]
    message["content"] = joined("Let me look.", message["content"] or "")
    message["reasoning_content"] = joined("Hm.", message.get("reasoning_content", ""))
    expected |= {"id": "u1", "created": 1, "usage": with_the_look(expected.get("usage"), second)}
    assert answer == expected
    check_requests(first, second)
    for cut in (byte_by_byte, *map(somewhere, range(3))):
        assert after_a_look(name, cut) == second
