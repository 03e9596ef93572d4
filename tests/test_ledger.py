"""Mixed turns are put back where they happened, and only there."""

from __future__ import annotations

from typing import Any

import pytest

from router.protocol.ledger import KeptTurn, place, places, weave


def call(id_: str, name: str = "read", arguments: Any = '{"path":"a","n":1}') -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def assistant(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def tool(id_: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": text}


USER = {"role": "user", "content": "u"}
KEPT = KeptTurn(
    said=(
        assistant(call("before", "analyzeImage")),
        tool("before", "a dog"),
        assistant(call("ours", "analyzeImage"), call("theirs"), reasoning_content="hm"),
    ),
    results=(tool("ours", "a cat"),),
)
HERE = place([USER], [call("theirs")])


def test_a_kept_turn_replaces_what_the_client_knows_of_it() -> None:
    history = [USER, assistant(call("theirs")), tool("theirs", "file"), USER]
    assert places(history) == {1: HERE}
    woven = weave(history, {1: KEPT})
    assert woven == [USER, *KEPT.said, tool("ours", "a cat"), tool("theirs", "file"), USER]


def test_results_stand_in_the_order_of_their_calls() -> None:
    said = assistant(call("c1"), call("ours", "analyzeImage"), call("c2"))
    kept = KeptTurn(said=(said,), results=(tool("ours", "a cat"),))
    history = [USER, assistant(call("c1"), call("c2")), tool("c2", "2"), tool("c1", "1"), USER]
    woven = weave(history, {1: kept})
    assert [message.get("tool_call_id") for message in woven] == [None, None, "c1", "ours", "c2", None]


def test_every_call_is_answered_once() -> None:
    woven = weave([USER, assistant(call("theirs")), tool("theirs", "file")], {1: KEPT})
    calls = [one["id"] for message in woven for one in message.get("tool_calls", ())]
    answers = [message["tool_call_id"] for message in woven if message["role"] == "tool"]
    assert sorted(calls) == sorted(answers)


def test_a_place_survives_a_trimmed_history_and_arguments_written_anew() -> None:
    before = [{"role": "user", "content": "earlier"}, {"role": "assistant", "content": "x"}]
    again = assistant(call("theirs", arguments='{ "n": 1, "path": "a" }'), extra=1)
    assert places([*before, USER, again]) == {3: HERE}
    assert places([USER, again]) == {1: HERE}


@pytest.mark.parametrize(
    "history",
    [
        [USER, assistant(call("other"))],
        [USER, assistant(call("theirs"), call("more"))],
        [USER, assistant(call("theirs", "write"))],
        [USER, assistant(call("theirs", arguments='{"path":"b"}'))],
        [{"role": "user", "content": "v"}, assistant(call("theirs"))],
        [USER, {"role": "assistant", "content": "w"}, assistant(call("theirs"))],
        [assistant(call("theirs"))],
    ],
)
def test_another_call_or_another_moment_is_another_place(history: list[Any]) -> None:
    assert HERE not in places(history).values()


def test_what_fits_nowhere_changes_nothing() -> None:
    history = [USER, assistant(call("theirs"))]
    assert weave(history, {}) == history


@pytest.mark.parametrize("calls", [None, "text", [None], [{"id": 3}], [{}], [], [{"function": 7}]])
def test_calls_of_any_shape_are_survived(calls: Any) -> None:
    assert places([{"role": "assistant", "tool_calls": calls}]) == {}
    assert len(places([{"role": "assistant", "tool_calls": [{"function": {"arguments": 7}}]}])) == 1


def test_arguments_of_any_depth_have_a_place() -> None:
    deep = "[" * 900 + "]" * 900
    assert len(place([USER], [call("c", arguments=deep)])) == 64
    assert len(place([USER], [call("c", arguments=f'{{"n": {10**30}}}')])) == 64


def test_only_the_message_before_counts_for_a_place() -> None:
    assert place([{"role": "user", "content": "earlier"}, USER], [call("theirs")]) == HERE
    assert place([], [call("theirs")]) != HERE


def test_only_an_assistants_calls_have_a_place() -> None:
    assert places([USER, {**assistant(call("theirs")), "role": "user"}, "text", None]) == {}


def test_a_turn_whose_calls_were_never_answered_takes_nothing_of_what_follows() -> None:
    history = [USER, assistant(call("theirs")), {"role": "user", "content": "never mind"}]
    assert weave(history, {1: KEPT}) == [USER, *KEPT.said, tool("ours", "a cat"), history[2]]
    answers = [tool("theirs", "file"), {"role": "tool", "content": "whose?"}]
    assert weave([*history[:2], *answers], {1: KEPT})[-2:] == answers
