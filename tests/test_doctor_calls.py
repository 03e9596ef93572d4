"""What became of a tool call: each mark by itself, and whatever may come."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.doctor.calls import Outcome, of_call, outcome
from router.doctor.card import Card, nearly, reads
from router.doctor.embedded import Said, _read
from router.doctor.facts import Facts
from router.doctor.heard import Heard, HeardCall
from router.doctor.judge_server import nearest
from router.doctor.words import cleaned, error_words

OFFERED = {"analyzeImage": ("image", "task"), "Read": ("file_path",)}
FACTS = Facts(place="[[text]] #1", base_url="http://127.0.0.1/v1", configured=None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"image": "1", "task": "What?"}', Outcome.WHOLE),
        ('{"image": "1", "task": "What?", "region": "0,0,9,9"}', Outcome.WHOLE),
        ('"image": "1", "task": "What?"}', Outcome.NO_BRACE),
        ('"image": "1", "task": "What?"', Outcome.NO_BRACE),
        ('{"image": "1", "task": "Wha', Outcome.CUT),
        ('{"image": "1", "task": "What {x}?"', Outcome.CUT),
        ('{"image": "1", "task": "What?"}}', Outcome.TAIL),
        ('{"image": "1", "task": "What?"}{"image": "2"}', Outcome.TAIL),
        ('{"image": "1"}', Outcome.LOST_PARAMETER),
        ('{"image": "1", "task": ""}', Outcome.LOST_PARAMETER),
        ("{}", Outcome.NO_ARGUMENTS),
        ("", Outcome.NO_ARGUMENTS),
        ('"a string"', Outcome.MANGLED),
        ("[1]", Outcome.MANGLED),
        ('{"image=1": "", "task": "x"}', Outcome.MANGLED),
        ("image 1 please", Outcome.MANGLED),
    ],
)
def test_arguments_are_judged_by_what_they_lack(arguments: str, expected: Outcome) -> None:
    assert of_call(HeardCall("analyzeImage", arguments), OFFERED) is expected


def test_a_tool_without_required_parameters_may_be_called_without_any() -> None:
    assert of_call(HeardCall("now", "{}"), {"now": ()}) is Outcome.WHOLE


@given(
    st.text(),
    st.text(),
    st.lists(st.tuples(st.sampled_from(["analyzeImage", "Read", "other", "a b"]), st.text()), max_size=3),
    st.sampled_from([(), ("stop",), ("tool_calls",), ("length",)]),
)
def test_every_answer_has_an_outcome(
    text: str, reasoning: str, calls: list[tuple[str, str]], finishes: tuple[str, ...]
) -> None:
    heard = Heard(
        status=200,
        text=text,
        reasoning=reasoning,
        calls=tuple(HeardCall(name, arguments) for name, arguments in calls),
        finishes=finishes,
    )
    found = outcome(heard, OFFERED)
    assert (found is Outcome.WHOLE) <= bool(calls)


@given(st.dictionaries(st.sampled_from(["context", "region"]), st.text(min_size=1)), st.data())
def test_a_whole_call_is_never_called_broken_and_a_cut_one_never_whole(
    more: dict[str, str], data: st.DataObject
) -> None:
    arguments = json.dumps({"image": "1", "task": 'What {is} "it"?', **more})
    assert of_call(HeardCall("analyzeImage", arguments), OFFERED) is Outcome.WHOLE
    cut = data.draw(st.integers(0, len(arguments) - 1))
    assert of_call(HeardCall("analyzeImage", arguments[:cut]), OFFERED) is not Outcome.WHOLE


@pytest.mark.parametrize(
    ("wanted", "listed", "expected"),
    [
        ("glm-5", ["zai-org/GLM-5", "other"], "zai-org/GLM-5"),
        ("Qwen3.5-9b", ["Qwen/Qwen3.5-9B-FP8"], "Qwen/Qwen3.5-9B-FP8"),
        ("lama3", ["llama3:8b", "qwen"], "llama3:8b"),
        ("brain", [], None),
        ("brain", ["zzz"], None),
    ],
)
def test_the_nearest_model(wanted: str, listed: list[str], expected: str | None) -> None:
    assert nearest(wanted, listed) == expected


@pytest.mark.parametrize(
    ("answer", "word", "read", "near"),
    [
        ("The code word is FKLM.", "FKLM", True, True),
        ("F K L M", "FKLM", True, True),
        ("fklm", "FKLM", True, True),
        ("FKLN", "FKLM", False, True),
        ("", "FKLM", False, False),
        ("I see a card", "FKLM", False, False),
    ],
)
def test_a_word_is_read_or_nearly(answer: str, word: str, read: bool, near: bool) -> None:
    assert (reads(answer, word), nearly(answer, word)) == (read, near)


def test_words_of_servers_lose_keys_before_they_are_cut() -> None:
    assert cleaned("x " * 115 + "sk-secret-key", ("sk-secret-key",)) == "x " * 115 + "[key]"
    assert cleaned("a\x1b[31mb\nc", ()) == "a [31mb c"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": [{"msg": "no"}]}', '[{"msg":"no"}]'),
        (b"<html>no</html>", ""),
        (b"no", "no"),
        (b"{}", ""),
    ],
)
def test_a_servers_own_words_are_found(body: bytes, words: str) -> None:
    assert error_words(body) == words


def test_embedded_eyes_are_judged_by_what_they_read() -> None:
    card = Card(b"", 256, 128, ("FKLM",), "white")
    assert _read(FACTS, Said(card, "10,20: FKLM", "", 0.5)).level == "ok"
    assert _read(FACTS, Said(card, "10,20: other", "", 0.5)).level == "warn"
    assert _read(FACTS, Said(card, "", "took too long", 0.5)).level == "fail"
