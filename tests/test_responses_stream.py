"""Several turns of the brain, one canonical stream of Responses, however the bytes are cut."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from router.protocol.events import Complete, Fail
from tests.responses_brain import LOOK, Turn, event
from tests.responses_reading import Read, read_events
from tests.responses_wire import Spliced, byte_by_byte, splice, whole

ITEM_ADDED, ITEM_DONE, ENDED = "response.output_item.added", "response.output_item.done", "response.completed"


def somewhere(seed: int) -> Callable[[bytes], Iterable[bytes]]:
    def cut(data: bytes) -> Iterable[bytes]:
        places = sorted(random.Random(f"{seed} {len(data)}").choices(range(len(data)), k=9))
        return (data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True))

    return cut


CUTS = [whole, byte_by_byte, somewhere(1), somewhere(2), somewhere(3)]


def llamacpp(*items: dict[str, Any], id_: str = "resp_l") -> bytes:
    """As llama.cpp b6 says it: nothing is numbered, every item is done only at the very end."""
    said = event("response.created", response={"id": id_, "object": "response", "status": "in_progress"})
    for item in items:
        empty = {key: [] if key in ("content", "summary") else value for key, value in item.items()}
        said += event(ITEM_ADDED, item={**empty, **({"arguments": ""} if "arguments" in item else {})})
        match item["type"]:
            case "reasoning":
                text, kind = item["content"][0]["text"], "reasoning_text"
            case "message":
                text, kind = item["content"][0]["text"], "output_text"
            case _:
                text, kind = item["arguments"], "function_call_arguments"
        for piece in (text[:3], text[3:]):
            said += event(f"response.{kind}.delta", delta=piece, item_id=item["id"])
    for item in items:
        said += event(ITEM_DONE, item=item)
    usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    return said + event(ENDED, response={"id": id_, "status": "completed", "output": list(items), "usage": usage})


THOUGHT = {
    "id": "rs_l",
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "I look."}],
    "encrypted_content": "",
}
CALL = {"id": "fc_l", "type": "function_call", "call_id": "c_l", "name": "analyzeImage", "arguments": LOOK}
WORDS = {
    "id": "msg_l",
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "A cat.", "annotations": []}],
}


def silent(*items: dict[str, Any]) -> bytes:
    """A gateway that streams whole items, and says nothing while they grow."""
    return b"".join(
        (
            event("response.created", response={"id": "resp_s", "object": "response"}),
            *(event(ITEM_DONE, output_index=index, item=item) for index, item in enumerate(items)),
            event(ENDED, response={"id": "resp_s", "object": "response", "output": list(items)}),
        )
    )


def at_once(*items: dict[str, Any]) -> bytes:
    """One that says all of it in its last event, and then what it says in the other format."""
    return event(ENDED, response={"id": "resp_a", "output": list(items)}) + b"data: [DONE]\n\n"


def unended(turn: bytes) -> bytes:
    """Without anything that repeats what was said before."""
    kept = [
        frame + b"\n\n"
        for frame in turn.split(b"\n\n")[:-1]
        if b".done\n" not in frame and b"response.content_part" not in frame
    ]
    last = orjson.loads(kept[-1].rpartition(b"data: ")[2])
    return b"".join(kept[:-1]) + event(last["type"], response={**last["response"], "output": []})


@dataclass(frozen=True)
class Fixture:
    name: str
    turns: list[bytes]
    text: str
    thoughts: str = ""
    items: str = "message"
    """The kinds of the output, in order."""
    calls: tuple[tuple[str, str, str], ...] = ()

    def __str__(self) -> str:
        return self.name


def one_look(name: str, first: bytes, second: bytes, **expected: Any) -> Fixture:
    return Fixture(name, [first, second], **expected)


WHOLE_ANSWER = Turn(2).says("A cat.").is_whole()
FIXTURES = [
    Fixture("plain", [Turn().says("Hello there.").is_whole()], "Hello there."),
    Fixture(
        "thoughts_then_words",
        [Turn().thinks("Hm.").says("Hello.").is_whole()],
        "Hello.",
        "Hm.",
        "reasoning message",
    ),
    one_look("look", Turn().calls("analyzeImage").is_whole(), WHOLE_ANSWER, text="A cat."),
    one_look(
        "thought_look_thought_words",
        Turn().thinks("I look.").calls("analyzeImage").is_whole(),
        Turn(2).thinks("A cat it is.").says("A cat.").is_whole(),
        text="A cat.",
        thoughts="I look.|A cat it is.",
        items="reasoning reasoning message",
    ),
    one_look(
        "words_look_words",
        Turn().says("Let me look.").calls("analyzeImage").is_whole(),
        Turn(2).says("\n\nA cat.").is_whole(),
        text="Let me look.\n\nA cat.",
    ),
    one_look(
        "words_look_thought_words",
        Turn().says("Let me look.").calls("analyzeImage").is_whole(),
        Turn(2).thinks("Ah.").says("A cat.").is_whole(),
        text="Let me look.\n\nA cat.",
        thoughts="Ah.",
        items="message reasoning message",
    ),
    one_look(
        "two_looks",
        Turn().calls("analyzeImage").says("\n").calls("analyzeImage").is_whole(),
        WHOLE_ANSWER,
        text="A cat.",
    ),
    Fixture(
        "mixed",
        [Turn().calls("analyzeImage").calls("bash", '{"c":1}', "call_b").is_whole()],
        "",
        items="function_call",
        calls=(("call_b", "bash", '{"c":1}'),),
    ),
    Fixture(
        "parallel_calls_of_the_client",
        [Turn().calls("bash", '{"c":1}', "call_a").calls("read", "{}", "call_b").is_whole()],
        "",
        items="function_call function_call",
        calls=(("call_a", "bash", '{"c":1}'), ("call_b", "read", "{}")),
    ),
    one_look(
        "summaries_with_signatures",
        Turn().sums_up("First.", "Second.", encrypted_content="sig1").calls("analyzeImage").is_whole(),
        Turn(2).sums_up(encrypted_content="sig2").says("A cat.").is_whole(),
        text="A cat.",
        thoughts="First.|Second.",
        items="reasoning reasoning message",
    ),
    one_look(
        "search",
        Turn().searches().calls("analyzeImage").is_whole(),
        WHOLE_ANSWER,
        text="A cat.",
        items="web_search_call message",
    ),
    one_look(
        "llamacpp",
        llamacpp(THOUGHT, CALL),
        llamacpp({**THOUGHT, "id": "rs_2"}, WORDS),
        text="A cat.",
        thoughts="I look.|I look.",
        items="reasoning reasoning message",
    ),
    one_look(
        "same_ids",
        llamacpp(THOUGHT, CALL),
        llamacpp(THOUGHT, WORDS),
        text="A cat.",
        thoughts="I look.|I look.",
        items="reasoning reasoning message",
    ),
    one_look(
        "silent", silent(THOUGHT, CALL), silent(WORDS), text="A cat.", thoughts="I look.", items="reasoning message"
    ),
    one_look(
        "at_once", at_once(THOUGHT, CALL), at_once(WORDS), text="A cat.", thoughts="I look.", items="reasoning message"
    ),
    one_look(
        "unended",
        unended(Turn().thinks("I look.").calls("analyzeImage").is_whole()),
        unended(Turn(2).thinks("Ah.").says("A cat.").is_whole()),
        text="A cat.",
        thoughts="I look.|Ah.",
        items="reasoning reasoning message",
    ),
    one_look(
        "crlf_and_comments",
        b": ping\r\n\r\n" + Turn().calls("analyzeImage").is_whole().replace(b"\n", b"\r\n"),
        WHOLE_ANSWER,
        text="A cat.",
    ),
    one_look(
        "one_piece_where_a_stream_was_asked_for",
        Turn().thinks("I look.").calls("analyzeImage").in_one_piece(),
        Turn(2).says("A cat.").in_one_piece(),
        text="A cat.",
        thoughts="I look.",
        items="reasoning message",
    ),
]


def check(fixture: Fixture, done: Spliced, read: Read) -> None:
    assert isinstance(done.outcome, Complete)
    assert read.text == fixture.text
    assert read.thoughts == fixture.thoughts
    assert " ".join(item["type"] for item in read.output) == fixture.items
    assert tuple(read.calls) == fixture.calls
    assert read.response["model"] == "brain"
    assert read.response["tools"] == []
    assert read.response["instructions"] == "Be brief."
    for hidden in (b"analyzeImage", b"seen by"):
        assert hidden not in done.client


@pytest.mark.parametrize("cut", CUTS, ids=["whole", "bytes", "1", "2", "3"])
@pytest.mark.parametrize("fixture", FIXTURES, ids=str)
def test_stream_is_canonical(fixture: Fixture, cut: Callable[[bytes], Iterable[bytes]]) -> None:
    done = splice(fixture.turns, cut=cut)
    check(fixture, done, read_events(done.client))


@pytest.mark.parametrize("fixture", FIXTURES, ids=str)
def test_where_the_bytes_are_cut_changes_nothing(fixture: Fixture) -> None:
    assert len({splice(fixture.turns, cut=cut).client for cut in CUTS}) == 1


# The last event of "unended" holds no output, so it has no whole form.
@pytest.mark.parametrize("fixture", [one for one in FIXTURES if one.name != "unended"], ids=str)
def test_whole_answer_holds_the_same(fixture: Fixture) -> None:
    turns = [turn if turn.startswith(b"{") else last_response(turn) for turn in fixture.turns]
    done = splice(turns, stream=False)
    check(fixture, done, Read(response=orjson.loads(done.client)))


def last_response(turn: bytes) -> bytes:
    frames = [frame for frame in turn.replace(b"\r", b"").split(b"\n\n") if b"data: {" in frame]
    return orjson.dumps(orjson.loads(frames[-1].rpartition(b"data: ")[2])["response"])


@pytest.mark.parametrize("fixture", [one for one in FIXTURES if len(one.turns) == 2], ids=str)
def test_follow_up_is_the_request_before_it_and_what_was_said(fixture: Fixture) -> None:
    first, second = splice(fixture.turns).asked
    before = len(first["input"])
    assert second["input"][:before] == first["input"]
    assert {**second, "input": 0} == {**first, "input": 0}
    said = second["input"][before:]
    calls = [item["call_id"] for item in said if item["type"] == "function_call"]
    results = [item["call_id"] for item in said if item["type"] == "function_call_output"]
    assert calls == results
    assert [item["type"] for item in said[-len(results) :]] == ["function_call_output"] * len(results)


def test_items_go_back_as_the_server_said_them() -> None:
    turn = Turn().sums_up("First.", encrypted_content="sig").says("Let me look.").searches().calls("analyzeImage")
    output = orjson.loads(turn.in_one_piece())["output"]
    second = splice([turn.breaks_off(), WHOLE_ANSWER]).asked[1]
    assert second["input"][1:-1] == output


def test_usage_is_the_last_prompt_and_all_that_was_said() -> None:
    done = splice(
        [Turn().calls("analyzeImage").is_whole(read=100, said=20), Turn(2).says("A cat.").is_whole(read=150, said=7)]
    )
    usage = read_events(done.client).response["usage"]
    assert usage == {
        "input_tokens": 150,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 27,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 177,
        "chiasm": {
            "turns": 2,
            "vision_calls": 1,
            "vision_prompt_tokens": 100,
            "vision_completion_tokens": 10,
            "billed_prompt_tokens": 250,
        },
    }


def test_limit_is_one_budget_over_the_turns() -> None:
    request = {"model": "brain", "input": "What?", "max_output_tokens": 100}
    done = splice([Turn().calls("analyzeImage").is_whole(said=30), WHOLE_ANSWER], request=request)
    assert [asked["max_output_tokens"] for asked in done.asked] == [100, 70]
    assert read_events(done.client).response["max_output_tokens"] == 100


def test_answer_cut_by_the_limit_is_incomplete() -> None:
    turn = Turn().says("A c").is_whole(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    response = read_events(splice([turn]).client).response
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"


def test_answer_stopped_by_a_filter_says_so() -> None:
    turn = Turn().says("A c").is_whole(status="incomplete", incomplete_details={"reason": "content_filter"})
    assert read_events(splice([turn]).client).response["incomplete_details"] == {"reason": "content_filter"}


def test_look_that_a_filter_cut_is_not_run() -> None:
    turn = Turn().says("I look.").calls("analyzeImage", '{"image":"1","ta')
    done = splice([turn.is_whole(status="incomplete", incomplete_details={"reason": "content_filter"})])
    assert read_events(done.client).response["incomplete_details"] == {"reason": "content_filter"}
    assert [item["type"] for item in read_events(done.client).output] == ["message"]


@pytest.mark.parametrize(
    "end",
    [
        lambda turn: turn.fails("rate_limit_exceeded", "Slow down."),
        lambda turn: turn.breaks_off() + event("error", code="rate_limit_exceeded", message="Slow down.", param=None),
        lambda turn: (
            turn.breaks_off()
            + event("error", error={"code": "rate_limit_exceeded", "message": "Slow down.", "type": "x"})
        ),
        lambda turn: turn.breaks_off() + b'data: {"error":{"message":"Slow down.","type":"rate_limit_exceeded"}}\n\n',
    ],
)
def test_failure_keeps_the_servers_words(end: Callable[[Turn], bytes]) -> None:
    done = splice([end(Turn().says("A c"))])
    assert isinstance(done.outcome, Fail)
    response = read_events(done.client).response
    assert response["status"] == "failed"
    assert response["error"] == {"code": "rate_limit_exceeded", "message": "Slow down."}


def test_stream_that_ends_in_the_middle_has_failed() -> None:
    done = splice([Turn().says("A cat.").breaks_off()])
    assert isinstance(done.outcome, Fail)
    assert read_events(done.client).response["error"]["code"] == "upstream_truncated"


def test_custom_tools_of_the_client_keep_their_text() -> None:
    patch = "*** Begin Patch\n*** End Patch"
    request = {"model": "brain", "input": "Patch it.", "tools": [{"type": "custom", "name": "apply_patch"}]}
    read = read_events(splice([Turn().custom("apply_patch", patch).is_whole()], request=request).client)
    assert read.output == [
        {
            "id": "ctc_10",
            "type": "custom_tool_call",
            "call_id": "call_10",
            "name": "apply_patch",
            "input": patch,
            "status": "completed",
        }
    ]


def test_text_call_of_ours_is_no_word_of_the_answer() -> None:
    written = '<tool_call>{"name": "analyzeImage", "arguments": {"image": "1", "task": "x"}}</tool_call>'
    done = splice([Turn().says(f"Let me look. {written}").is_whole(), WHOLE_ANSWER])
    assert read_events(done.client).text.split() == ["Let", "me", "look.", "A", "cat."]
    said = [item for item in done.asked[1]["input"] if item.get("type") == "function_call"]
    assert [item["name"] for item in said] == ["analyzeImage"]
    assert "tool_call>" not in orjson.dumps(done.asked[1]).decode()


def test_turn_that_says_nothing_is_asked_again_whole() -> None:
    done = splice([Turn().is_whole(), Turn(2).says("A cat.").in_one_piece()])
    assert read_events(done.client).text == "A cat."
    assert "stream" not in done.asked[1]


def test_shell_of_the_client_goes_out_when_it_is_whole() -> None:
    shell = {
        "id": "ls_1",
        "type": "local_shell_call",
        "call_id": "c1",
        "status": "completed",
        "action": {"type": "exec", "command": ["ls"]},
    }
    done = splice([silent(shell)])
    assert read_events(done.client).output == [shell]


def test_heartbeat_is_a_comment_and_the_other_one_an_event() -> None:
    from router.protocol.wire_format import Envelope
    from tests.responses_wire import WIRE

    writer = WIRE.answering({"stream": True}, Envelope("resp_1", 1, "brain"), mint_id=str, reasoning_fields=()).writer
    assert writer.heartbeat().startswith(b": ")
    stream = writer.empty_chunk() + writer.empty_chunk() + writer.complete("stop", None)
    assert read_events(stream).response["output"] == []


def test_two_messages_of_one_turn_are_two_items() -> None:
    read = read_events(splice([Turn().says("First.").says("Second.").is_whole()]).client)
    assert [item["content"][0]["text"] for item in read.output] == ["First.", "Second."]


def test_white_space_at_the_end_is_no_item_of_its_own() -> None:
    read = read_events(splice([Turn().thinks("Hm.\n").says("Hello.").searches().says("\n").is_whole()]).client)
    assert [item["type"] for item in read.output] == ["reasoning", "message", "web_search_call"]


def test_what_the_server_got_is_not_shown() -> None:
    turn = Turn().says("Hello.").is_whole(input_messages=[{"content": "seen by"}], output_messages=["seen by"])
    assert b"seen by" not in splice([turn]).client


def test_broken_arguments_go_back_mended() -> None:
    done = splice([Turn().calls("analyzeImage", '{"image":"1","task":"x"').is_whole(), WHOLE_ANSWER])
    (said,) = [item for item in done.asked[1]["input"] if item.get("type") == "function_call"]
    assert orjson.loads(said["arguments"]) == {"image": "1", "task": "x"}


def test_calls_with_one_id_get_ids_of_their_own() -> None:
    turn = Turn().calls("bash", '{"c":1}', "call_a").calls("bash", '{"c":2}', "call_a").is_whole()
    ids = [id_ for id_, _, _ in read_events(splice([turn]).client).calls]
    assert ids[0] == "call_a"
    assert ids[1] != "call_a"


def test_what_the_deltas_left_out_is_told_by_the_end() -> None:
    opening = event("response.created", response={"id": "resp_1"})
    delta = event("response.output_text.delta", output_index=0, item_id="msg_l", content_index=0, delta="A c")
    turn = opening + delta + event(ITEM_DONE, output_index=0, item=WORDS) + event(ENDED, response={"id": "resp_1"})
    assert read_events(splice([turn]).client).text == "A cat."


def test_log_probabilities_and_sources_stay_with_their_words() -> None:
    logprob = {"token": "A cat.", "logprob": -0.5, "bytes": [65], "top_logprobs": []}
    source = {"type": "url_citation", "url": "https://a.example", "title": "A", "start_index": 0, "end_index": 1}
    place = {"output_index": 0, "item_id": "msg_l", "content_index": 0}
    turn = (
        event("response.created", response={"id": "resp_1"})
        + event(ITEM_ADDED, output_index=0, item={**WORDS, "content": []})
        + event("response.output_text.delta", **place, delta="A cat.", logprobs=[logprob])
        + event("response.output_text.annotation.added", **place, annotation_index=0, annotation=source)
        + event(ITEM_DONE, output_index=0, item=WORDS)
        + event(ENDED, response={"id": "resp_1"})
    )
    (part,) = read_events(splice([turn]).client).output[0]["content"]
    assert part == {"type": "output_text", "text": "A cat.", "annotations": [source], "logprobs": [logprob]}
