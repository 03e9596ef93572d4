"""Answers of real servers at `/v1/messages` (`tests/engines/record_messages.py`), through the whole pure path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from router.protocol.events import Complete
from tests.messages_brain import ends, start, words
from tests.messages_splice import Spliced, read_stream, splice
from tests.pure_splice import Cut, byte_by_byte, somewhere, whole

FOLDER: Final = Path(__file__).parent / "transcripts"
SERVERS: Final = ("llamacpp", "vllm")
MANNERS: Final = ("stream", "stream_think", "nonstream")

SEEN: Final = start() + words(0, "Seen.") + ends()
SEEN_WHOLE: Final = orjson.dumps(
    {
        "type": "message",
        "content": [{"type": "text", "text": "Seen."}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
)


@dataclass(frozen=True)
class Recording:
    asked: dict[str, Any]
    body: bytes

    @property
    def streams(self) -> bool:
        return bool(self.asked["stream"])


def recording(server: str, name: str) -> Recording:
    asked, note, answer = (FOLDER / f"{server}-messages" / f"m_{name}.txt").read_bytes().split(b"\n", 2)
    assert note.startswith(b"# ---- raw response")
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.split()[1] == b"200"
    return Recording(orjson.loads(asked.split(b"   body: ", 1)[1]), body[: body.rindex(b"\n# total ")])


def run(first: Recording, *more: bytes, cut: Cut = whole) -> Spliced:
    return splice([first.body, *more], request=first.asked, stream=first.streams, cut=cut)


def blocks_of(first: Recording, done: Spliced) -> list[dict[str, Any]]:
    content = read_stream(done.client).blocks if first.streams else orjson.loads(done.client)["content"]
    return list(content)


every = pytest.mark.parametrize(("server", "manner"), [(server, manner) for server in SERVERS for manner in MANNERS])


@every
def test_a_look_is_hidden_and_the_answer_follows(server: str, manner: str) -> None:
    look, after = recording(server, f"look_{manner}"), recording(server, f"look_follow_{manner}")
    done = run(look, after.body)
    assert isinstance(done.outcome, Complete)
    assert [call.name for (call,) in done.calls] == ["analyzeImage"]
    assert orjson.loads(done.calls[0][0].arguments)["image"] == "1"
    *thoughts, said = blocks_of(look, done)
    assert "K7RW" in said["text"]
    assert {block["type"] for block in thoughts} == ({"thinking"} if manner == "stream_think" or thoughts else set())
    assert done.outcome.reason == "stop"
    assert done.outcome.usage is not None
    assert done.outcome.usage["output_tokens"] > 20


@every
def test_the_follow_up_begins_with_what_the_server_was_asked_and_said(server: str, manner: str) -> None:
    look, after = recording(server, f"look_{manner}"), recording(server, f"look_follow_{manner}")
    asked, said, results = (run(look, after.body).requests[1]["messages"][at] for at in range(3))
    assert asked == look.asked["messages"][0]
    assert [block["type"] for block in said["content"]][-1] == "tool_use"
    assert [block["type"] for block in results["content"]] == ["tool_result"]
    # What the recording itself was the answer to; ids are minted anew for each.
    for before, now in zip(after.asked["messages"][1]["content"], said["content"], strict=True):
        assert {**before, "id": "", "signature": ""} == {**now, "id": "", "signature": ""}


@every
def test_a_mixed_turn_shows_the_clients_call_alone(server: str, manner: str) -> None:
    mixed = recording(server, f"mixed_{manner}")
    done = run(mixed)
    uses = [block for block in blocks_of(mixed, done) if block["type"] == "tool_use"]
    assert [(use["name"], use["input"]) for use in uses] == [("get_weather", {"city": "Oslo"})]
    assert done.kept is not None
    assert [call.name for call in done.kept.calls] == ["analyzeImage"]


@every
@pytest.mark.parametrize("question", ["look", "look_follow", "mixed"])
def test_where_the_network_cuts_makes_no_difference(server: str, manner: str, question: str) -> None:
    first = recording(server, f"{question}_{manner}")
    more: Sequence[bytes] = [SEEN if first.streams else SEEN_WHOLE] if question == "look" else []
    wanted = run(first, *more).client
    for cut in (byte_by_byte, *(somewhere(seed) for seed in range(5))):
        assert run(first, *more, cut=cut).client == wanted
