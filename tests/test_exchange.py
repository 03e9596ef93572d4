"""The rules of `router.protocol.exchange`, one conversation each, and what holds for all conversations."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import UpstreamBroken, UpstreamRefused, UpstreamSilent
from router.protocol.chat.dialect import OpenAIChat
from router.protocol.events import (
    Action,
    CallTools,
    Complete,
    Event,
    Fail,
    Keep,
    OpenUpstream,
    SendPart,
    ToolsCompleted,
    UpstreamEnded,
    UpstreamFailed,
)
from router.protocol.exchange import LAST_TURN_NOTE, NO_ANSWER_NOTE, Exchange, State
from router.protocol.parts import ErrorFrame, Finish, Head, Opaque, Part, Reasoning, Text, ToolArgs, ToolStart, Usage
from router.protocol.profiles import PROFILES
from tests.playbook import REQUEST, Playbook, a, mixed, nothing, owning, passes, playbook
from tools.call import ToolCall, ToolResult, VisionUsage

ENDED = UpstreamEnded(clean=True)
CUT_OFF = UpstreamEnded(clean=False)
LOOK = '{"image":"1","task":"What?"}'


def looking(book: Playbook, *, slot: int = 0, id_: str = "look_1", arguments: str = LOOK) -> Playbook:
    """The brain calls our tool, and nobody sees it."""
    return book >> ToolStart(slot, id_, "analyzeImage") >> ToolArgs(slot, arguments)


def calls(*ids: str, arguments: str = LOOK) -> CallTools:
    return CallTools(tuple(ToolCall(id_, "analyzeImage", arguments) for id_ in ids))


def seen(*ids: str) -> ToolsCompleted:
    return ToolsCompleted(tuple(ToolResult(id_, f"seen by {id_}", VisionUsage(1, 100, 10)) for id_ in ids))


def second_turn(book: Playbook) -> Playbook:
    """One look, done."""
    return looking(book) >> Finish("tool_calls") >> ENDED << calls("look_1") >> seen("look_1") << a(OpenUpstream)


def usage(prompt: int, completion: int, **more: Any) -> Usage:
    return Usage(
        {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **more}
    )


# Pass-through


def test_words_and_thoughts_pass_as_they_come() -> None:
    assert (
        playbook()
        >> Head("a", 7)
        << passes
        >> Reasoning("Hm")
        << passes
        >> Reasoning(", well")
        << passes
        >> Text("Hello", logprobs={"content": []})
        << passes
        >> Text(" there")
        << passes
        >> Finish("stop")
        << nothing
        >> ENDED
        << Complete("stop", None)
    )


def test_client_calls_pass_as_they_come() -> None:
    assert (
        playbook()
        >> ToolStart(0, "c1", "bash")
        << passes
        >> ToolArgs(0, '{"command":')
        << passes
        >> ToolArgs(0, '"ls"}')
        << passes
        >> Finish("tool_calls")
        >> ENDED
        << Complete("tool_calls", None)
    )


def test_the_first_request_goes_out_unchanged() -> None:
    assert playbook().requests == [REQUEST]


def test_an_answer_that_says_nothing_is_complete_when_the_server_says_so() -> None:
    assert playbook() >> Head("a") << passes >> Finish("stop") >> ENDED << Complete("stop", None)


# White space


def test_white_space_before_the_first_word_goes_out_with_it() -> None:
    assert playbook() >> Text("\n") << nothing >> Text("\n") << nothing >> Text("Hi") << SendPart(Text("\n\nHi"))


def test_white_space_between_words_goes_out_with_the_next_word() -> None:
    assert playbook() >> Text("a") << passes >> Text(" ") << nothing >> Text("b") << SendPart(Text(" b"))


def test_white_space_at_the_end_of_the_answer_is_not_lost() -> None:
    assert (
        playbook()
        >> Reasoning("Hm")
        << passes
        >> Reasoning("\n")
        >> Text("Hi")
        << passes
        >> Text("\n")
        >> Text("\n")
        << nothing
        >> Finish("stop")
        >> ENDED
        << SendPart(Reasoning("\n"))
        << SendPart(Text("\n\n"))
        << Complete("stop", None)
    )


@pytest.mark.parametrize("name", ["analyzeImage", "bash"])
def test_white_space_before_a_call_never_reaches_the_client(name: str) -> None:
    book = playbook() >> Reasoning("Hm") << passes >> Reasoning("\n") >> Text("\n\n") >> ToolStart(0, "c1", name)
    assert book if name == "analyzeImage" else book << passes
    assert book >> Text("\n")
    assert book.sent[:1] == [Reasoning("Hm")]
    assert not any(isinstance(part, Text) for part in book.sent)


def test_white_space_between_two_owned_calls_never_reaches_the_client() -> None:
    book = looking(looking(playbook()) >> Text("\n") << nothing, slot=1, id_="look_2")
    assert book >> Finish("tool_calls") >> ENDED << calls("look_1", "look_2")
    assert book >> seen("look_1", "look_2") << a(OpenUpstream) >> Text("A cat.") << passes


def test_white_space_of_words_does_not_wait_for_thoughts() -> None:
    assert playbook() >> Text("\n\n") << nothing >> Reasoning("Hm") << passes >> Text("Hi") << SendPart(Text("\n\nHi"))


# Where turns are joined


@pytest.mark.parametrize(
    ("before", "after", "seam"),
    [
        ("Let me look.", "A cat.", "\n\nA cat."),
        ("Let me look.", "\n\nA cat.", "\n\nA cat."),
        ("Let me look.\n", "\n\nA cat.", "A cat."),
        ("Let me look. ", "A cat.", "A cat."),
        ("Let me look.", "\n  A cat.", "\n\n  A cat."),
    ],
)
def test_words_of_a_follow_up_begin_a_new_paragraph(before: str, after: str, seam: str) -> None:
    assert second_turn(playbook() >> Text(before) << passes) >> Text(after) << SendPart(Text(seam))


def test_white_space_in_pieces_is_joined_like_white_space_in_one() -> None:
    assert (
        second_turn(playbook() >> Text("Let me look.") << passes >> Text("\n\n"))
        >> Text("\n")
        >> Text("\n")
        << nothing
        >> Text("A cat.")
        << SendPart(Text("\n\nA cat."))
        >> Text(" A black one.")
        << passes
    )


def test_a_follow_up_whose_words_are_the_first_begins_as_the_brain_began_it() -> None:
    assert second_turn(playbook()) >> Text("\n\nA cat.") << passes


def test_thoughts_are_joined_apart_from_words() -> None:
    assert (
        second_turn(playbook() >> Reasoning("I must look.") << passes)
        >> Reasoning("It is a cat.")
        << SendPart(Reasoning("\n\nIt is a cat."))
        >> Text("A cat.")
        << passes
    )


def test_a_turn_without_words_between_two_with_words_leaves_one_blank_line() -> None:
    book = second_turn(playbook() >> Text("Let me look.") << passes)
    assert second_turn(book) >> Text("A cat.") << SendPart(Text("\n\nA cat."))


def test_words_after_an_owned_call_in_the_same_turn_do_not_run_into_those_before_it() -> None:
    book = looking(playbook() >> Text("Let me look.") << passes >> Text("\n\n"))
    assert book >> Text("\n") << nothing >> Text("Done.") << SendPart(Text("\n\nDone."))


def test_the_head_of_a_follow_up_never_reaches_the_client() -> None:
    assert second_turn(playbook() >> Head("a", 1) << passes) >> Head("b", 2) << nothing


# Owned calls


def test_several_owned_calls_are_run_together_and_answered_in_their_order() -> None:
    book = playbook()
    assert (
        book
        >> ToolStart(0, "look_1", "analyzeImage")
        >> ToolStart(1, "look_2", "analyzeImage")
        >> ToolArgs(1, '{"image":"2"}')
        >> ToolArgs(0, '{"image":"1"}')
        >> Finish("tool_calls")
        >> ENDED
        << CallTools(
            (ToolCall("look_1", "analyzeImage", '{"image":"1"}'), ToolCall("look_2", "analyzeImage", '{"image":"2"}'))
        )
        >> seen("look_1", "look_2")
        << a(OpenUpstream)
    )
    said, *results = book.requests[1]["messages"][1:]
    assert [call["id"] for call in said["tool_calls"]] == ["look_1", "look_2"]
    assert [(result["tool_call_id"], result["content"]) for result in results] == [
        ("look_1", "seen by look_1"),
        ("look_2", "seen by look_2"),
    ]


def test_a_follow_up_is_the_request_and_what_was_said_and_the_results() -> None:
    request = {**REQUEST, "tools": [{"type": "function"}], "tool_choice": "auto", "seed": 7, "x": {"y": None}}
    book = playbook(request=request)
    assert second_turn(book >> Reasoning("Hm") << passes >> Text("I look.") << passes >> Text("\n\n"))
    assert book.requests == [
        request,
        {
            **request,
            "messages": [
                *request["messages"],
                {
                    "role": "assistant",
                    "content": "I look.\n\n",
                    "reasoning": "Hm",
                    "reasoning_content": "Hm",
                    "tool_calls": [
                        {"id": "look_1", "type": "function", "function": {"name": "analyzeImage", "arguments": LOOK}}
                    ],
                },
                {"role": "tool", "tool_call_id": "look_1", "content": "seen by look_1"},
            ],
        },
    ]


def test_each_follow_up_begins_with_the_request_before_it() -> None:
    book = playbook()
    assert second_turn(second_turn(second_turn(book)))
    for before, after in pairwise(book.requests):
        assert after["messages"][: len(before["messages"])] == before["messages"]
    assert len(book.requests) == 4


def test_the_turn_before_the_last_is_told_so_with_unchanged_tools() -> None:
    request = {**REQUEST, "tools": [{"type": "function"}]}
    book = playbook(max_turns=3, request=request)
    assert second_turn(book)
    assert book.requests[-1]["messages"][-1]["content"] == "seen by look_1"
    assert (
        looking(looking(book), slot=1, id_="look_2")
        >> ENDED
        << a(CallTools)
        >> seen("look_1", "look_2")
        << a(OpenUpstream)
    )
    first, last = book.requests[-1]["messages"][-2:]
    assert first["content"] == "seen by look_1"
    assert last["content"] == "seen by look_2" + LAST_TURN_NOTE
    assert book.requests[-1]["tools"] == request["tools"]


def test_at_the_limit_an_answer_with_words_ends_with_them() -> None:
    assert (
        looking(second_turn(playbook(max_turns=2)) >> Text("Two cats.") << passes >> Text("\n"))
        >> Finish("tool_calls")
        >> ENDED
        << Complete("stop", None)
    )


def test_at_the_limit_an_answer_without_words_says_why() -> None:
    note = NO_ANSWER_NOTE.format(turns=2)
    book = second_turn(playbook(max_turns=2) >> Text("Let me look.") << passes) >> Text("\n\n")
    assert looking(book) >> ENDED << SendPart(Text("\n\n" + note)) << Complete("stop", None)


def test_with_one_turn_allowed_the_tool_is_never_run() -> None:
    book = looking(playbook(max_turns=1))
    assert book >> ENDED << SendPart(Text(NO_ANSWER_NOTE.format(turns=1))) << Complete("stop", None)


def test_the_finish_of_a_swallowed_turn_never_reaches_the_client() -> None:
    book = second_turn(playbook() >> Head("a") << passes)
    assert book >> Text("A cat.") << passes >> Finish("stop") >> ENDED << Complete("stop", None)
    assert not any(isinstance(part, Finish | Usage) for part in book.sent)


@pytest.mark.parametrize("arguments", ["", "{}", '"image":"1"}', '{"image":"1"}{"image":"1"}', '{"image'])
def test_arguments_are_handed_to_the_tool_as_they_are_when_the_turn_ended_well(arguments: str) -> None:
    book = playbook() >> ToolStart(0, "look_1", "analyzeImage")
    book = book >> ToolArgs(0, arguments) if arguments else book
    assert book >> Finish("tool_calls") >> ENDED << calls("look_1", arguments=arguments)


def test_calls_decide_and_not_the_finish_reason() -> None:
    assert looking(playbook()) >> Finish("stop") >> ENDED << calls("look_1")
    assert playbook() >> ToolStart(0, "c1", "bash") << passes >> Finish("stop") >> ENDED << Complete("tool_calls", None)
    assert playbook() >> Text("Hi") << passes >> Finish("tool_calls") >> ENDED << Complete("stop", None)


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "abort", "function_call"])
def test_other_finish_reasons_pass(reason: str) -> None:
    assert playbook() >> Text("Hi") << passes >> Finish(reason) >> ENDED << Complete(reason, None)


# Mixed turns


def message(*said: tuple[str, str, str], content: str | None = None) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id_, name, arguments in said
        ],
    }


def test_in_a_mixed_turn_with_the_owned_call_first_the_client_answers_its_own() -> None:
    assert (
        looking(playbook() >> Text("Both.") << passes)
        >> ToolStart(1, "c1", "bash")
        << SendPart(ToolStart(0, "c1", "bash"))
        >> ToolArgs(1, "{}")
        << SendPart(ToolArgs(0, "{}"))
        >> Finish("tool_calls")
        >> ENDED
        << mixed(
            calls=calls("look_1").calls,
            client_ids=("c1",),
            said=(message(("look_1", "analyzeImage", LOOK), ("c1", "bash", "{}"), content="Both."),),
        )
        << Complete("tool_calls", None)
    )


def test_in_a_mixed_turn_with_the_client_call_first_the_client_answers_its_own() -> None:
    assert (
        looking(playbook() >> ToolStart(0, "c1", "bash") << passes >> ToolArgs(0, "{}") << passes, slot=1, id_="look_1")
        >> Finish("tool_calls")
        >> ENDED
        << mixed(
            calls=calls("look_1").calls,
            client_ids=("c1",),
            said=(message(("c1", "bash", "{}"), ("look_1", "analyzeImage", LOOK)),),
        )
        << Complete("tool_calls", None)
    )


def test_interleaved_fragments_of_an_owned_and_a_client_call_are_told_apart() -> None:
    assert (
        playbook()
        >> ToolStart(0, "look_1", "analyzeImage")
        << nothing
        >> ToolStart(1, "c1", "bash")
        << SendPart(ToolStart(0, "c1", "bash"))
        >> ToolArgs(0, '{"image":')
        << nothing
        >> ToolArgs(1, '{"command":')
        << SendPart(ToolArgs(0, '{"command":'))
        >> ToolArgs(0, '"1"}')
        << nothing
        >> ToolArgs(1, '"ls"}')
        << SendPart(ToolArgs(0, '"ls"}'))
        >> ENDED
        << mixed(
            calls=(ToolCall("look_1", "analyzeImage", '{"image":"1"}'),),
            client_ids=("c1",),
            said=(message(("look_1", "analyzeImage", '{"image":"1"}'), ("c1", "bash", '{"command":"ls"}')),),
        )
        << Complete("tool_calls", None)
    )


def test_a_mixed_turn_is_a_mixed_turn_at_the_limit_too() -> None:
    assert (
        looking(playbook(max_turns=1) >> ToolStart(0, "c1", "bash") << passes, slot=1)
        >> ENDED
        << mixed(client_ids=("c1",))
        << Complete("tool_calls", None)
    )


def test_client_numbers_have_no_gaps_where_owned_calls_stood() -> None:
    book = (
        looking(playbook())
        >> ToolStart(1, "c1", "bash")
        << SendPart(ToolStart(0, "c1", "bash"))
        >> ToolArgs(1, "{}")
        << SendPart(ToolArgs(0, "{}"))
    )
    assert looking(book, slot=2, id_="look_2") >> ToolStart(3, "c2", "grep") << SendPart(ToolStart(1, "c2", "grep"))
    assert book >> ENDED << mixed(client_ids=("c1", "c2")) << Complete("tool_calls", None)


# Client calls one after the other


def test_a_second_client_call_waits_until_the_first_is_finished() -> None:
    assert (
        playbook()
        >> ToolStart(0, "c1", "bash")
        << passes
        >> ToolArgs(0, '{"a":')
        << passes
        >> ToolStart(1, "c2", "grep")
        << nothing
        >> ToolArgs(1, '{"b":')
        << nothing
        >> ToolArgs(0, "{}")
        << passes
        >> ToolArgs(0, "}")
        << passes
        << SendPart(ToolStart(1, "c2", "grep"))
        << SendPart(ToolArgs(1, '{"b":'))
        >> ToolArgs(1, "1}")
        << passes
        >> ENDED
        << Complete("tool_calls", None)
    )


def test_two_client_calls_that_begin_together_keep_all_their_arguments() -> None:
    assert (
        playbook()
        >> ToolStart(0, "c1", "bash")
        << passes
        >> ToolStart(1, "c2", "grep")
        << nothing
        >> ToolArgs(0, '{"a":1}')
        << passes
        << SendPart(ToolStart(1, "c2", "grep"))
        >> ToolArgs(1, '{"b":2}')
        << passes
        >> ENDED
        << Complete("tool_calls", None)
    )


def test_a_client_call_that_waits_is_not_overtaken_by_a_later_one() -> None:
    assert (
        playbook()
        >> ToolStart(0, "c1", "bash")
        << passes
        >> ToolStart(1, "c2", "grep")
        >> ToolArgs(0, "{}")
        << passes
        << SendPart(ToolStart(1, "c2", "grep"))
        >> ToolStart(2, "c3", "cat")
        << nothing
        >> ToolArgs(2, '{"c":3}')
        >> ToolArgs(1, '{"b":2}')
        << passes
        << SendPart(ToolStart(2, "c3", "cat"))
        << SendPart(ToolArgs(2, '{"c":3}'))
        >> ENDED
        << Complete("tool_calls", None)
    )


def test_client_calls_that_still_wait_at_the_end_go_out_then() -> None:
    assert (
        playbook()
        >> ToolStart(0, "c1", "now")
        << passes
        >> ToolStart(1, "c2", "grep")
        >> ToolArgs(1, '{"b":2}')
        >> ToolStart(2, "c3", "now")
        << nothing
        >> Finish("tool_calls")
        >> ENDED
        << SendPart(ToolStart(1, "c2", "grep"))
        << SendPart(ToolArgs(1, '{"b":2}'))
        << SendPart(ToolStart(2, "c3", "now"))
        << Complete("tool_calls", None)
    )


def test_words_after_a_client_call_are_not_sent_but_kept_for_the_brain() -> None:
    book = (
        playbook()
        >> Text("Before.")
        << passes
        >> ToolStart(0, "c1", "bash")
        << passes
        >> Text(" After.")
        << nothing
        >> Reasoning("Hm")
        << nothing
    )
    assert (
        looking(book, slot=1)
        >> ENDED
        << mixed(
            said=(
                {
                    **message(("c1", "bash", "{}"), ("look_1", "analyzeImage", LOOK), content="Before. After."),
                    "reasoning": "Hm",
                    "reasoning_content": "Hm",
                },
            ),
        )
        << Complete("tool_calls", None)
    )


# How a turn ends


def test_finish_reasons_after_every_chunk_end_nothing() -> None:
    assert (
        playbook()
        >> Text("A")
        << passes
        >> Finish("stop")
        << nothing
        >> Text(" cat")
        << passes
        >> Finish("length")
        << nothing
        >> ENDED
        << Complete("length", None)
    )


def test_an_end_without_a_finish_reason_is_good_if_the_server_said_done() -> None:
    assert playbook() >> Text("Hi") << passes >> ENDED << Complete("stop", None)
    assert playbook() >> ToolStart(0, "c1", "bash") << passes >> ENDED << Complete("tool_calls", None)
    assert looking(playbook()) >> ENDED << calls("look_1")


def test_an_end_without_done_is_good_if_there_was_a_finish_reason() -> None:
    assert playbook() >> Text("Hi") << passes >> Finish("stop") >> CUT_OFF << Complete("stop", None)


@pytest.mark.parametrize(
    "said",
    [
        (),
        (Head("a"),),
        (Text("Hi"),),
        (Reasoning("Hm"),),
        (ToolStart(0, "c1", "bash"), ToolArgs(0, "{}")),
        (ToolStart(0, "look_1", "analyzeImage"),),
        (ToolStart(0, "look_1", "analyzeImage"), ToolArgs(0, '{"image":')),
        (ToolStart(0, "look_1", "analyzeImage"), ToolArgs(0, LOOK), ToolStart(1, "c1", "bash"), ToolArgs(1, "{}")),
        (ToolStart(0, "look_1", "analyzeImage"), ToolArgs(0, LOOK), ToolStart(1, "look_2", "analyzeImage")),
    ],
)
def test_a_stream_that_just_ceases_has_failed(said: Sequence[Part]) -> None:
    exchange = playbook().exchange
    for part in said:
        exchange.handle(part)
    (failed,) = exchange.handle(CUT_OFF)
    assert isinstance(failed, Fail)
    assert (failed.error.status, failed.error.code) == (502, "upstream_truncated")
    assert exchange.state is State.DONE


def test_a_turn_that_ends_without_a_word_has_failed() -> None:
    book = playbook() >> ENDED << a(Fail)
    assert book
    failed = book.actions[-1]
    assert isinstance(failed, Fail)
    assert failed.error.code == "upstream_truncated"


def test_a_stream_that_just_ceases_after_whole_owned_calls_has_said_enough() -> None:
    assert looking(playbook()) >> CUT_OFF << calls("look_1")


def test_an_error_before_anything_fails() -> None:
    assert playbook() >> ErrorFrame("no memory", 500) << Fail(UpstreamBroken("no memory", code="500"))
    assert playbook() >> ErrorFrame("no memory") << Fail(UpstreamBroken("no memory"))


@pytest.mark.parametrize("status", [400, 401, 404, 429])
def test_a_refusal_that_is_the_first_word_of_a_stream_keeps_its_status(status: int) -> None:
    assert playbook() >> ErrorFrame("too many", status) << Fail(UpstreamRefused("too many", status=status))
    assert second_turn(playbook()) >> ErrorFrame("no", status) << Fail(UpstreamRefused("no", status=status))


def test_an_error_in_the_middle_fails_as_the_servers_fault() -> None:
    book = playbook() >> Head("a") << passes >> Text("Hi") << passes >> Text("\n")
    assert (
        book
        >> ErrorFrame("list index out of range", 400)
        << Fail(UpstreamBroken("list index out of range", code="400"))
    )


def test_an_error_after_the_finish_reason_does_not_undo_the_answer() -> None:
    assert playbook() >> Text("Hi") << passes >> Finish("stop") >> ErrorFrame("late", 500) << Complete("stop", None)
    assert looking(playbook()) >> Finish("tool_calls") >> ErrorFrame("late", 500) << calls("look_1")
    assert playbook() >> Text("Hi") << passes >> Finish("stop") >> UpstreamFailed(UpstreamSilent("…")) << a(Complete)


def test_an_error_after_whole_owned_arguments_does_not_keep_them_from_being_run() -> None:
    assert looking(playbook()) >> ErrorFrame("list index out of range", 400) << calls("look_1")
    assert looking(playbook()) >> UpstreamFailed(UpstreamBroken("cut")) << calls("look_1")


@pytest.mark.parametrize("arguments", ["", '{"image":"1"', '"image":"1"}'])
def test_an_error_within_owned_arguments_fails(arguments: str) -> None:
    book = playbook() >> ToolStart(0, "look_1", "analyzeImage") >> ToolArgs(0, arguments)
    assert book >> ErrorFrame("boom") << Fail(UpstreamBroken("boom"))


def test_an_error_after_a_client_call_fails() -> None:
    book = looking(playbook()) >> ToolStart(1, "c1", "bash") << a(SendPart)
    assert book >> ErrorFrame("boom") << Fail(UpstreamBroken("boom"))


def test_a_refusal_to_open_a_turn_is_the_answer() -> None:
    refused = UpstreamRefused("context length", status=400)
    assert playbook() >> UpstreamFailed(refused) << Fail(refused)
    assert second_turn(playbook()) >> UpstreamFailed(refused) << Fail(refused)


def test_silence_after_whole_owned_arguments_fails() -> None:
    assert looking(playbook()) >> UpstreamFailed(UpstreamSilent("…")) << Fail(UpstreamSilent("…"))


# Lengths and budgets


@pytest.mark.parametrize("arguments", ["", '{"image":', "{}", LOOK])
def test_a_length_cut_inside_an_owned_call_is_the_answers_end(arguments: str) -> None:
    book = playbook() >> Text("Let me look.") << passes >> ToolStart(0, "look_1", "analyzeImage")
    assert book >> ToolArgs(0, arguments) >> Finish("length") >> ENDED << Complete("length", None)


def test_a_length_cut_inside_the_second_owned_call_runs_neither() -> None:
    book = looking(playbook()) >> ToolStart(1, "look_2", "analyzeImage") >> ToolArgs(1, '{"im')
    assert book >> Finish("length") >> ENDED << Complete("length", None)


def test_a_length_cut_inside_a_client_call_is_told_as_such() -> None:
    book = playbook() >> ToolStart(0, "c1", "bash") << passes >> ToolArgs(0, '{"comm') << passes
    assert book >> Finish("length") >> ENDED << Complete("length", None)


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_what_a_turn_used_is_taken_off_the_clients_limit(limit: str) -> None:
    book = playbook(request={**REQUEST, limit: 100})
    assert looking(book) >> usage(50, 30) >> ENDED << calls("look_1") >> seen("look_1") << a(OpenUpstream)
    assert looking(book) >> usage(90, 50) >> ENDED << calls("look_1") >> seen("look_1") << a(OpenUpstream)
    assert [request[limit] for request in book.requests] == [100, 70, 20]


def test_when_the_limit_is_used_up_the_answer_ends_with_length() -> None:
    book = looking(playbook(request={**REQUEST, "max_tokens": 100}) >> Text("Let me look.") << passes)
    assert book >> usage(50, 90) >> ENDED << calls("look_1") >> seen("look_1") << a(Complete, reason="length")


def test_a_turn_that_tells_no_usage_leaves_the_limit_as_it_is() -> None:
    book = playbook(request={**REQUEST, "max_tokens": 100})
    assert second_turn(book)
    assert [request["max_tokens"] for request in book.requests] == [100, 100]


# Usage


def chiasm(**some: int) -> dict[str, int]:
    none = {"turns": 1, "vision_calls": 0, "vision_prompt_tokens": 0, "vision_completion_tokens": 0}
    return {**none, **some}


def test_usage_is_the_last_turns_prompt_and_all_turns_completions() -> None:
    details = {"cached_tokens": 5}
    book = looking(playbook()) >> usage(50, 30, prompt_tokens_details={"cached_tokens": 1})
    assert (
        book
        >> ENDED
        << calls("look_1")
        >> seen("look_1")
        << a(OpenUpstream)
        >> Text("A cat.")
        << passes
        >> usage(90, 7, prompt_tokens_details=details)
        >> ENDED
        << Complete(
            "stop",
            {
                "prompt_tokens": 90,
                "completion_tokens": 37,
                "total_tokens": 127,
                "prompt_tokens_details": details,
                "chiasm": chiasm(
                    turns=2,
                    vision_calls=1,
                    vision_prompt_tokens=100,
                    vision_completion_tokens=10,
                    billed_prompt_tokens=140,
                ),
            },
        )
    )


def test_reasoning_tokens_are_summed_and_the_other_details_are_the_last_turns() -> None:
    book = looking(playbook()) >> usage(50, 30, completion_tokens_details={"reasoning_tokens": 20, "audio_tokens": 1})
    book = book >> ENDED << calls("look_1") >> seen("look_1") << a(OpenUpstream) >> Text("A cat.") << passes
    assert (
        book
        >> usage(90, 7, completion_tokens_details={"reasoning_tokens": 3, "audio_tokens": 2})
        >> ENDED
        << a(Complete, reason="stop")
    )
    assert _usage(book)["completion_tokens_details"] == {"reasoning_tokens": 23, "audio_tokens": 2}


def test_without_a_word_from_the_server_there_is_no_usage() -> None:
    assert second_turn(playbook()) >> Text("A cat.") << passes >> ENDED << Complete("stop", None)


def test_the_last_of_several_usages_of_a_turn_counts() -> None:
    book = playbook() >> Text("A") << passes >> usage(5, 1) >> Text(" cat") << passes >> usage(5, 2) >> ENDED
    assert book << a(Complete)
    assert (_usage(book)["completion_tokens"], _usage(book)["total_tokens"]) == (2, 7)


def test_a_last_turn_without_usage_leaves_the_prompt_of_the_one_before() -> None:
    book = looking(playbook()) >> usage(50, 30) >> ENDED << a(CallTools) >> seen("look_1") << a(OpenUpstream)
    assert book >> Text("A cat.") << passes >> Finish("stop") >> CUT_OFF << a(Complete)
    assert {key: _usage(book)[key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        "prompt_tokens": 50,
        "completion_tokens": 30,
        "total_tokens": 80,
    }


def test_chiasms_own_part_of_the_usage_holds_integers_only() -> None:
    book = looking(playbook()) >> Usage({"prompt_tokens": None, "completion_tokens": True, "cost": 0.25})
    book = book >> ENDED << a(CallTools) >> seen("look_1") << a(OpenUpstream) >> Finish("stop") >> ENDED
    assert book << a(Complete)
    assert {type(value) for value in _usage(book)["chiasm"].values()} == {int}
    assert _usage(book)["prompt_tokens"] == _usage(book)["completion_tokens"] == 0


def _usage(book: Playbook) -> dict[str, Any]:
    complete = book.actions[-1]
    assert isinstance(complete, Complete)
    assert complete.usage is not None
    return dict(complete.usage)


# What we do not understand


def test_unknown_fields_pass_before_a_call_and_are_dropped_after_it() -> None:
    book = playbook() >> Opaque({"refusal": "No."}) << passes >> Text("A") << passes >> Opaque({"x": 1}) << passes
    assert looking(book) >> Opaque({"reasoning_details": []}) << nothing
    assert playbook() >> ToolStart(0, "c1", "bash") << passes >> Opaque({"x": 1}) << nothing


def test_another_choice_passes_whatever_the_first_one_said() -> None:
    other = Opaque(choice={"index": 1, "delta": {"content": "B"}})
    assert playbook() >> other << passes >> ToolStart(0, "c1", "bash") << passes >> other << passes


# What has been heard


@pytest.mark.parametrize(
    "part",
    [Head(), Reasoning(" "), Text(" "), ToolStart(0, "c", "x"), Finish("stop"), Usage({}), Opaque({"x": 1})],
    ids=lambda part: type(part).__name__,
)
def test_a_turn_is_heard_from_its_first_part_on(part: Part) -> None:
    exchange = playbook().exchange
    assert not exchange.heard
    exchange.handle(part)
    assert exchange.heard


def test_a_follow_up_has_not_been_heard_yet() -> None:
    book = playbook() >> Head("a") << passes
    assert second_turn(book)
    assert not book.exchange.heard
    assert book >> Head("b")
    assert book.exchange.heard


# Events in a wrong state


def test_events_that_cannot_happen_now_are_a_fault_in_the_caller() -> None:
    fresh = Exchange(dialect=OpenAIChat(PROFILES["vllm"]), request=REQUEST, own=owning(), mint_id=str, max_turns=1)
    with pytest.raises(AssertionError):
        fresh.handle(Text("before the start"))
    fresh.start()
    with pytest.raises(AssertionError):
        fresh.start()
    with pytest.raises(AssertionError):
        fresh.handle(seen("look_1"))

    book = looking(playbook())
    assert book >> ENDED << a(CallTools)
    late: list[Event] = [Text("late"), ENDED, UpstreamFailed(UpstreamBroken("late"))]
    for event in late:
        with pytest.raises(AssertionError):
            book.exchange.handle(event)

    book = playbook()
    assert book >> Finish("stop") >> ENDED << a(Complete)
    late = [Text("late"), ENDED, seen("look_1")]
    for event in late:
        with pytest.raises(AssertionError):
            book.exchange.handle(event)


def test_an_exchange_shows_where_it_stands() -> None:
    book = playbook(max_turns=3)
    assert looking(second_turn(book)) >> ENDED << a(CallTools)
    assert repr(book.exchange) == "<Exchange turn 2/3 CALLING_TOOLS, 1 owned call, 0 client calls>"
    assert book.exchange.turns == 2
    assert book.exchange.vision == VisionUsage(1, 100, 10)


# All conversations


@dataclass(slots=True)
class Saying:
    """One turn, invented."""

    parts: list[Part]
    clean: bool
    client: list[tuple[str, str]] = field(default_factory=list)
    """Name and arguments of the client's calls, in the order in which they begin."""


