"""A follow-up that the server refuses is asked once more with less, or ends the answer as any refusal does."""

from __future__ import annotations

from typing import Any

import pytest

from router.errors import UpstreamBroken, UpstreamError, UpstreamRefused
from router.protocol.chat.dialect import OpenAIChat
from router.protocol.events import (
    CallTools,
    Complete,
    Fail,
    Keep,
    OpenUpstream,
    SendPart,
    ToolsCompleted,
    UpstreamEnded,
    UpstreamFailed,
)
from router.protocol.exchange import LAST_TURN_NOTE
from router.protocol.follow_up import SHORT
from router.protocol.parts import ErrorFrame, Finish, Reasoning, Text, ToolArgs, ToolStart, Usage
from router.protocol.profiles import PROFILES
from router.protocol.refusals import complaint, refused_fields, refused_in_messages, too_long
from tests.playbook import REQUEST, Playbook, a, mixed, nothing, passes, playbook
from tools.call import ToolResult, VisionUsage

ENDED = UpstreamEnded(clean=True)
LOOK = '{"image":"1"}'
LONG = "".join(f"{number} " for number in range(2000))
SHORTENED = LONG[:SHORT] + f"\n[… cut here: only the first {SHORT} of {len(LONG)} characters fit into the conversation]"
TOO_LONG = UpstreamRefused("This model's maximum context length is 8192 tokens. However, your prompt contains 9000.")
NO_THOUGHTS = UpstreamRefused(
    "'messages.1' : for 'role:assistant' the following must be satisfied"
    "[('messages.1' : property 'reasoning_content' is unsupported)]"
)


def refused_follow_up(book: Playbook, error: UpstreamError, *results: str) -> Playbook:
    """As many looks as there are results, then the server's word on the follow-up."""
    for slot in range(len(results)):
        book = book >> ToolStart(slot, f"look_{slot}", "analyzeImage") >> ToolArgs(slot, LOOK)
    seen = tuple(ToolResult(f"look_{slot}", text, VisionUsage(1, 100, 10)) for slot, text in enumerate(results))
    assert book >> Finish("tool_calls") >> ENDED << a(CallTools) >> ToolsCompleted(seen) << a(OpenUpstream)
    return book >> UpstreamFailed(error)


def results_in(request: Any) -> list[str]:
    return [message["content"] for message in request["messages"] if message["role"] == "tool"]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_follow_up_that_is_too_long_is_asked_once_more_with_its_looks_cut_short(status: int) -> None:
    error = UpstreamRefused(TOO_LONG.message, status=status)
    book = refused_follow_up(playbook(), error, LONG, "short") << a(OpenUpstream)
    assert book >> Text("A cat.") << passes >> Finish("stop") >> ENDED << a(Complete, reason="stop")
    first, full, again = book.requests
    assert results_in(full) == [LONG, "short"]
    assert results_in(again) == [SHORTENED, "short"]
    assert {**again, "messages": again["messages"][:2]} == {**full, "messages": full["messages"][:2]}
    assert first == REQUEST


def test_an_overflow_that_is_told_as_the_first_word_of_a_stream_is_one_too() -> None:
    book = refused_follow_up(playbook(), UpstreamBroken("x"), LONG) << Fail(UpstreamBroken("x"))
    assert book
    look = playbook() >> ToolStart(0, "l", "analyzeImage") >> ToolArgs(0, LOOK) >> Finish("tool_calls") >> ENDED
    assert look << a(CallTools) >> ToolsCompleted((ToolResult("l", LONG),)) << a(OpenUpstream)
    assert look >> ErrorFrame("request (9000 tokens) exceeds the available context size", 400) << a(OpenUpstream)
    assert results_in(look.requests[-1]) == [SHORTENED]


def test_a_follow_up_that_is_still_too_long_is_refused_as_ever() -> None:
    assert (
        refused_follow_up(playbook(), TOO_LONG, LONG) << a(OpenUpstream) >> UpstreamFailed(TOO_LONG) << Fail(TOO_LONG)
    )


