"""Pictures, wherever clients put them, through a brain and eyes that are real models on a real engine.

The models are tiny (tests/models/README.md), and the eyes are asked with the temperature that Chiasm gives them, so a
test asks about several pictures and lets one answer be wrong.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engines.asking import (
    READ,
    WEATHER,
    Ask,
    Json,
    assistant,
    called,
    cards,
    image,
    system,
    text,
    user,
    webp,
    word,
)
from tests.engines.conftest import Grade

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("question", ["What is the code word?", "Read the text."])
def test_a_code_word_in_a_picture_comes_back_in_the_answer(ask: Ask, grade: Grade, count: int, question: str) -> None:
    wrong = []
    for picture in cards(1000, count):
        answer = ask([user(image(picture), text(question))])
        assert answer.calls == ()
        assert answer.looks == 1
        if word(picture) not in answer.text or answer.finish != "stop":
            wrong.append(f"{word(picture)}: {answer.text!r}")
    grade(wrong, of=count)


def test_the_question_reaches_the_eyes_as_it_was_asked(ask: Ask, grade: Grade, count: int) -> None:
    """Asked nothing sensible, these eyes read out the word; only the question itself brings them to name a colour."""
    wrong = []
    for picture in cards(1600, count):
        answer = ask([user(image(picture), text("What is the background colour?"))])
        if picture.background not in answer.text:
            wrong.append(f"{picture.background}: {answer.text!r}")
    grade(wrong, of=count)


@pytest.mark.parametrize("picture_part", [image, webp])
def test_a_picture_after_the_words_is_seen_as_well(
    ask: Ask, grade: Grade, count: int, picture_part: Callable[..., Json]
) -> None:
    """WebP too, which llama.cpp cannot read."""
    wrong = []
    for picture in cards(1100, count):
        answer = ask([user(text("What is the code word?"), picture_part(picture))])
        if word(picture) not in answer.text:
            wrong.append(f"{word(picture)}: {answer.text!r}")
    grade(wrong, of=count)


def test_two_pictures_in_one_message_are_both_seen(ask: Ask, grade: Grade, count: int) -> None:
    wrong = []
    pictures = cards(1200, 2 * count)
    for first, second in zip(pictures[::2], pictures[1::2], strict=True):
        answer = ask([user(image(first), image(second), text("What is the code word?"))])
        assert answer.calls == ()
        assert answer.looks == 2
        if word(first) not in answer.text or word(second) not in answer.text:
            wrong.append(f"{word(first)} and {word(second)}: {answer.text!r}")
    grade(wrong, of=count)


def test_a_picture_inside_the_json_string_of_a_tool_message_is_seen(ask: Ask, grade: Grade, count: int) -> None:
    """claude-code-router sends what a file reader found as a string of JSON, image data and all."""
    wrong = []
    for picture in cards(1300, count):
        source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(picture.png()).decode()}
        read = json.dumps([{"type": "image", "source": source}])
        messages = [
            user(text("What is the code word in the picture shot.png?")),
            called(("call_1", "Read", '{"file_path":"shot.png"}')),
            {"role": "tool", "tool_call_id": "call_1", "content": read},
        ]
        answer = ask(messages, [READ])
        assert answer.calls == ()
        if word(picture) not in answer.text:
            wrong.append(f"{word(picture)}: {answer.text!r}")
    grade(wrong, of=count)


def test_a_turn_that_calls_the_clients_tool_and_ours_ends_in_one_answer_from_both(
    ask: Ask, grade: Grade, count: int
) -> None:
    wrong = []
    for picture in cards(1400, count):
        question = user(image(picture), text("What is the code word? Also, what is the weather in Oslo?"))
        mixed = ask([question], [WEATHER])
        ((id_, name, arguments),) = mixed.calls
        assert (name, json.loads(arguments), mixed.finish) == ("get_weather", {"city": "Oslo"}, "tool_calls")
        result = {"role": "tool", "tool_call_id": id_, "content": "12 degrees, rain"}
        answer = ask([question, called((id_, name, arguments)), result], [WEATHER])
        assert answer.calls == ()
        # The picture was looked at while the client worked, and is counted in the request that goes on with it.
        assert (mixed.looks, answer.looks) == (0, 1)
        if word(picture) not in answer.text or "12 degrees, rain" not in answer.text:
            wrong.append(f"{word(picture)}: {answer.text!r}")
    grade(wrong, of=count)


def test_after_a_mixed_turn_the_conversation_goes_on(ask: Ask, grade: Grade, count: int) -> None:
    """A third request: the mixed turn stands in the middle of its history now."""
    wrong = []
    for picture in cards(1900, count):
        question = user(image(picture), text("What is the code word? Also, what is the weather in Oslo?"))
        (call,) = ask([question], [WEATHER]).calls
        history = [question, called(call), {"role": "tool", "tool_call_id": call[0], "content": "12 degrees, rain"}]
        history.append(assistant(ask(history, [WEATHER]).text))
        answer = ask([*history, user(text("Read the text in image 1."))], [WEATHER])
        assert answer.calls == ()
        if word(picture) not in answer.text:
            wrong.append(f"{word(picture)}: {answer.text!r}")
    grade(wrong, of=count)


def test_a_later_question_about_the_same_picture_is_answered_too(ask: Ask, grade: Grade, count: int) -> None:
    wrong = []
    for picture in cards(1500, count):
        question = user(image(picture), text("What is the background colour?"))
        first = ask([question])
        answer = ask([question, assistant(first.text), user(text("Read the text in image 1."))])
        assert answer.calls == ()
        if word(picture) not in answer.text:
            wrong.append(f"{word(picture)}: {answer.text!r}")
    grade(wrong, of=count)


def test_a_picture_of_a_later_request_is_told_from_the_first_ones(ask: Ask, grade: Grade, count: int) -> None:
    """The client marks pasted pictures as Claude Code and Codex do, and sends its whole history."""
    wrong = []
    pictures = cards(2000, 2 * count)
    for first, second in zip(pictures[::2], pictures[1::2], strict=True):
        history = [user(text("[Image #1]"), image(first), text("What is the code word?"))]
        history.append(assistant(ask(history).text))
        answer = ask([*history, user(text("[Image #2]"), image(second), text("What is the code word?"))])
        assert answer.calls == ()
        if word(first) not in str(history[1]) or word(second) not in answer.text or word(first) in answer.text:
            wrong.append(f"{word(first)} and {word(second)}: {history[1]['content']!r} and {answer.text!r}")
    grade(wrong, of=count)


def test_a_picture_that_the_client_no_longer_sends_is_still_seen(ask: Ask, grade: Grade, count: int) -> None:
    """Clients drop old pictures from their histories to save room, and leave a marker where they stood."""
    wrong = []
    for number, picture in enumerate(cards(2100, count)):
        name = f"trimmed-{number}-{secrets.token_hex(4)}"
        first = ask([user(image(picture), text("What is the background colour?"))], conversation=name)
        trimmed = [user(text("[Image #1]"), text("What is the background colour?")), assistant(first.text)]
        answer = ask([*trimmed, user(text("Read the text in image 1."))], conversation=name)
        assert answer.calls == ()
        assert answer.looks == 1
        if word(picture) not in answer.text:
            wrong.append(f"{word(picture)}: {answer.text!r}")
    grade(wrong, of=count)


def test_a_picture_is_seen_under_several_system_messages(ask: Ask, grade: Grade, count: int) -> None:
    wrong = []
    for picture in cards(1700, count):
        answer = ask(
            [
                system("You are a helpful assistant."),
                system("Answer briefly."),
                user(image(picture), text("What is the code word?")),
            ]
        )
        if word(picture) not in answer.text:
            wrong.append(f"{word(picture)}: {answer.text!r}")
    grade(wrong, of=count)


def test_questions_asked_at_the_same_time_get_their_own_answers(ask: Ask, grade: Grade, count: int) -> None:
    pictures = cards(1800, count)
    with ThreadPoolExecutor(4) as threads:
        answers = threads.map(lambda picture: ask([user(image(picture), text("What is the code word?"))]), pictures)
        wrong = [
            f"{word(picture)}: {answer.text!r}"
            for picture, answer in zip(pictures, answers, strict=True)
            if word(picture) not in answer.text
        ]
    grade(wrong, of=count)


def test_usage_counts_both_turns_and_the_look(ask: Ask) -> None:
    (picture,) = cards(1000, 1)
    usage = (answer := ask([user(image(picture), text("What is the code word?"))])).usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert answer.counted["turns"] == 2
    assert answer.counted["vision_calls"] == 1
    assert answer.counted["vision_prompt_tokens"] > 32, "a picture of 256x128 alone is 32 tokens"
    assert answer.counted["vision_completion_tokens"] > 0
    assert answer.counted["billed_prompt_tokens"] > usage.prompt_tokens > 0
    assert usage.completion_tokens > len(answer.text.split())
