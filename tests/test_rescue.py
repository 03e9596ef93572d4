"""Calls written as text are caught; everything else passes, soon and to the letter."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.protocol.rescue import RescuedCall, TextGate

NAME = "analyzeImage"
ARGUMENTS = {"image": "1", "task": "read it"}

XML = """<tool_call>
<function=analyzeImage>
<parameter=image>
1
</parameter>
<parameter=task>
read it
</parameter>
</function>
</tool_call>"""
GLM = """<tool_call>analyzeImage
<arg_key>image</arg_key>
<arg_value>1</arg_value>
<arg_key>task</arg_key>
<arg_value>read it</arg_value>
</tool_call>"""
CALL = '{"name": "analyzeImage", "arguments": {"image": "1", "task": "read it"}}'
TWICE = '{"name":"analyzeImage","arguments":"{\\"image\\":\\"1\\",\\"task\\":\\"read it\\"}"}'
FORMS = {
    "qwen": XML,
    "qwen without the opening": XML.removeprefix("<tool_call>\n"),
    "qwen without either": XML.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"),
    "hermes": f"<tool_call>\n{CALL}\n</tool_call>",
    "hermes, arguments as text": f"<tool_call>{TWICE}</tool_call>",
    "glm": GLM,
    "fenced": f"```json\n{CALL}\n```",
    "fenced, no language": "```\n"
    + CALL.replace('"name": ', ' "name" : ').replace("arguments", "parameters")
    + "\n```",
}


def run(*pieces: str) -> tuple[str, list[RescuedCall]]:
    gate = TextGate([NAME])
    shown = "".join(gate.feed(piece) for piece in pieces) + gate.close()
    return shown, gate.calls


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_caught_and_nothing_of_it_is_shown(form: str) -> None:
    shown, calls = run("Let me look.\n\n" + FORMS[form])
    assert shown.strip() == "Let me look."
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [(NAME, ARGUMENTS)]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_caught_byte_by_byte(form: str) -> None:
    assert run(*("a" + FORMS[form])) == run("a" + FORMS[form])


@given(st.sampled_from(sorted(FORMS)), st.data())
def test_every_form_is_caught_wherever_it_is_cut(form: str, data: st.DataObject) -> None:
    text = f"before `code` <b>\n{FORMS[form]}\n{FORMS[form]} after"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    shown, calls = run(*pieces)
    assert len(calls) == 2
    assert shown.split() == ["before", "`code`", "<b>", "after"]


def test_a_call_cut_off_at_the_end_is_still_caught() -> None:
    shown, calls = run(
        "<tool_call>\n<function=analyzeImage>\n<parameter=image>\n1\n</parameter>\n<parameter=task>\nread it"
    )
    assert shown == ""
    assert json.loads(calls[0].arguments) == ARGUMENTS


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n<function=readFile>\n<parameter=path>\na\n</parameter>\n</function>\n</tool_call>",
        '<tool_call>{"name": "readFile", "arguments": {}}</tool_call>',
        '```json\n{"name": "analyzeImages", "arguments": {}}\n```',
        "```python\nprint('<tool_call>')\n```",
        "if a < b and `c` > d: pass  # <function",
        "<tool_call",
        "<tool_call>" + " " * 300 + "analyzeImage",
        '<tool_call>{"name": "analyzeImage", broken}</tool_call>',
        '```json\n{"name": "analyzeImage", "arguments": "unfinished',
        "``` ```` ` <<<< <tool_call><tool_call>",
    ],
)
def test_what_is_no_call_of_ours_is_given_back_to_the_letter(text: str) -> None:
    assert run(text) == (text, [])
    assert run(*text) == (text, [])


@given(st.text(alphabet='<`tool_call>funci=anlyzeImg{"m:}/ \nxj', max_size=120))
def test_no_letter_is_ever_lost(text: str) -> None:
    shown, calls = run(*text)
    assert calls or shown == text


def test_ordinary_text_passes_at_once() -> None:
    gate = TextGate([NAME])
    assert gate.feed("The answer is ") == "The answer is "
    assert gate.feed("a < b") == "a < b"
    assert gate.feed("<tool") == ""
    assert gate.feed("box>") == "<toolbox>"
    assert gate.feed("```json\n{") == ""
    assert gate.feed('"name": "foo"') == '```json\n{"name": "foo"'


def test_a_call_without_end_does_not_grow_for_ever() -> None:
    gate = TextGate([NAME])
    shown = gate.feed("<function=analyzeImage>")
    for _ in range(100):
        shown += gate.feed("x" * 1000)
    assert len(shown) > 64_000
    assert (shown + gate.close()).count("x") == 100_000


def test_a_call_without_arguments_is_a_call() -> None:
    assert run("<tool_call>\nanalyzeImage\n</tool_call>") == ("", [RescuedCall(NAME, "{}")])


@pytest.mark.parametrize("form", FORMS)
def test_the_next_letter_after_a_call_is_shown(form: str) -> None:
    shown, calls = run(FORMS[form], "x")
    assert (shown, len(calls)) == ("x", 1)
    shown, calls = run(FORMS[form] + "x")
    assert (shown, len(calls)) == ("x", 1)


@pytest.mark.parametrize(
    "text",
    [
        "</tool_call> at the beginning",
        "<function=analyzeImages>\n</function>",
        "<tool_call>analyzeImages</tool_call>",
        "<tool_call>analyzeImages<arg_key>a</arg_key><arg_value>b</arg_value></tool_call>",
        '<tool_call>{"name": "analyzeImage", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "analyzeImage", "name": 7}</tool_call>',
        '<tool_call>{"name": "analyzeImage", "name": "other", "arguments": "{}"}</tool_call>',
    ],
)
def test_what_only_resembles_a_call_is_given_back_to_the_letter(text: str) -> None:
    assert run(text) == (text, [])
    assert run(*text) == (text, [])


def test_a_second_closing_tag_belongs_to_nobody_and_is_shown() -> None:
    shown, calls = run(FORMS["hermes"] + "x", "</tool_call>y")
    assert (shown, len(calls)) == ("x</tool_call>y", 1)


@pytest.mark.parametrize(("spaces", "caught"), [(189, True), (190, False)])
def test_white_space_in_an_opening_may_be_two_hundred_letters_with_its_tag(spaces: int, caught: bool) -> None:
    text = "<tool_call>" + " " * spaces + "analyzeImage</tool_call>"
    assert bool(run(text)[1]) is caught
    assert bool(run("words " * 100 + text)[1]) is caught


def test_an_interrupted_beginning_is_shown_but_not_a_lone_tag() -> None:
    gate = TextGate([NAME])
    assert gate.feed("<tool_") == ""
    assert gate.interrupt() == "<tool_"
    assert gate.feed("\n<tool_call>\n") == "\n"
    assert gate.interrupt() == ""
    assert gate.close() == ""


def test_an_interruption_does_not_break_a_call_that_has_begun() -> None:
    gate = TextGate([NAME])
    assert gate.feed("<function=analyzeImage>") == ""
    assert gate.interrupt() == ""
    assert gate.feed("</function>") == ""
    assert gate.calls == [RescuedCall(NAME, "{}")]


def test_after_a_call_without_end_text_passes_and_calls_are_caught_again() -> None:
    gate = TextGate([NAME])
    endless = "<function=analyzeImage>" + "x" * 70_000
    assert gate.feed(endless) == endless
    assert gate.feed("<b>y") == "<b>y"
    assert gate.feed("<function=analyzeImage></function>") == ""
    assert gate.close() == ""
    assert gate.close() == ""
    assert len(gate.calls) == 1


@pytest.mark.parametrize(
    "text",
    [
        "<arg_key>" + " " * 60_000,
        "<arg_key>" + " a" * 30_000,
        "<arg_key>" * 7_000,
        "<arg_key></arg_key>" * 3_500,
        "<arg_key></arg_key>" * 3_000 + "<arg_value>",
        "<arg_key></arg_key><arg_value>" * 2_000,
        "<arg_key>a</arg_key>" + "\n" * 60_000,
        "<function=" + " " * 60_000,
        "<function=analyzeImage><parameter=" + " " * 60_000,
        "<function=analyzeImage>" + "<parameter=a" * 5_000,
        "<function=analyzeImage>" + "<parameter=a>" * 5_000,
        "<function=analyzeImage>" + "<parameter=a>" + "\n" * 60_000,
    ],
    ids=lambda text: text[:40],
)
def test_a_broken_call_takes_no_more_time_than_its_length(text: str) -> None:
    """Some of these once took minutes to hours; the deadline of the whole suite would show it."""
    shown, calls = run("<tool_call>analyzeImage" + text + "</tool_call> And on.")
    assert shown.endswith(" And on.")
    assert not calls or calls[0].name == NAME


def test_a_pair_without_its_value_costs_only_itself() -> None:
    broken = "<arg_key>lost</arg_key>\n"
    shown, (call,) = run(GLM.replace("<arg_key>task", broken + "<arg_key>task"))
    assert json.loads(call.arguments) == ARGUMENTS
    assert shown == ""
