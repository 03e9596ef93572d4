"""What real servers said at `/v1/responses`, as recorded, through the whole pure path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import orjson
import pytest

from router.protocol.events import Complete
from tests.responses_reading import Read, read_events
from tests.responses_wire import byte_by_byte, splice, whole

FOLDER = Path(__file__).parent / "transcripts"
ENGINES = ("llamacpp-responses", "vllm-responses")
MANNERS = ("stream", "stream_think", "nonstream")
LOOKS = [f"{engine}/r_look_{{}}{manner}.txt" for engine in ENGINES for manner in MANNERS]
MIXED = [f"{engine}/r_mixed_{manner}.txt" for engine in ENGINES for manner in MANNERS]


def body(name: str) -> bytes:
    """Without what was recorded around it."""
    answer = (FOLDER / name).read_bytes().split(b"\n", 2)[2].split(b"\r\n\r\n", 1)[1]
    return answer[: answer.rindex(b"\n# total ")]


def read(client: bytes, name: str) -> Read:
    return Read(response=orjson.loads(client)) if "nonstream" in name else read_events(client)


def test_every_recording_is_used() -> None:
    used = {name.format(turn) for name in LOOKS for turn in ("", "follow_")} | set(MIXED)
    assert {path.relative_to(FOLDER).as_posix() for engine in ENGINES for path in (FOLDER / engine).iterdir()} == used


@pytest.mark.parametrize("cut", [whole, byte_by_byte], ids=["whole", "bytes"])
@pytest.mark.parametrize("name", LOOKS)
def test_look_of_a_real_brain_is_one_answer(name: str, cut: Callable[[bytes], Iterable[bytes]]) -> None:
    turns = [body(name.format(turn)) for turn in ("", "follow_")]
    done = splice(turns, cut=cut, stream="nonstream" not in name)
    assert isinstance(done.outcome, Complete)
    assert [[call.name for call in calls] for calls in done.calls] == [["analyzeImage"]]
    answer = read(done.client, name)
    assert "K7RW" in answer.text
    assert answer.response["usage"]["chiasm"]["turns"] == 2
    assert bool(answer.thoughts) is ("think" in name)
    assert b"analyzeImage" not in done.client


@pytest.mark.parametrize("cut", [whole, byte_by_byte], ids=["whole", "bytes"])
@pytest.mark.parametrize("name", MIXED)
def test_mixed_turn_of_a_real_brain_shows_the_clients_call(name: str, cut: Callable[[bytes], Iterable[bytes]]) -> None:
    done = splice([body(name)], cut=cut, stream="nonstream" not in name)
    answer = read(done.client, name)
    assert [name for _, name, _ in answer.calls] == ["get_weather"]
    assert done.kept is not None
    assert [call.name for call in done.kept.calls] == ["analyzeImage"]
    output = orjson.loads(body(name)) if "nonstream" in name else last_response(body(name))
    assert done.asked[0]["input"]
    said = [item["call_id"] for item in output["output"] if item["type"] == "function_call"]
    assert [call["id"] for call in done.kept.said[-1]["tool_calls"]] == said


def last_response(stream: bytes) -> dict[str, list[dict[str, str]]]:
    frames = [frame for frame in stream.split(b"\n\n") if b"response.completed" in frame]
    response: dict[str, list[dict[str, str]]] = orjson.loads(frames[-1].partition(b"data: ")[2])["response"]
    return response
