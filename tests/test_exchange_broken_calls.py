"""Calls that came as text, lost calls, and names that a parser mangled."""

from __future__ import annotations

from typing import Any

import pytest

from router.protocol.events import CallTools, Complete, Event, OpenUpstream, SendPart, ToolsCompleted, UpstreamEnded
from router.protocol.own_tools import OwnTools
from router.protocol.parts import Finish, Reasoning, Text, ToolArgs, ToolStart, Usage
from tests.playbook import REQUEST, a, nothing, owning, passes, playbook
from tools.call import ToolCall, ToolResult

WRITTEN = "<tool_call>\n<function=analyzeImage>\n<parameter=image>\n1\n</parameter>\n</function>\n</tool_call>"
RESCUED = (ToolCall("minted_0", "analyzeImage", '{"image":"1"}'),)
ENDED = UpstreamEnded(clean=True)
STREAMED = {**REQUEST, "stream": True, "stream_options": {"include_usage": True}}


def test_a_call_written_into_the_words_is_run_and_never_shown() -> None:
    assert (
        playbook()
        >> Text("Let me look.\n")
        << passes
        >> Text(WRITTEN[:20])
        << nothing
        >> Text(WRITTEN[20:])
        << nothing
        >> Finish("stop")
        >> ENDED
        << CallTools(RESCUED)
    )


def test_the_follow_up_holds_the_call_as_a_call() -> None:
    play = playbook() >> Text("Look: " + WRITTEN) << SendPart(Text("Look: ")) >> Finish("stop") >> ENDED
    play = play << CallTools(RESCUED) >> ToolsCompleted((ToolResult("minted_0", "a cat"),)) << a(OpenUpstream)
    assert play
    said, answered = play.requests[-1]["messages"][-2:]
    assert said["content"] == "Look: "
    assert [call["function"]["name"] for call in said["tool_calls"]] == ["analyzeImage"]
    assert answered == {"role": "tool", "tool_call_id": "minted_0", "content": "a cat"}


def test_a_call_written_into_the_thoughts_counts_where_nothing_else_was_said() -> None:
    assert (
        playbook()
        >> Reasoning("I must look. ")
        << passes
        >> Reasoning(WRITTEN)
        << nothing
        >> Text("\n\n")
        << nothing
        >> Finish("stop")
        >> ENDED
        << CallTools(RESCUED)
    )


def test_a_call_that_was_only_thought_of_is_not_run_and_not_shown() -> None:
    assert (
        playbook()
        >> Reasoning("I could say " + WRITTEN)
        << SendPart(Reasoning("I could say "))
        >> Text("It is a cat.")
        << passes
        >> Finish("stop")
        >> ENDED
        << a(Complete, reason="stop")
    )


def test_text_about_calls_is_shown_to_the_letter_where_none_of_ours_is_written() -> None:
    text = 'Write <tool_call>{"name": "other"}</tool_call> or ```json\n{"name": "x"}\n``` or <function=f>'
    exchange = playbook().exchange
    events: list[Event] = [*map(Text, text), Finish("stop"), ENDED]
    actions = [action for event in events for action in exchange.handle(event)]
    shown = [action.part.text for action in actions if isinstance(action, SendPart) and isinstance(action.part, Text)]
    assert "".join(shown) == text


def test_held_text_goes_out_at_the_end_when_it_was_no_call() -> None:
    assert (
        playbook()
        >> Text("a <tool_")
        << SendPart(Text("a "))
        >> Finish("stop")
        >> ENDED
        << SendPart(Text("<tool_"))
        << a(Complete, reason="stop")
    )


def test_nothing_is_held_when_our_tools_are_not_on_offer() -> None:
    assert playbook(own=owning()) >> Text("<tool_call>") << passes >> Text("<function=analyzeImage>") << passes


def test_an_opening_tag_before_a_real_call_is_dropped() -> None:
    assert (
        playbook()
        >> Text("<tool_call>")
        << nothing
        >> Text("\n")
        << nothing
        >> ToolStart(0, "c1", "analyzeImage")
        << nothing
        >> ToolArgs(0, '{"image":"1"}')
        << nothing
        >> Finish("tool_calls")
        >> ENDED
        << CallTools((ToolCall("c1", "analyzeImage", '{"image":"1"}'),))
    )


@pytest.mark.parametrize("white", ["", "\n\n", " "])
def test_a_turn_that_says_nothing_is_asked_again_once_and_not_streamed(white: str) -> None:
    play = playbook(request=STREAMED)
    if white:
        play = play >> Text(white) << nothing
    play = (
        play >> Usage({"prompt_tokens": 5, "completion_tokens": 1}) >> Finish("stop") >> ENDED << OpenUpstream(REQUEST)
    )
    play = play >> Text("It is a cat.") << passes >> Usage({"prompt_tokens": 5, "completion_tokens": 4})
    assert play >> Finish("stop") >> ENDED << a(Complete, reason="stop")
    usage = next(action.usage for action in play.actions if isinstance(action, Complete))
    assert usage is not None
    assert usage["completion_tokens"] == 5
    assert usage["chiasm"]["turns"] == 2


