"""The referees see what they must: a good stream is read, and one that lacks an event, has one twice or in another
place is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.brain import Asked
from tests.live import assistant, function, picture, shown, text, tool_call, tool_result, user
from tests.speakers import SPEAKERS
from tests.speakers.pieces import Calls, Fails, Opens, Saying, Thinks
from tests.speakers.speaker import Speaker

CALLS = (Calls("Read", '{"path":"a"}'), Calls("Read", '{"path":"b"}'))
SAYING = Saying(
    1, (Thinks("Hm."), Thinks(" So."), "Let me", " see."), {call: f"c{n}" for n, call in enumerate(CALLS)}, "stop",
    (10, 5), True,
)  # fmt: skip
NAMED = [speaker for name, speaker in SPEAKERS.items() if name != "chat"]
"""Those whose servers write as strictly as we do; `tests/test_openai_chat.py` has what the reader of Chat Completions
refuses."""


def events(speaker: Speaker) -> list[bytes]:
    voice = speaker.voice(SAYING, {})
    said = [voice.says(Opens()), *(voice.says(piece) for piece in (*SAYING.pieces, *CALLS))]  # type: ignore[arg-type]
    return [event + b"\n\n" for part in said for event in _apart(part)] + [
        event + b"\n\n" for event in _apart(voice.closes())
    ]


def _apart(pieces: Any) -> list[bytes]:
    return b"".join(pieces).split(b"\n\n")[:-1]


def refused(speaker: Speaker, stream: list[bytes]) -> bool:
    try:
        speaker.read_stream(b"".join(stream))
    except (AssertionError, ValueError, LookupError, TypeError):
        return True
    return False


@pytest.mark.parametrize("referee", NAMED, ids=lambda referee: referee.name)
def test_what_is_said_is_read(referee: Speaker) -> None:
    answer = referee.read_stream(b"".join(events(referee)))
    assert (answer.reasoning, answer.text) == ("Hm. So.", "Let me see.")
    assert [(call.id, call.name, call.arguments) for call in answer.calls] == [
        ("c0", "Read", '{"path":"a"}'),
        ("c1", "Read", '{"path":"b"}'),
    ]
    assert answer.order == ["reasoning", "text", "call 0", "call 1"]
    assert answer.usage == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def says_more(event: bytes) -> bool:
    """Of which nothing in the rest of the stream knows how many there are."""
    return b"_delta" in event and b"message_delta" not in event and b"signature_delta" not in event


def without(stream: list[bytes], at: int) -> list[bytes]:
    return [*stream[:at], *stream[at + 1 :]]


def twice(stream: list[bytes], at: int) -> list[bytes]:
    return [*stream[: at + 1], *stream[at:]]


def later(stream: list[bytes], at: int) -> list[bytes]:
    return [*stream[:at], *stream[at + 1 : at + 2], stream[at], *stream[at + 2 :]]


@pytest.mark.parametrize("wrong", [without, twice, later])
@pytest.mark.parametrize("referee", NAMED, ids=lambda referee: referee.name)
def test_no_event_may_be_missing_or_be_there_twice_or_come_late(
    referee: Speaker, wrong: Callable[[list[bytes], int], list[bytes]]
) -> None:
    good = events(referee)
    for at, event in enumerate(good):
        spoilt = wrong(good, at)
        if spoilt != good and not (says_more(event) and (wrong is not later or says_more(good[at + 1]))):
            assert refused(referee, spoilt), (wrong.__name__, event)


@pytest.mark.parametrize("referee", NAMED, ids=lambda referee: referee.name)
def test_nothing_follows_an_error(referee: Speaker) -> None:
    voice = referee.voice(SAYING, {})
    begun = [*voice.says(Opens()), *voice.says("Hm."), *voice.says(Fails("broken"))]
    answer = referee.read_stream(b"".join(begun))
    assert (answer.text, answer.finish) == ("Hm.", None)
    assert answer.error is not None
    assert answer.error["message"] == "broken"
    assert refused(referee, [*begun, *voice.closes()])
    assert refused(referee, begun[:-1])


@pytest.mark.parametrize("referee", SPEAKERS.values(), ids=lambda referee: referee.name)
def test_a_brain_understands_what_a_client_says(referee: Speaker) -> None:
    chat: dict[str, Any] = {
        "model": "brain",
        "stream": True,
        "messages": [
            {"role": "system", "content": "Be brief."},
            user("What?", shown(picture(1))),
            {**assistant("Let me see.", tool_call("c1", "Read", '{"path":"a"}')), "reasoning_content": "Hm."},
            tool_result("c1", [text("The screenshot:"), shown(picture(2))]),
            assistant("A cat."),
            user("Sure?"),
        ],
        "tools": [function("Read")],
        "tool_choice": {"type": "function", "function": {"name": "Read"}},
        "max_tokens": 100,
    }
    understood = referee.understood(referee.request(chat))
    assert {name: understood.get(name) for name in chat} == chat


def test_a_speaker_is_known_by_the_address() -> None:
    for speaker in SPEAKERS.values():
        asked = Asked("POST", f"{speaker.path}?beta=true", {}, b"{}")
        assert asked.speaker is speaker