WORDS = st.sampled_from(["a", " ", "\n", "\n\n", "cat", " b", "c ", "\u2028", "🐱", "."])
ARGUMENTS = st.sampled_from(["", "{}", '{"a":"}"}', '{"a": {"b": [1, "x"]}}', '{"path":"/tmp","n":12}', ' {"z":0} '])
NAMES = st.sampled_from(["analyzeImage", "analyzeImage", "bash", "grep", "now"])


@st.composite
def sayings(draw: st.DrawFn) -> Saying:
    """Thoughts, words and calls: each call's fragments in their order, everything else shuffled."""
    parts: list[Part] = [Head("id")] if draw(st.booleans()) else []
    threads: list[list[Part]] = [
        [Text(word) for word in draw(st.lists(WORDS, max_size=6))],
        [Reasoning(word) for word in draw(st.lists(WORDS, max_size=4))],
    ]
    saying = Saying(parts, clean=draw(st.booleans()))
    said: dict[int, tuple[str, str]] = {}
    for slot in range(draw(st.integers(0, 4))):
        name, arguments = draw(NAMES), draw(ARGUMENTS)
        cuts = sorted(draw(st.lists(st.integers(0, len(arguments)), max_size=4)))
        pieces = [arguments[i:j] for i, j in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
        threads.append([ToolStart(slot, f"id_{slot}", name), *(ToolArgs(slot, piece) for piece in pieces if piece)])
        said[slot] = (name, arguments)
    order = [number for number, thread in enumerate(threads) for _ in thread]
    if draw(st.booleans()):
        random.Random(draw(st.integers(0, 2**32))).shuffle(order)
    for number in order:
        part = threads[number].pop(0)
        parts.append(part)
        if isinstance(part, ToolStart) and part.name != "analyzeImage":
            saying.client.append(said[part.slot])
        if draw(st.integers(0, 9)) == 0:
            parts.append(Finish("stop"))
    endings: list[Part] = [Finish("stop"), Finish("tool_calls"), Finish("length"), usage(9, 3)]
    parts += draw(st.lists(st.sampled_from(endings), max_size=2))
    if draw(st.integers(0, 9)) == 0:
        parts.insert(draw(st.integers(0, len(parts))), ErrorFrame("boom", 500))
    return saying


def converse(turns: Sequence[Saying], max_turns: int) -> tuple[list[Action], list[Saying]]:
    """Plays turns until the exchange is done; the last one is said again and again.  Answers what was played, too."""
    exchange = playbook(max_turns=max_turns).exchange
    actions: list[Action] = []
    played: list[Saying] = []

    def tell(event: Event) -> bool:
        came = exchange.handle(event)
        waits = [isinstance(action, OpenUpstream | CallTools | Complete | Fail) for action in came]
        assert not any(waits[:-1]), "an action that waits or ends is the last of its answer"
        actions.extend(came)
        return not any(waits)

    while exchange.state is not State.DONE:
        saying = turns[min(len(played), len(turns) - 1)]
        played.append(saying)
        for event in (*saying.parts, UpstreamEnded(saying.clean)):
            if not tell(event):
                break
        if isinstance(actions[-1], CallTools):
            tell(seen(*(call.id for call in actions[-1].calls)))
    return actions, played


@settings(max_examples=400, deadline=None)
@given(st.lists(sayings(), min_size=1, max_size=4), st.integers(1, 4))
def test_every_answer_is_canonical(turns: Sequence[Saying], max_turns: int) -> None:
    actions, played = converse(turns, max_turns)
    parts = [action.part for action in actions if isinstance(action, SendPart)]

    ends = [action for action in actions if isinstance(action, Complete | Fail)]
    assert ends == actions[-1:], "one end, and it is last"
    assert sum(isinstance(action, OpenUpstream) for action in actions) == len(played) - 1 < max_turns
    assert sum(isinstance(part, Head) for part in parts) <= 1
    assert not any(isinstance(part, Finish | Usage | ErrorFrame) for part in parts)

    starts = [part for part in parts if isinstance(part, ToolStart)]
    assert [start.slot for start in starts] == list(range(len(starts))), "counted from 0 without gaps"
    assert all(start.name != "analyzeImage" for start in starts)
    tools = [part for part in parts if isinstance(part, ToolStart | ToolArgs)]
    assert [part.slot for part in tools] == sorted(part.slot for part in tools), "one after the other"
    if tools:
        after = parts[parts.index(tools[0]) :]
        assert not any(isinstance(part, Text | Reasoning) for part in after), "no words after the first call"

    last = played[-1]
    sent = [
        (start.name, "".join(part.text for part in tools if isinstance(part, ToolArgs) and part.slot == start.slot))
        for start in starts
    ]
    if any(isinstance(part, ErrorFrame) for part in last.parts):  # the rest of the turn was never heard
        assert all(
            name == told and arguments.startswith(some.rstrip())
            for (name, arguments), (told, some) in zip(last.client, sent, strict=False)
        )
    elif isinstance(actions[-1], Complete):
        assert [(name, some.strip()) for name, some in sent] == [(name, some.strip()) for name, some in last.client]
        if actions[-1].reason != "length" and last.client:
            assert actions[-1].reason == "tool_calls"


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, max_size=12), st.lists(WORDS, max_size=12), st.randoms(use_true_random=False))
def test_the_text_of_a_turn_without_calls_is_the_brains_to_the_letter(
    words: Sequence[str], thoughts: Sequence[str], shuffled: random.Random
) -> None:
    parts: list[Part] = [*map(Text, words), *map(Reasoning, thoughts)]
    order = sorted(range(len(parts)), key=lambda _: shuffled.random())
    first, second = sorted(order[: len(words)]), sorted(order[len(words) :])
    exchange = playbook().exchange
    places: dict[int, Part] = dict(zip([*first, *second], parts, strict=True))
    actions = [action for place in range(len(parts)) for action in exchange.handle(places[place])]
    actions += exchange.handle(ENDED)
    sent = [action.part for action in actions if isinstance(action, SendPart)]
    assert "".join(part.text for part in sent if isinstance(part, Text)) == "".join(words)
    assert "".join(part.text for part in sent if isinstance(part, Reasoning)) == "".join(thoughts)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(WORDS, max_size=5), min_size=1, max_size=4))