def test_what_follows_a_turn_asked_again_is_streamed() -> None:
    play = playbook(request=STREAMED) >> Finish("stop") >> ENDED << OpenUpstream(REQUEST)
    play = play >> ToolStart(0, "c", "analyzeImage") >> ToolArgs(0, '{"image":"1"}') >> Finish("tool_calls") >> ENDED
    play = play << a(CallTools) >> ToolsCompleted((ToolResult("c", "a cat"),)) << a(OpenUpstream)
    assert play
    assert play.requests[-1]["stream"] is True


def test_a_second_silence_is_an_answer() -> None:
    assert (
        playbook(request=STREAMED)
        >> Finish("stop")
        >> ENDED
        << a(OpenUpstream)
        >> Finish("stop")
        >> ENDED
        << a(Complete, reason="stop")
    )


@pytest.mark.parametrize(
    ("request_", "own", "finish"),
    [
        (REQUEST, owning("analyzeImage"), "stop"),  # was not streamed: the same parser would lose it again
        (STREAMED, owning(), "stop"),  # no tool of ours on offer
        (STREAMED, owning("analyzeImage"), "length"),  # there was no room to say anything
        (STREAMED, owning("analyzeImage"), "content_filter"),
    ],
)
def test_other_silences_are_left_alone(request_: Any, own: OwnTools, finish: str) -> None:
    assert playbook(request=request_, own=own) >> Finish(finish) >> ENDED << a(Complete, reason=finish)


@pytest.mark.parametrize(
    "name", ["analyze_image", "AnalyzeImage", 'analyzeImage image="1"', "analyzeImage>", "analyze-image"]
)
def test_a_mangled_name_of_ours_is_understood(name: str) -> None:
    play = playbook() >> ToolStart(0, "c", name) << nothing >> ToolArgs(0, "{}") << nothing >> Finish("tool_calls")
    assert play >> ENDED << CallTools((ToolCall("c", "analyzeImage", "{}"),))


@pytest.mark.parametrize("name", ["analyze", "imageAnalyze", "read_file", "image", "mcp__eyes__analyzeImage"])
def test_a_name_further_away_is_the_clients_affair(name: str) -> None:
    assert playbook() >> ToolStart(0, "c", name) << passes


def test_a_tool_of_the_client_is_never_claimed() -> None:
    own = OwnTools(["analyzeImage"], {"analyze_image"})
    assert playbook(own=own) >> ToolStart(0, "c", "analyze_image") << passes


def test_the_beginning_of_a_call_at_the_end_of_a_thought_is_given_back() -> None:
    assert (
        playbook()
        >> Reasoning("Is a <tool")
        << SendPart(Reasoning("Is a "))
        >> Text("Or `b` <tool_")
        << SendPart(Text("Or `b` "))
        >> Finish("stop")
        >> ENDED
        << SendPart(Reasoning("<tool"))
        << SendPart(Text("<tool_"))
        << Complete("stop", None)
    )


def test_what_was_held_goes_out_before_a_call_of_the_client() -> None:
    assert (
        playbook()
        >> Reasoning("Hm <tool")
        << SendPart(Reasoning("Hm "))
        >> Text("Is <")
        << SendPart(Text("Is "))
        >> ToolStart(0, "c1", "bash")
        << SendPart(Reasoning("<tool"))
        << SendPart(Text("<"))
        << passes
    )


@pytest.mark.parametrize(("own", "said", "claimed"), [("lookat", "look_at", "lookat"), ("looks", "look_s", None)])
def test_only_a_name_of_six_letters_is_recognised_when_mangled(own: str, said: str, claimed: str | None) -> None:
    assert OwnTools([own]).claim(said) == claimed
    assert OwnTools([own]).claim(own) == own


def test_a_written_call_joins_the_real_ones_of_its_turn() -> None:
    look = '{"image":"2"}'
    assert (
        playbook()
        >> ToolStart(0, "c0", "analyzeImage")
        >> ToolArgs(0, look)
        >> ToolStart(1, "c1", "analyzeImage")
        >> ToolArgs(1, look)
        >> Text(WRITTEN)
        << nothing
        >> Finish("tool_calls")
        >> ENDED
        << CallTools((ToolCall("c0", "analyzeImage", look), ToolCall("c1", "analyzeImage", look), *RESCUED))
    )


def test_a_call_written_into_a_thought_is_run_in_its_own_turn_only() -> None:
    assert (
        playbook()
        >> Reasoning(WRITTEN)
        << nothing
        >> Finish("stop")
        >> ENDED
        << CallTools(RESCUED)
        >> ToolsCompleted((ToolResult("minted_0", "a cat"),))
        << a(OpenUpstream)
        >> Reasoning("A cat.")
        << passes
        >> Finish("stop")
        >> ENDED
        << a(Complete, reason="stop")
    )