def test_where_nothing_can_be_cut_short_nothing_is_asked_again() -> None:
    assert refused_follow_up(playbook(), TOO_LONG, "short", "x" * SHORT) << Fail(TOO_LONG)


@pytest.mark.parametrize(
    "error",
    [
        UpstreamRefused("no such model"),
        UpstreamRefused("maximum context length", status=429),
        UpstreamBroken("maximum context length"),
    ],
)
def test_other_refusals_of_a_follow_up_stand(error: UpstreamError) -> None:
    assert refused_follow_up(playbook(), error, LONG) << Fail(error)


def test_a_first_turn_that_is_too_long_is_the_clients_affair() -> None:
    assert playbook() >> UpstreamFailed(TOO_LONG) << Fail(TOO_LONG)


def test_a_follow_up_that_has_said_something_is_not_asked_again() -> None:
    look = playbook() >> ToolStart(0, "l", "analyzeImage") >> ToolArgs(0, LOOK) >> Finish("tool_calls") >> ENDED
    assert look << a(CallTools) >> ToolsCompleted((ToolResult("l", LONG),)) << a(OpenUpstream)
    assert look >> Text("A") << passes >> UpstreamFailed(TOO_LONG) << Fail(TOO_LONG)


def test_the_refused_follow_up_counts_as_no_turn() -> None:
    book = refused_follow_up(playbook(max_turns=2) >> Usage({"prompt_tokens": 7}), TOO_LONG, LONG) << a(OpenUpstream)
    assert book
    assert results_in(book.requests[1]) == [LONG + LAST_TURN_NOTE]
    assert results_in(book.requests[2]) == [SHORTENED + LAST_TURN_NOTE]
    assert book.exchange.turns == 2
    assert book >> Text("A cat.") << passes >> Usage({"prompt_tokens": 9, "completion_tokens": 1}) >> Finish("stop")
    assert book >> ENDED << a(Complete, reason="stop")
    usage = book.actions[-1].usage if isinstance(book.actions[-1], Complete) else None
    assert usage is not None
    assert usage["chiasm"] == {
        "turns": 2,
        "vision_calls": 1,
        "vision_prompt_tokens": 100,
        "vision_completion_tokens": 10,
        "billed_prompt_tokens": 16,
    }


def test_later_turns_build_on_the_request_that_was_taken() -> None:
    book = refused_follow_up(playbook(), TOO_LONG, LONG) << a(OpenUpstream)
    assert (
        book >> ToolStart(0, "l", "analyzeImage") >> ToolArgs(0, LOOK) >> Finish("tool_calls") >> ENDED << a(CallTools)
    )
    assert book >> ToolsCompleted((ToolResult("l", "a cat"),)) << a(OpenUpstream)
    assert results_in(book.requests[-1]) == [SHORTENED, "a cat"]
    taken = book.requests[-2]["messages"]
    assert book.requests[-1]["messages"][: len(taken)] == taken


def test_each_follow_up_may_be_asked_once_more() -> None:
    book = refused_follow_up(playbook(), TOO_LONG, LONG) << a(OpenUpstream)
    assert book
    assert refused_follow_up(book, TOO_LONG, LONG) << a(OpenUpstream)
    assert results_in(book.requests[-1]) == [SHORTENED, SHORTENED]


def test_a_mixed_turn_keeps_the_looks_as_the_server_took_them() -> None:
    book = refused_follow_up(playbook(), TOO_LONG, LONG) << a(OpenUpstream)
    assert book >> ToolStart(0, "c", "bash") << passes >> ToolArgs(0, "{}") << passes
    assert book >> ToolStart(1, "l", "analyzeImage") >> ToolArgs(1, LOOK) << nothing
    assert book >> Finish("tool_calls") >> ENDED << mixed() << a(Complete)
    deferred = next(action for action in book.actions if isinstance(action, Keep))
    assert deferred.said[1]["content"] == SHORTENED