def test_no_word_of_several_turns_is_lost_or_doubled(turns: Sequence[Sequence[str]]) -> None:
    exchange = playbook(max_turns=9).exchange
    actions: list[Action] = []
    for number, words in enumerate(turns):
        events: list[Event] = [Text(word) for word in words]
        if number < len(turns) - 1:
            events += [ToolStart(0, "look_1", "analyzeImage"), ToolArgs(0, LOOK), ENDED, seen("look_1")]
        else:
            events.append(ENDED)
        for event in events:
            actions += exchange.handle(event)
    sent = "".join(
        action.part.text for action in actions if isinstance(action, SendPart) and isinstance(action.part, Text)
    )
    assert sent.split() == " ".join("".join(words) for words in turns).split()
    assert "\n\n\n\n\n" not in sent or any("\n\n\n\n\n" in "".join(words) for words in turns)


@settings(max_examples=100, deadline=None)
@given(st.lists(sayings(), min_size=1, max_size=3))
def test_requests_are_json_and_each_begins_with_the_one_before(turns: Sequence[Saying]) -> None:
    actions, _ = converse(turns, 4)
    asked = [REQUEST, *(action.request for action in actions if isinstance(action, OpenUpstream))]
    for before, after in pairwise(asked):
        assert after["messages"][: len(before["messages"])] == before["messages"]
        said = after["messages"][len(before["messages"])]
        ids = [call["id"] for call in said["tool_calls"]]
        assert [message["tool_call_id"] for message in after["messages"][-len(ids) :]] == ids
        for call in said["tool_calls"]:
            assert isinstance(orjson.loads(call["function"]["arguments"]), dict)


