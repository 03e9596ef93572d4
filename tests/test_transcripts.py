"""Answers of real servers, as recorded, through the whole pure path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.protocol.events import Complete, Fail
from router.protocol.openai_chat import ChunkReader, CompletionReader
from router.protocol.own_tools import OwnTools
from router.protocol.parts import ErrorFrame, Finish, Part, Reasoning, Text, ToolArgs, ToolStart, Usage
from router.protocol.turn import is_object
from tests.playbook import owning
from tests.pure_splice import Spliced, at, byte_by_byte, minting, read_stream, splice

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
    files = sorted(path for path in FOLDER.rglob("*.txt"))
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


def test_every_recording_is_used() -> None:
    kinds = Counter((one.media_type, one.status == 200) for one in RECORDINGS.values())
    assert kinds == {
        ("text/event-stream", True): 84,
        ("application/json", True): 38,
        ("application/json", False): 34,
        ("text/plain", False): 9,
    }
    assert (len(STREAMS), len(COMPLETIONS), len(RECORDINGS) + len(NO_HTTP)) == (84, 38, 167)
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
    called = any(isinstance(part, ToolStart) for part in parts_of(name))
    # vLLM with `required` lets the opening tag through as content before the call
    return text.rstrip().removesuffix("<tool_call>").rstrip() if called else text


def said(name: str, kind: type[Text | Reasoning | ToolArgs]) -> str:
    return "".join(part.text for part in parts_of(name) if isinstance(part, kind))


def looks(name: str) -> bool:
    """Whether the recorded turn is followed by another."""
    reasons = [part.reason for part in parts_of(name) if isinstance(part, Finish)]
    return reasons != ["length"] and any(isinstance(part, ToolStart) for part in parts_of(name))


@cache
def uncut(name: str) -> Spliced:
    return splice([RECORDINGS[name].body, *([FOLLOW_UP] if looks(name) else [])], own=own(name), include_usage=True)


@pytest.mark.parametrize("name", STREAMS)
def test_a_recorded_stream_becomes_a_canonical_answer(name: str) -> None:
    answer = read_stream(uncut(name).client, include_usage=True)
    names = {part.name for part in parts_of(name) if isinstance(part, ToolStart)}
    assert names <= {"analyzeImage"}
    assert answer.calls == [], "all recorded calls are ours"
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
        called = any(isinstance(part, ToolStart) for part in parts_of(name))
        thought = said(name, Reasoning)
        assert (answer.text, answer.reasoning) == (shown(name), thought.rstrip() if called else thought)
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
    assert b"tool_calls" not in spliced.client
    if looks(name):
        assert answer["choices"][0]["message"]["content"].endswith("A cat.")
        assert len(spliced.requests) == 2
        return
    assert not any(isinstance(part, ErrorFrame) for part in parts_of(name))
    (choice,), (theirs,) = answer["choices"], recorded["choices"]
    # One parser lost the call that its finish reason tells of.
    assert choice["finish_reason"] == theirs["finish_reason"].replace("tool_calls", "stop")
    assert choice["message"]["content"] == (theirs["message"]["content"] or "")
    assert choice["message"].get("reasoning_content", "") == said(name, Reasoning)
    assert answer["usage"].items() >= {key: recorded["usage"][key] for key in ("prompt_tokens", "total_tokens")}.items()
    unknown = recorded.keys() - {"id", "created", "model", "choices", "usage", "object"}
    assert {key: answer[key] for key in unknown} == {key: recorded[key] for key in unknown}


def test_the_calls_in_the_recordings_are_read() -> None:
    """Each server that called our tool, with the arguments its model wrote."""
    called = {
        name: said(name, ToolArgs)
        for name in (*STREAMS, *COMPLETIONS)
        if any(isinstance(part, ToolStart) for part in parts_of(name))
    }
    whole_calls = {name for name, arguments in called.items() if arguments != "{}" and is_object(arguments)}
    assert {name.partition("/")[0] for name in whole_calls} >= {"vllm-brain", "llamacpp-brain", "hf-brain-xml"}
    for name in whole_calls:
        if looks(name) and name in STREAMS:
            ((call,),) = uncut(name).calls
            assert (call.name, call.arguments) == ("analyzeImage", called[name])