def test_thoughts_that_the_server_does_not_take_back_are_left_out() -> None:
    book = playbook(dialect=OpenAIChat(PROFILES["vllm"])) >> Reasoning("Hm.") << passes
    book = refused_follow_up(book, NO_THOUGHTS, LONG) << a(OpenUpstream)
    assert book
    full, again = (request["messages"][1] for request in book.requests[1:])
    assert (full["reasoning"], full["reasoning_content"]) == ("Hm.", "Hm.")
    assert again.keys() == full.keys() - {"reasoning_content"}
    assert results_in(book.requests[-1]) == [LONG]
    assert book >> UpstreamFailed(NO_THOUGHTS) << Fail(NO_THOUGHTS)


def test_an_empty_thought_that_the_server_does_not_take_is_left_out() -> None:
    book = refused_follow_up(playbook(dialect=OpenAIChat(PROFILES["deepseek"])), NO_THOUGHTS, "x") << a(OpenUpstream)
    assert book
    full, again = (request["messages"][1] for request in book.requests[1:])
    assert again.keys() == full.keys() - {"reasoning_content"}


def test_a_server_that_asks_for_thoughts_is_not_taken_for_one_that_refuses_them() -> None:
    asking = UpstreamRefused("The `reasoning_content` in the thinking mode must be passed back to the API.")
    assert refused_follow_up(playbook(), asking, LONG) << Fail(asking)


# A turn that said nothing visible

STREAMED = {**REQUEST, "stream": True}
PLAN = "The user wants to know what is shown. I should look at the image before I answer, so I call analyzeImage now."
ANSWER = (
    "Two numbers are given.\n\nTheir sum is forty-two, because seventeen and twenty-five make forty-two; "
    "nothing else was asked for."
)


@pytest.mark.parametrize("thoughts", ["", PLAN, "Hm.", ANSWER + "\n\nNow: ", "我需要查看这张图片。" * 20])
def test_a_turn_of_thoughts_that_announce_something_is_asked_again(thoughts: str) -> None:
    book = playbook(request=STREAMED) >> Reasoning(thoughts)
    book = book << passes if thoughts else book << nothing
    assert book >> Finish("stop") >> ENDED << a(OpenUpstream)


def test_a_turn_whose_thoughts_are_the_answer_is_not_asked_again() -> None:
    assert (
        playbook(request=STREAMED)
        >> Reasoning(ANSWER)
        << passes
        >> Finish("stop")
        >> ENDED
        << a(Complete, reason="stop")
    )


def test_a_whole_answer_of_thoughts_is_not_asked_again() -> None:
    assert playbook() >> Reasoning(PLAN) << passes >> Finish("stop") >> ENDED << a(Complete, reason="stop")


def test_a_turn_that_was_asked_twice_was_billed_twice_and_the_usage_says_so() -> None:
    book = playbook(request=STREAMED) >> Reasoning(PLAN) << passes
    book = book >> Usage({"prompt_tokens": 500, "completion_tokens": 30}) >> Finish("stop") >> ENDED << a(OpenUpstream)
    book = book >> Text("A cat.") << passes >> Usage({"prompt_tokens": 501, "completion_tokens": 4}) >> Finish("stop")
    assert book >> ENDED << a(Complete, reason="stop")
    usage = book.actions[-1].usage if isinstance(book.actions[-1], Complete) else None
    assert usage is not None
    assert usage["chiasm"]["billed_prompt_tokens"] == 1001
    assert usage["chiasm"]["turns"] == 2
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (501, 34, 535)


# What refusals say


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 8192 tokens. However, your prompt contains 240057 characters",
        "context_length_exceeded Please shorten your messages.",
        "exceed_context_size_error request (40010 tokens) exceeds the available context size (4096 tokens)",
        "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        "prompt is too long: 215000 tokens > 200000 maximum",
        "Range of input length should be [1, 129024]",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Requested tokens (9000) exceed context window of 4096",
        "Invalid request: Your request exceeded model token limit: 8192",
        "Prompt exceeds max length",
    ],
)
def test_overflow_is_read_from_the_words(words: str) -> None:
    assert too_long(words)
    assert not refused_fields(f"{words} unsupported top_k", {"top_k"})


