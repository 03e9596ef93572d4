"""Mixed turns are put back where they happened, and only there."""

from __future__ import annotations

from typing import Any

import pytest

from router.protocol.ledger import KeptTurn, client_call_ids, weave


def call(id_: str, name: str = "read") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": "{}"}}


def assistant(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def tool(id_: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": text}


USER = {"role": "user", "content": "u"}
KEPT = KeptTurn(
    message=assistant(call("ours", "analyzeImage"), call("theirs"), reasoning_content="hm"),
    client_ids=("theirs",),
    results=(tool("ours", "a cat"),),
)


def test_a_kept_turn_replaces_what_the_client_knows_of_it() -> None:
    history = [USER, assistant(call("theirs")), tool("theirs", "file"), USER]
    woven = weave(history, {"theirs": KEPT})
    assert woven == [USER, KEPT.message, tool("ours", "a cat"), tool("theirs", "file"), USER]


def test_every_call_is_answered_once() -> None:
    woven = weave([USER, assistant(call("theirs")), tool("theirs", "file")], {"theirs": KEPT})
    calls = [one["id"] for message in woven for one in message.get("tool_calls", ())]
    answers = [message["tool_call_id"] for message in woven if message["role"] == "tool"]
    assert sorted(calls) == sorted(answers)


@pytest.mark.parametrize(
    "message",
    [
        assistant(call("other")),
        assistant(call("theirs"), call("more")),
        assistant(call("theirs", "write")),
        {"role": "assistant", "content": "theirs"},
        {"role": "user", "content": "x", "tool_calls": [call("theirs")]},
    ],
)
def test_a_history_that_does_not_fit_stays_as_it_is(message: dict[str, Any]) -> None:
    assert weave([USER, message], {"theirs": KEPT}) == [USER, message]


def test_first_ids_are_where_turns_may_belong() -> None:
    history = [USER, assistant(call("a"), call("b")), tool("a", "x"), assistant(call("c")), {"role": "assistant"}]
    assert client_call_ids(history) == ["a", "c"]


@pytest.mark.parametrize("calls", [None, "text", [None], [{"id": 3}], [{}], []])
def test_calls_of_any_shape_are_survived(calls: Any) -> None:
    history = [{"role": "assistant", "tool_calls": calls}]
    assert client_call_ids(history) == []
    assert weave(history, {"theirs": KEPT}) == history
