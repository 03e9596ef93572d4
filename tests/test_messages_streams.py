"""What servers of Messages send, to the byte, and the one answer that the client gets of it: whole and cut anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import UpstreamBroken, UpstreamRefused
from router.protocol.events import Complete, Fail
from router.protocol.exchange import LAST_TURN_NOTE
from tests.messages_brain import call, closes, ends, event, grows, opens, start, thoughts, words
from tests.messages_splice import FALLBACK, REQUEST, Spliced, read_stream, splice
from tests.pure_splice import Cut, byte_by_byte, somewhere, whole
from tools.call import ToolCall, ToolResult

LOOK: Final = '{"image": "1", "task": "What?"}'
ASKED: Final = {"image": "1", "task": "What?"}


def look(index: int, *, id_: str = "toolu_look") -> bytes:
    return call(index, "analyzeImage", LOOK[:9], LOOK[9:], id_=id_)


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def thought(words: str, signature: str = "signed") -> dict[str, Any]:
    return {"type": "thinking", "thinking": words, "signature": signature}


def use(id_: str, name: str, **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id_, "name": name, "input": given}


@dataclass(frozen=True)
class Fixture:
    name: str
    turns: Sequence[bytes]
    blocks: Sequence[Mapping[str, Any]]
    stop: str = "end_turn"
    sequence: str | None = None
    said: Sequence[Sequence[Mapping[str, Any]]] = ()
    """What the brain said in each hidden turn, as it goes back to it."""
    usage: Mapping[str, Any] = field(default_factory=dict)
    """Some of it."""
    late_thoughts: bool = True


LLAMACPP: Final = b"".join(
    (
        start("chatcmpl-1", input_tokens=2, cache_read_input_tokens=187, output_tokens=0),
        opens(0, "thinking", thinking=""),
        grows(0, "thinking_delta", thinking="I look"),
        opens(1, "tool_use", id="llama1", name="analyzeImage"),
        *(grows(1, "input_json_delta", partial_json=piece) for piece in ("{", '"image":"1"', ',"task":"What?"', "}")),
        grows(0, "signature_delta", signature=""),
        closes(0),
        closes(1),
        ends("tool_use", output_tokens=39),
    )
)

FIXTURES: Final = [
    Fixture("words", [start() + words(0, "Hello", " there.") + ends()], [text("Hello there.")]),
    Fixture(
        "a signed thought before words",
        [start() + thoughts(0, "Hm", ".") + words(1, "Hello.") + ends()],
        [thought("Hm."), text("Hello.")],
    ),
    Fixture(
        "a hidden look between words",
        [start() + words(0, "Let me look.") + look(1) + ends("tool_use"), start() + words(0, "A cat.") + ends()],
        [text("Let me look.\n\nA cat.")],
        said=[[text("Let me look."), use("toolu_look", "analyzeImage", **ASKED)]],
    ),
    Fixture(
        "signed thoughts of two turns are two, each with its own signature",
        [
            start() + thoughts(0, "I must look.", signature="one") + look(1) + ends("tool_use"),
            start() + thoughts(0, "So.", signature="two") + words(1, "A cat.") + ends(),
        ],
        [thought("I must look.", "one"), thought("So.", "two"), text("A cat.")],
        said=[[thought("I must look.", "one"), use("toolu_look", "analyzeImage", **ASKED)]],
    ),
    Fixture(
        "thoughts of two turns that nobody signed are one",
        [
            start() + thoughts(0, "I must look.", signature="") + look(1) + ends("tool_use"),
            start() + thoughts(0, "So.", signature="") + words(1, "A cat.") + ends(),
        ],
        [thought("I must look.\n\nSo.", ""), text("A cat.")],
        said=[[thought("I must look.", ""), use("toolu_look", "analyzeImage", **ASKED)]],
    ),
    Fixture(
        "blank thoughts behind a signed one are none",
        [
            start() + thoughts(0, "I must look.", signature="one") + look(1) + ends("tool_use"),
            start() + thoughts(0, "\n", signature=None) + words(1, "A cat.") + ends(),
        ],
        [thought("I must look.", "one"), text("A cat.")],
        said=[[thought("I must look.", "one"), use("toolu_look", "analyzeImage", **ASKED)]],
    ),
    Fixture(
        "a thought behind words is a block of its own",
        [
            start() + thoughts(0, "Hm.", signature="one") + words(1, "Let me look.") + look(2) + ends("tool_use"),
            start() + thoughts(0, "So.", signature="two") + words(1, "A cat.") + ends(),
        ],
        [thought("Hm.", "one"), text("Let me look."), thought("So.", "two"), text("\n\nA cat.")],
        said=[[thought("Hm.", "one"), text("Let me look."), use("toolu_look", "analyzeImage", **ASKED)]],
    ),
    Fixture(
        "late thoughts are left out where the client cannot read them",
        [
            start() + words(0, "Let me look.") + look(1) + ends("tool_use"),
            start() + thoughts(0, "So.", signature="two") + words(1, "A cat.") + ends(),
        ],
        [text("Let me look.\n\nA cat.")],
        said=[[text("Let me look."), use("toolu_look", "analyzeImage", **ASKED)]],
        late_thoughts=False,
    ),
    Fixture(
        "blank words between a thought and a look",
        [
            start() + thoughts(0, "Hm.") + words(1, "\n\n") + look(2) + ends("tool_use"),
            start() + words(0, "\n\nA cat.") + ends(),
        ],
        [thought("Hm."), text("\n\nA cat.")],
        said=[[thought("Hm."), use("toolu_look", "analyzeImage", **ASKED)]],
    ),
    Fixture(
        "calls of the client, one after the other",
        [start() + call(0, "read", '{"path"', ': "a"}') + call(1, "bash", '{"x": 1}') + ends("tool_use")],
        [use("toolu_read_0", "read", path="a"), use("toolu_bash_1", "bash", x=1)],
        stop="tool_use",
    ),
    Fixture(
        "two looks at once",
        [
            start() + look(0, id_="one") + look(1, id_="two") + ends("tool_use"),
            start() + words(0, "A cat.") + ends(),
        ],
        [text("A cat.")],
        said=[[use("one", "analyzeImage", **ASKED), use("two", "analyzeImage", **ASKED)]],
    ),
    Fixture(
        "a mixed turn",
        [start() + words(0, "Both.") + look(1) + call(2, "read", '{"path": "a"}') + ends("tool_use")],
        [text("Both."), use("toolu_read_2", "read", path="a")],
        stop="tool_use",
    ),
    Fixture(
        "a thought that nobody may read",
        [
            start()
            + event("content_block_start", index=0, content_block={"type": "redacted_thinking", "data": "xyz"})
            + closes(0)
            + words(1, "Hello.")
            + ends()
        ],
        [{"type": "redacted_thinking", "data": "xyz"}, text("Hello.")],
    ),
    Fixture(
        "a signed thought without words",
        [start() + thoughts(0, signature="only") + words(1, "Hello.") + ends()],
        [thought("", "only"), text("Hello.")],
    ),
    Fixture(
        "a tool of the server, and what it found",
        [
            start()
            + opens(0, "server_tool_use", id="srv", name="web_search", input={})
            + grows(0, "input_json_delta", partial_json='{"query"')
            + grows(0, "input_json_delta", partial_json=': "x"}')
            + closes(0)
            + opens(1, "web_search_tool_result", tool_use_id="srv", content=[{"type": "web_search_result"}])
            + closes(1)
            + words(2, "Found.")
            + ends()
        ],
        [
            {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {"query": "x"}},
            {"type": "web_search_tool_result", "tool_use_id": "srv", "content": [{"type": "web_search_result"}]},
            text("Found."),
        ],
    ),
    Fixture(
        "citations stay with their words",
        [
            start()
            + words(0, "It says ")
            + opens(1, "text", text="")
            + grows(1, "text_delta", text="this")
            + grows(1, "citations_delta", citation={"type": "char_location", "cited_text": "this"})
            + closes(1)
            + words(2, " and no more.")
            + ends()
        ],
        [
            text("It says this", citations=[{"type": "char_location", "cited_text": "this"}]),
            text(" and no more."),
        ],
    ),
    Fixture(
        "a blank line behind a thought, which is told at the end",
        [start() + thoughts(0, "Hm.", "\n") + words(1, "Hello.") + ends()],
        [thought("Hm."), text("Hello.")],
    ),
    Fixture("the limit", [start() + words(0, "Hel") + ends("max_tokens")], [text("Hel")], stop="max_tokens"),
    Fixture(
        "a stop sequence",
        [start() + words(0, "Hel") + ends("stop_sequence", sequence="lo")],
        [text("Hel")],
        stop="stop_sequence",
        sequence="lo",
    ),
    Fixture(
        "a stop sequence of a hidden turn is not the answer's",
        [
            start() + look(0) + ends("stop_sequence", sequence="</x>"),
            start() + words(0, "A cat.") + ends(),
        ],
        [text("A cat.")],
        said=[[use("toolu_look", "analyzeImage", **ASKED)]],
    ),
    Fixture("a refusal", [start() + words(0, "No.") + ends("refusal")], [text("No.")], stop="refusal"),
    Fixture(
        "llama.cpp: thoughts stay open to the end, calls begin without input",
        [LLAMACPP, start() + words(0, "A cat.") + ends()],
        [thought("I look", ""), text("A cat.")],
        said=[[thought("I look", ""), use("llama1", "analyzeImage", **ASKED)]],
    ),
    Fixture(
        "lines end with CR LF",
        [(start() + thoughts(0, "Hm.") + words(1, "Hello.") + ends()).replace(b"\n", b"\r\n")],
        [thought("Hm."), text("Hello.")],
    ),
    Fixture(
        "pings and comments of the server",
        [
            b": hello\n\n"
            + event("ping")
            + start()
            + event("ping")
            + words(0, "Hello.")
            + b"event: ping\ndata: {}\n\n"
            + ends()
        ],
        [text("Hello.")],
    ),
    Fixture(
        "no names of events, no type of a message, no usage",
        [
            b'data: {"type":"message_start","message":{}}\n\n'
            + b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"Hello."}}\n\n'
            + b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n'
            + b"data: [DONE]\n\n"
        ],
        [text("Hello.")],
    ),
    Fixture(
        "nothing but deltas, all with the same number",
        [start() + grows(0, "thinking_delta", thinking="Hm.") + grows(0, "text_delta", text="Hello.") + ends()],
        [thought("Hm.", ""), text("Hello.")],
    ),
    Fixture(
        "a call whose input comes at its start",
        [
            start() + opens(0, "tool_use", id="x", name="analyzeImage", input=ASKED) + closes(0) + ends("tool_use"),
            start() + words(0, "A cat.") + ends(),
        ],
        [text("A cat.")],
        said=[[use("x", "analyzeImage", **ASKED)]],
    ),
    Fixture(
        "a call without arguments",
        [start() + call(0, "screenshot", "") + ends("tool_use")],
        [use("toolu_screenshot_0", "screenshot")],
        stop="tool_use",
    ),
    Fixture(
        "calls that share an id, or have none",
        [
            start()
            + call(0, "read", "{}", id_="x")
            + call(1, "read", "{}", id_="x")
            + opens(2, "tool_use", name="read", input={})
            + closes(2)
            + ends("tool_use")
        ],
        [use("x", "read"), use("toolu_0001", "read"), use("toolu_0002", "read")],
        stop="tool_use",
    ),
    Fixture(
        "a whole message instead of a stream",
        [
            orjson.dumps(
                {
                    "id": "msg_1",
                    "type": "message",
                    "content": [thought("Hm."), text("Hello."), use("a", "read", path="a")],
                    "stop_reason": "tool_use",
                    "usage": {"input_tokens": 5, "output_tokens": 2},
                }
            )
        ],
        [thought("Hm."), text("Hello."), use("a", "read", path="a")],
        stop="tool_use",
    ),
    Fixture(
        "usage of the last turn, words of all",
        [
            start(input_tokens=50, cache_read_input_tokens=1000) + look(0) + ends("tool_use", output_tokens=30),
            start(input_tokens=70, cache_read_input_tokens=1030, cache_creation_input_tokens=5)
            + words(0, "A cat.")
            + ends(output_tokens=12),
        ],
        [text("A cat.")],
        said=[[use("toolu_look", "analyzeImage", **ASKED)]],
        usage={
            "input_tokens": 70,
            "cache_read_input_tokens": 1030,
            "cache_creation_input_tokens": 5,
            "output_tokens": 42,
            "chiasm": {
                "turns": 2,
                "vision_calls": 1,
                "vision_prompt_tokens": 100,
                "vision_completion_tokens": 10,
                "billed_prompt_tokens": 2155,
            },
        },
    ),
    Fixture(
        "signed thoughts, one after the other",
        [start() + thoughts(0, "One.", signature="a") + thoughts(1, "Two.", signature="b") + words(2, "A.") + ends()],
        [thought("One.", "a"), thought("Two.", "b"), text("A.")],
    ),
]

BY_NAME: Final = pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.name)


def run(fixture: Fixture, cut: Cut = whole, *, heartbeats: bool = False) -> Spliced:
    return splice(fixture.turns, cut=cut, late_thoughts=fixture.late_thoughts, heartbeats=heartbeats)


@BY_NAME
def test_the_client_gets_one_answer(fixture: Fixture) -> None:
    done = run(fixture)
    answer = read_stream(done.client)
    assert answer.blocks == list(fixture.blocks)
    assert (answer.stop_reason, answer.stop_sequence) == (fixture.stop, fixture.sequence)
    assert answer.model == "brain"
    assert answer.usage.items() >= fixture.usage.items()
    assert not {"prompt_tokens", "completion_tokens"} & answer.usage.keys()


@BY_NAME
def test_the_brain_gets_back_what_it_said(fixture: Fixture) -> None:
    done = run(fixture)
    assert len(done.requests) == 1 + len(fixture.said)
    messages = list(REQUEST["messages"])
    assert done.requests[0]["messages"] == messages
    for blocks, calls, asked in zip(fixture.said, done.calls, done.requests[1:], strict=True):
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": f"seen by {call.id}"} for call in calls]
        messages += [{"role": "assistant", "content": list(blocks)}, {"role": "user", "content": results}]
        assert asked["messages"] == messages


@BY_NAME
def test_where_the_network_cuts_makes_no_difference(fixture: Fixture) -> None:
    wanted = run(fixture).client
    assert run(fixture, byte_by_byte).client == wanted
    for seed in range(10):
        assert run(fixture, somewhere(seed)).client == wanted


@BY_NAME
def test_heartbeats_anywhere_change_nothing(fixture: Fixture) -> None:
    plain, beating = read_stream(run(fixture).client), read_stream(run(fixture, heartbeats=True).client)
    assert (beating.blocks, beating.stop_reason) == (plain.blocks, plain.stop_reason)


def whole_of(turn: bytes) -> bytes:
    """The same turn from a server that was not asked for a stream."""
    if turn.startswith(b"{"):
        return turn
    answer = read_stream(splice([turn], own=()).client)
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": answer.blocks}
    return orjson.dumps(
        {**message, "stop_reason": answer.stop_reason, "stop_sequence": answer.stop_sequence, "usage": answer.usage}
    )


@BY_NAME
def test_without_a_stream_it_is_the_same_answer(fixture: Fixture) -> None:
    done = splice([whole_of(turn) for turn in fixture.turns], stream=False, late_thoughts=fixture.late_thoughts)
    message = orjson.loads(done.client)
    assert message["content"] == list(fixture.blocks)
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "brain")
    assert (message["stop_reason"], message["stop_sequence"]) == (fixture.stop, fixture.sequence)
    assert message["usage"]["output_tokens"] >= 0


# Ends and errors


def test_an_empty_answer_has_one_empty_block() -> None:
    answer = read_stream(splice([start() + ends()], own=()).client)
    assert (answer.blocks, answer.stop_reason) == ([text("")], "end_turn")


def test_a_blank_line_is_no_block() -> None:
    answer = read_stream(splice([start() + thoughts(0, "Hm.") + words(1, "\n") + ends()], own=()).client)
    assert answer.blocks == [thought("Hm.")]


def test_an_answer_has_the_servers_id() -> None:
    assert read_stream(splice([start("msg_of_server") + words(0, "Hi.") + ends()]).client).id == "msg_of_server"


def test_an_answer_without_any_has_one_of_ours() -> None:
    answer = read_stream(splice([words(0, "Hi.") + ends()]).client)
    assert answer.id == FALLBACK.id


def test_a_heartbeat_before_the_message_is_no_event() -> None:
    done = splice([start() + words(0, "Hi.") + ends()], heartbeats=True)
    assert done.client.startswith(b": ")
    assert read_stream(done.client).pings > 0


@pytest.mark.parametrize(
    ("type_", "status"),
    [("overloaded_error", 502), ("rate_limit_error", 429), ("invalid_request_error", 400), ("strange", 502)],
)
def test_an_error_as_the_first_word_is_a_status(type_: str, status: int) -> None:
    done = splice([event("error", error={"type": type_, "message": "Too much."})])
    assert isinstance(done.outcome, Fail)
    assert (done.outcome.error.message, done.outcome.error.status) == ("Too much.", status)


@pytest.mark.parametrize(
    ("type_", "told"),
    [
        ("overloaded_error", "overloaded_error"),
        ("rate_limit_error", "rate_limit_error"),
        ("api_error", "api_error"),
        ("internal_error", "api_error"),
        ("invalid_request_error", "api_error"),
    ],
)
def test_an_error_in_the_middle_is_an_event_with_the_servers_words(type_: str, told: str) -> None:
    turn = start() + opens(0, "text", text="") + grows(0, "text_delta", text="Hel")
    done = splice([turn + event("error", error={"type": type_, "message": "Out of memory."})])
    answer = read_stream(done.client)
    assert answer.error == {"type": told, "message": "Out of memory."}
    assert "message_stop" not in answer.events


def test_an_error_in_openais_form_is_one() -> None:
    done = splice([b'data: {"error": {"message": "No.", "code": 429}}\n\n'])
    assert isinstance(done.outcome, Fail)
    assert done.outcome.error == UpstreamRefused("No.", status=429)


@pytest.mark.parametrize(
    "turn",
    [
        start(),
        start() + opens(0, "text", text="") + grows(0, "text_delta", text="Hel"),
        start() + opens(0, "tool_use", id="a", name="read", input={}) + grows(0, "input_json_delta", partial_json="{"),
        (start() + words(0, "Hello."))[:-10],
    ],
    ids=["nothing said", "in a word", "in a call", "in an event"],
)
def test_a_stream_that_just_ceases_is_an_error(turn: bytes) -> None:
    done = splice([turn])
    assert isinstance(done.outcome, Fail)
    assert isinstance(done.outcome.error, UpstreamBroken)
    assert read_stream(done.client).error is not None


def test_what_is_no_json_is_an_error() -> None:
    done = splice([start() + b'event: content_block_delta\ndata: {"type":\n\n'])
    assert isinstance(done.outcome, Fail)


def test_a_stream_that_ends_behind_its_reason_is_whole() -> None:
    body = start() + words(0, "Hello.") + ends().replace(event("message_stop"), b"")
    assert isinstance(splice([body]).outcome, Complete)


@pytest.mark.parametrize("reason", ["refusal", "model_context_window_exceeded"])
@pytest.mark.parametrize("arguments", ['{"image": "1", "ta', '{"image": "1", "task": "What?"}'])
def test_a_call_of_ours_at_which_the_brain_was_stopped_is_not_run(reason: str, arguments: str) -> None:
    done = splice([start() + words(0, "Let me look.") + call(1, "analyzeImage", arguments) + ends(reason)])
    answer = read_stream(done.client)
    assert (answer.blocks, answer.stop_reason) == ([text("Let me look.")], reason)
    assert not done.calls


@pytest.mark.parametrize("reason", ["refusal", "model_context_window_exceeded"])
def test_a_call_of_the_client_at_which_the_brain_was_stopped_says_so(reason: str) -> None:
    answer = read_stream(splice([start() + call(0, "read", '{"path": "a"}', id_="a") + ends(reason)]).client)
    assert answer.stop_reason == reason


def test_a_call_of_ours_that_the_limit_cut_is_not_run() -> None:
    body = start() + opens(0, "tool_use", id="a", name="analyzeImage", input={}) + closes(0) + ends("max_tokens")
    done = splice([body])
    assert done.calls == []
    assert read_stream(done.client).stop_reason == "max_tokens"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"nonsense", b'{"id": "x"}', b'{"type":"error","error":{"message":"No."}}']
)
def test_a_whole_answer_that_is_no_message_is_an_error(body: bytes) -> None:
    assert isinstance(splice([body], stream=False).outcome, Fail)


# Whatever a server says

atoms: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from(["", "x", "{", "}", "text", "thinking", "tool_use"])
)
names = st.sampled_from(
    ["type", "text", "thinking", "id", "name", "input", "usage", "content", "citations", "error", "message"]
)


def inside(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    either: list[st.SearchStrategy[Any]] = [st.lists(values, max_size=2), st.dictionaries(names, values, max_size=3)]
    return st.one_of(either)


odd: st.SearchStrategy[Any] = st.recursive(atoms, inside, max_leaves=5)
strange = st.builds(
    lambda kind, fields: data_of({**fields, "type": kind}),
    st.sampled_from(
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
            "ping",
            "error",
            "x",
        ]
    )
    | odd,
    st.dictionaries(st.sampled_from(["index", "message", "content_block", "delta", "usage", "error"]), odd, max_size=4),
)
good = st.sampled_from(
    [
        start(),
        words(0, "Hello."),
        thoughts(1, "Hm."),
        call(2, "read", "{}"),
        grows(0, "text_delta", text="x"),
        closes(3),
        grows(1, "input_json_delta", partial_json="{"),
        opens(0, "tool_use", name="read"),
        b"data: [DONE]\n\n",
        ends(),
    ]
)


def data_of(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


@given(st.lists(strange | good, max_size=8))
def test_no_stream_makes_more_of_it_than_an_answer_or_an_error(events: list[bytes]) -> None:
    answer = read_stream(splice([b"".join([b": hi\n\n", *events])], own=()).client)
    assert (answer.error is None) == (answer.events[-1] == "message_stop")


@given(odd)
def test_no_whole_answer_makes_more_of_it_either(body: object) -> None:
    done = splice([orjson.dumps(body)], own=(), stream=False)
    assert orjson.loads(done.client)["type"] in ("message", "error")


def test_arguments_that_nest_too_deeply_to_be_sent_are_none() -> None:
    deep = '{"image": "1", "task": ' + "[" * 300 + "]" * 300 + "}"
    done = splice([start() + call(0, "analyzeImage", deep) + ends("tool_use"), start() + words(0, "So.") + ends()])
    assert orjson.loads(orjson.dumps(done.requests[1]))["messages"][1]["content"][0]["input"] == {}
    whole_answer = {"content": [{"type": "tool_use", "id": "a", "name": "read", "input": orjson.loads(deep)}]}
    whole_bytes = repr(whole_answer).replace("'", '"').encode()
    assert orjson.loads(splice([whole_bytes], stream=False).client)["content"][0]["input"] == {}


# Turns


def test_a_call_that_came_as_text_is_run() -> None:
    written = '<tool_call>{"name": "analyzeImage", "arguments": {"image": "1", "task": "What?"}}</tool_call>'
    done = splice([start() + words(0, "Wait. " + written) + ends(), start() + words(0, "A cat.") + ends()])
    assert [call.name for (call,) in done.calls] == ["analyzeImage"]
    said = done.requests[1]["messages"][1]["content"]
    assert [block["type"] for block in said] == ["text", "tool_use"]
    assert "tool_call" not in said[0]["text"]


def test_the_last_turn_is_announced() -> None:
    looking = start() + look(0) + ends("tool_use")
    done = splice([looking, start() + words(0, "A cat.") + ends()], max_turns=2)
    assert done.requests[1]["messages"][-1]["content"][0]["content"].endswith(LAST_TURN_NOTE)


def test_what_was_used_is_taken_off_the_limit_and_thinking_stays_below() -> None:
    request = {**REQUEST, "max_tokens": 3000, "thinking": {"type": "enabled", "budget_tokens": 2000}}
    turns = [start() + look(0) + ends("tool_use", output_tokens=1500), start() + words(0, "A cat.") + ends()]
    asked = splice(turns, request=request).requests[1]
    assert (asked["max_tokens"], asked["thinking"]) == (1500, {"type": "enabled", "budget_tokens": 1499})


def test_thinking_ends_where_no_budget_is_left_for_it() -> None:
    request = {**REQUEST, "max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    turns = [start() + look(0) + ends("tool_use", output_tokens=1500), start() + words(0, "A cat.") + ends()]
    asked = splice(turns, request=request).requests[1]
    assert (asked["max_tokens"], asked["thinking"]) == (500, {"type": "disabled"})


def test_a_mixed_turn_is_kept_with_both_calls_in_their_places() -> None:
    body = start() + words(0, "Both.") + look(1) + call(2, "read", '{"path": "a"}') + ends("tool_use")
    kept = splice([body]).kept
    assert kept is not None
    assert kept.calls == (ToolCall("toolu_look", "analyzeImage", LOOK),)
    assert [block["type"] for block in kept.said[-1]["content"]] == ["text", "call", "call"]
    assert [call["id"] for call in kept.visible["tool_calls"]] == ["toolu_read_2"]


def test_what_a_call_holds_beside_its_input_goes_back_and_out() -> None:
    caller = {"type": "direct"}
    body = start() + opens(0, "tool_use", id="a", name="read", input={}, caller=caller) + closes(0) + ends("tool_use")
    assert read_stream(splice([body]).client).blocks == [{**use("a", "read"), "caller": caller}]


def test_results_with_pictures_stand_in_one_message() -> None:
    def shown(call: ToolCall) -> ToolResult:
        return ToolResult(call.id, "Here.", pictures=(1,))

    done = splice([start() + look(0) + ends("tool_use"), start() + words(0, "A cat.") + ends()], run=shown)
    kinds = [block["type"] for block in done.requests[1]["messages"][-1]["content"]]
    assert kinds == ["tool_result", "text", "image"]