@pytest.mark.parametrize("words", ["Rate limit reached for tokens per minute", "max_tokens must be at least 1", ""])
def test_other_limits_are_no_overflow(words: str) -> None:
    assert not too_long(words)


OURS = {"top_k", "min_p", "chat_template_kwargs", "stream_options", "reasoning", "thinking", "temperature"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("Extra inputs are not permitted body top_k", {"top_k"}),
        ("body -> min_p\n  Extra inputs are not permitted (type=extra_forbidden)", {"min_p"}),
        ("Unrecognized request argument supplied: top_k", {"top_k"}),
        ("Unrecognized request arguments supplied: chat_template_kwargs, top_k", {"chat_template_kwargs", "top_k"}),
        ("Unsupported parameter: 'top_k' is not supported with this model.", {"top_k"}),
        ("Unsupported value: 'temperature' does not support 0.7 with this model.", {"temperature"}),
        ("Unknown parameter: 'min_p'. min_p", {"min_p"}),
        ("Unexpected fields in the request: {'chat_template_kwargs'}", {"chat_template_kwargs"}),
        ("property 'top_k' is unsupported", {"top_k"}),
        ('Invalid JSON payload received. Unknown name "top_k": Cannot find field.', {"top_k"}),
        ("Additional properties are not allowed ('stream_options' was unexpected)", {"stream_options"}),
        ("reasoning: Extra inputs are not permitted", {"reasoning"}),
        ("Unknown parameter: 'reasoning.enabled'", {"reasoning"}),
        # not ours, or not refused
        ("Unrecognized request argument supplied: top_kk", set()),
        ("Unrecognized request argument supplied: frobnicate", set()),
        ("thinking is enabled but reasoning_content is missing in assistant tool call message at index 2", set()),
        ("messages[1].reasoning: Extra inputs are not permitted", set()),
        ("the model failed at temperature 0.7", set()),
        ("", set()),
    ],
)
def test_fields_that_a_refusal_names(words: str, named: set[str]) -> None:
    assert refused_fields(words, OURS) == named


@pytest.mark.parametrize(
    ("words", "at_top", "named"),
    [
        ("Extra inputs are not permitted body messages 1 assistant reasoning_content", set(), {"reasoning_content"}),
        (NO_THOUGHTS.message, {"reasoning_content"}, {"reasoning_content"}),
        ("property 'reasoning' is unsupported", set(), {"reasoning"}),
        ("property 'reasoning' is unsupported", {"reasoning"}, set()),
        ("The `reasoning_content` in the thinking mode must be passed back to the API.", set(), set()),
    ],
)
def test_fields_of_messages_that_a_refusal_names(words: str, at_top: set[str], named: set[str]) -> None:
    assert refused_in_messages(words, {"reasoning", "reasoning_content"}, at_top) == named


def test_nothing_is_sent_twice_to_the_client_when_a_follow_up_is_asked_again() -> None:
    book = playbook() >> Text("Let me look.") << passes
    book = refused_follow_up(book, TOO_LONG, LONG) << a(OpenUpstream)
    assert book >> Text("A cat.") << SendPart(Text("\n\nA cat."))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":{"message":"No.","type":"t","param":"p","code":"c"}}', "No. p c t"),
        (b'{"detail":[{"type":"t","loc":["body","f",0],"msg":"No.","input":{"top_k":1},"url":"u"}]}', "No. body f t"),
        (b'{"object":"error","message":{"detail":[{"msg":"No.","loc":["body"]}]}}', "No. body"),
        (b'[{"error":{"code":400,"message":"No."}}]', "No."),
        (b'{"error":"No."}', "No."),
        (b'{"input":"top_k"}', ""),
        (b"No.", "No."),
        (b"\xff" + b"x" * 5000, "\ufffd" + "x" * 1999),
        (b"[" * 3000 + b"]" * 3000, "[" * 2000),
        (b'{"error":' * 1000 + b'"No."' + b"}" * 1000, ""),
    ],
)
def test_an_error_body_is_read_where_it_tells_and_not_where_it_repeats(body: bytes, said: str) -> None:
    assert complaint(body) == said