# The language itself


def fails(play: Callable[[], object]) -> str:
    with pytest.raises(AssertionError) as failure:
        play()
    return str(failure.value)


def test_a_playbook_says_what_was_expected_and_what_came_and_how_it_came_to_it() -> None:
    told = fails(lambda: bool(playbook() >> Head("a") << passes >> Text("hi") << SendPart(Text("ho"))))
    assert told.splitlines() == [
        "",
        "<< OpenUpstream(of 1 messages)",
        ">> Head('a')",
        "<< SendPart(Head('a'))",
        ">> Text('hi')",
        "",
        "expected  << SendPart(part=Text(text='ho', logprobs=None))",
        "came      << SendPart(part=Text(text='hi', logprobs=None))",
        "",
        "<Exchange turn 1/8 STREAMING, 0 owned calls, 0 client calls>",
    ]


def test_a_playbook_refuses_actions_that_are_not_written_and_misses_those_that_do_not_come() -> None:
    assert "expected  << nothing" in fails(lambda: bool(playbook() >> Text("hi")))
    assert "expected  << nothing" in fails(lambda: bool(playbook() >> Text("hi") << nothing))
    assert "came      << nothing" in fails(lambda: bool(playbook() >> Text(" ") << passes))
    assert "expected  << a(Complete, reason='length')" in fails(
        lambda: bool(playbook() >> ENDED << a(Complete, reason="length"))
    )
    assert "refused this event" in fails(lambda: bool(playbook() >> seen("look_1")))
    assert "has no raison" in fails(lambda: a(Complete, raison="stop"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_playbook_that_nobody_asserts_does_not_pass_for_a_good_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    complaints: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda told: complaints.append(str(told.exc_value)))
    playbook() >> Text("hi") << SendPart(Text("ho"))
    gc.collect()
    assert complaints == ["a playbook was written and never asserted; it ends Text('hi')"]


# Thoughts after words


def test_thoughts_after_words_go_out_unless_the_client_mixes_them_up() -> None:
    for late, shown in ((True, True), (False, False)):
        book = playbook(late_thoughts=late) >> Reasoning("First.") << passes >> Text("Hello.") << passes
        book = book >> Reasoning(" Then.")
        book = book << passes if shown else book << nothing
        assert book >> Text(" Bye.") << passes >> Finish("stop") >> ENDED << a(Complete)


def test_thoughts_that_the_client_does_not_get_still_go_back_to_the_brain() -> None:
    book = looking(playbook(late_thoughts=False) >> Text("Look.") << passes >> Reasoning("Hm.") << nothing)
    assert book >> ENDED << a(CallTools) >> seen("look_1") << a(OpenUpstream)
    assert book.requests[-1]["messages"][-2]["reasoning_content"] == "Hm."


def test_a_mixed_turn_keeps_the_hidden_turns_before_it() -> None:
    book = looking(playbook() >> Text("Let me look.") << passes) >> ENDED << a(CallTools) >> seen("look_1")
    book = book << a(OpenUpstream) >> ToolStart(0, "c1", "bash") << passes >> ToolArgs(0, "{}") << passes
    book = looking(book, slot=1, id_="look_2") >> ENDED << mixed() << a(Complete, reason="tool_calls")
    assert book
    deferred = next(action for action in book.actions if isinstance(action, Keep))
    assert [one["role"] for one in deferred.said] == ["assistant", "tool", "assistant"]
    assert deferred.said[0]["content"] == "Let me look."
    assert [*book.requests[0]["messages"], *deferred.said[:2]] == book.requests[1]["messages"]


def test_the_old_form_of_a_call_never_names_our_tool_to_the_client() -> None:
    twin = Opaque(delta={"function_call": {"name": "analyzeImage", "arguments": "{}"}})
    assert playbook() >> twin << nothing
    assert playbook(own=owning()) >> twin << passes


# What can be read of it


def test_an_exchange_can_be_asked_how_far_it_is() -> None:
    book = playbook()
    assert (book.exchange.turns, book.exchange.heard, book.exchange.finished) == (1, False, False)
    assert looking(book)
    assert (book.exchange.turns, book.exchange.heard, book.exchange.finished) == (1, True, False)
    assert book >> Finish("tool_calls") << nothing
    assert book.exchange.finished is True
    assert book >> ENDED << calls("look_1")
    assert book.exchange.state.name == "CALLING_TOOLS"
    assert book >> seen("look_1") << a(OpenUpstream)
    assert (book.exchange.turns, book.exchange.heard, book.exchange.finished) == (2, False, False)
    assert book.exchange.vision == VisionUsage(1, 100, 10)
    assert book.exchange.state.name == "STREAMING"


@pytest.mark.parametrize("event", [Head("a"), Finish("stop"), usage(1, 1), Opaque({"x": 1}), Text("a"), Reasoning("a")])
def test_whatever_the_server_says_first_it_has_been_heard(event: Event) -> None:
    book = playbook()
    book.exchange.handle(event)
    assert book.exchange.heard is True


@pytest.mark.parametrize("kind", [Text, Reasoning, lambda text: ToolArgs(0, text)], ids=["words", "thoughts", "a call"])
def test_a_turn_without_end_is_ended(monkeypatch: pytest.MonkeyPatch, kind: Callable[[str], Part]) -> None:
    monkeypatch.setattr("router.protocol.exchange.MOST_CHARACTERS", 100)
    book = playbook()
    assert book >> ToolStart(0, "read_1", "read") << a(SendPart)
    book.exchange.handle(kind("x" * 60))
    (failed,) = book.exchange.handle(kind("x" * 41))
    assert isinstance(failed, Fail)
    assert isinstance(failed.error, UpstreamBroken)
    assert book.exchange.state is State.DONE


def test_each_turn_may_be_as_long_as_one_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.protocol.exchange.MOST_CHARACTERS", 100)
    book = playbook() >> Text("x" * 60) << passes
    assert second_turn(book) >> Text("y" * 60) << a(SendPart)
