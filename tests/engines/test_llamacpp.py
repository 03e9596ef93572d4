"""The service, as a process, between a brain and eyes that are real models behind real llama-servers.

The models are tiny (tests/models/README.md), so a test asks about several pictures and wants most of them right.  A
code word is three to six characters of thirty-four: an answer that holds it has come from the pixels and no other way.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall

from tests.cards import Card, card
from tests.engines.servers import BRAIN_VARIABLE, EYES_VARIABLE, free_port, running

pytestmark = pytest.mark.engines

CARDS = 10
"""Pictures for each question: enough that one slip of a tiny model is not a red test, few enough for seconds."""

MAX_TOKENS = 400
"""A right answer takes up to two hundred in all its turns.  A tiny model that has lost its way does not stop."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client made of one completion."""

    text: str
    calls: tuple[tuple[str, str, str], ...]
    """Of the client's own tools: id, name, arguments."""
    finish: str | None
    looks: int
    """Calls of the eyes, as `usage.chiasm` counts them."""


Ask = Callable[..., Answer]


# The service and its client


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of Chiasm between the brain and the eyes that `tests.engines.servers` has started."""
    home = tmp_path_factory.mktemp("service")
    port = free_port()
    # Its own home and working folder, so that no configuration file of this machine takes part.
    env = {name: value for name, value in os.environ.items() if not name.startswith("CHIASM_")}
    env |= {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "CHIASM_STORE__PATH": str(home / "store")}
    command = [str(Path(sys.executable).with_name("chiasm")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--text", _engine(BRAIN_VARIABLE), "--vision", _engine(EYES_VARIABLE)]
    with running(command, ready_url=f"http://127.0.0.1:{port}/readyz", log=home / "service.log", cwd=home, env=env):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def client(service: str) -> Iterator[openai.OpenAI]:
    with _client(service) as client:
        yield client


@pytest.fixture(params=["streamed", "whole"])
def ask(request: pytest.FixtureRequest, client: openai.OpenAI) -> Ask:
    """Send messages, and tools perhaps, through the official client; every test runs streamed and whole."""
    return _streamed(client) if request.param == "streamed" else _whole(client)


def _engine(variable: str) -> str:
    if variable not in os.environ:
        pytest.fail(f"{variable} is not set: these tests are run by `make test-engines`")
    return os.environ[variable]


def _client(base_url: str) -> openai.OpenAI:
    # A proxy from the environment has no business on loopback; a retry would hide a failure.
    http = openai.DefaultHttpxClient(trust_env=False, timeout=60)
    return openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, http_client=http)


def _streamed(client: openai.OpenAI) -> Ask:
    def ask(messages: list[Any], tools: list[Any] | None = None) -> Answer:
        chunks = list(
            client.chat.completions.create(
                model="brain",
                messages=messages,
                tools=tools or openai.omit,
                temperature=0,
                max_tokens=MAX_TOKENS,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert len({chunk.id for chunk in chunks}) == 1
        choices = [choice for chunk in chunks for choice in chunk.choices]
        finishes = [choice.finish_reason for choice in choices if choice.finish_reason]
        assert len(finishes) == 1
        assert [chunk.usage is not None for chunk in chunks].count(True) == 1
        calls: dict[int, list[str]] = {}
        for delta in (call for choice in choices for call in choice.delta.tool_calls or []):
            call = calls.setdefault(delta.index, ["", "", ""])
            assert delta.function is not None
            call[0] += delta.id or ""
            call[1] += delta.function.name or ""
            call[2] += delta.function.arguments or ""
        assert list(calls) == list(range(len(calls)))
        return Answer(
            text="".join(choice.delta.content or "" for choice in choices),
            calls=tuple((id_, name, arguments) for id_, name, arguments in calls.values()),
            finish=finishes[0],
            looks=_looks(next(chunk.usage for chunk in chunks if chunk.usage)),
        )

    return ask


def _whole(client: openai.OpenAI) -> Ask:
    def ask(messages: list[Any], tools: list[Any] | None = None) -> Answer:
        completion = client.chat.completions.create(
            model="brain", messages=messages, tools=tools or openai.omit, temperature=0, max_tokens=MAX_TOKENS
        )
        (choice,) = completion.choices
        calls = [
            call for call in choice.message.tool_calls or [] if isinstance(call, ChatCompletionMessageFunctionToolCall)
        ]
        return Answer(
            text=choice.message.content or "",
            calls=tuple((call.id, call.function.name, call.function.arguments) for call in calls),
            finish=choice.finish_reason,
            looks=_looks(completion.usage),
        )

    return ask


def _looks(usage: openai.types.CompletionUsage | None) -> int:
    assert usage is not None
    chiasm: Json = (usage.model_extra or {}).get("chiasm", {})
    return int(chiasm.get("vision_calls", 0))


# What is sent


def _cards(first: int, count: int = CARDS) -> list[Card]:
    """Pictures of one code word each, all of one size that needs no scaling."""
    return [card(seed, kind="word", size=(256, 128)) for seed in range(first, first + count)]


def _word(picture: Card) -> str:
    word: str = picture.words[0][1]
    return word


def _image(picture: Card) -> Json:
    data = base64.b64encode(picture.png()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def _text(words: str) -> Json:
    return {"type": "text", "text": words}


def _user(*content: Json) -> Json:
    return {"role": "user", "content": list(content)}


def _tool(name: str, parameter: str, description: str) -> Json:
    parameters = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


READ = _tool("Read", "file_path", "Reads a file.")
WEATHER = _tool("get_weather", "city", "The weather of today in a city.")


def _called(*calls: tuple[str, str, str]) -> Json:
    """The assistant's turn as a client sends it back."""
    wire = [{"id": id_, "type": "function", "function": {"name": name, "arguments": args}} for id_, name, args in calls]
    return {"role": "assistant", "content": "", "tool_calls": wire}


def _most(wrong: list[str], of: int, at_most: int) -> None:
    assert len(wrong) <= at_most, f"{len(wrong)} of {of} wrong, at most {at_most} may be:\n" + "\n".join(wrong)


# The tests


@pytest.mark.parametrize("question", ["What is the code word?", "Read the text."])
def test_a_code_word_in_a_picture_comes_back_in_the_answer(ask: Ask, question: str) -> None:
    wrong = []
    for picture in _cards(1000):
        answer = ask([_user(_image(picture), _text(question))])
        assert answer.calls == ()
        assert answer.looks == 1
        if _word(picture) not in answer.text or answer.finish != "stop":
            wrong.append(f"{_word(picture)}: {answer.text!r}")
    _most(wrong, of=CARDS, at_most=2)


def test_the_question_reaches_the_eyes_as_it_was_asked(ask: Ask) -> None:
    """Asked nothing sensible, these eyes read out the word; only the question itself brings them to name a colour."""
    wrong = []
    for picture in _cards(1600):
        answer = ask([_user(_image(picture), _text("What is the background colour?"))])
        if picture.background not in answer.text:
            wrong.append(f"{picture.background}: {answer.text!r}")
    _most(wrong, of=CARDS, at_most=2)


def test_a_picture_after_the_words_is_seen_as_well(ask: Ask) -> None:
    wrong = []
    for picture in _cards(1100):
        answer = ask([_user(_text("What is the code word?"), _image(picture))])
        if _word(picture) not in answer.text:
            wrong.append(f"{_word(picture)}: {answer.text!r}")
    _most(wrong, of=CARDS, at_most=2)


def test_two_pictures_in_one_message_are_both_seen(ask: Ask) -> None:
    wrong = []
    pictures = _cards(1200, 2 * CARDS)
    for first, second in zip(pictures[::2], pictures[1::2], strict=True):
        answer = ask([_user(_image(first), _image(second), _text("What is the code word?"))])
        assert answer.calls == ()
        assert answer.looks == 2
        if _word(first) not in answer.text or _word(second) not in answer.text:
            wrong.append(f"{_word(first)} and {_word(second)}: {answer.text!r}")
    _most(wrong, of=CARDS, at_most=3)


def test_a_picture_inside_the_json_string_of_a_tool_message_is_seen(ask: Ask) -> None:
    """claude-code-router sends what a file reader found as a string of JSON, image data and all."""
    wrong = []
    for picture in _cards(1300):
        source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(picture.png()).decode()}
        read = json.dumps([{"type": "image", "source": source}])
        messages = [
            _user(_text("What is the code word in the picture shot.png?")),
            _called(("call_1", "Read", '{"file_path":"shot.png"}')),
            {"role": "tool", "tool_call_id": "call_1", "content": read},
        ]
        answer = ask(messages, [READ])
        assert answer.calls == ()
        if _word(picture) not in answer.text:
            wrong.append(f"{_word(picture)}: {answer.text!r}")
    _most(wrong, of=CARDS, at_most=3)


def test_a_turn_that_calls_the_clients_tool_and_ours_ends_in_one_answer_from_both(ask: Ask) -> None:
    wrong = []
    for picture in _cards(1400):
        question = _user(_image(picture), _text("What is the code word? Also, what is the weather in Oslo?"))
        mixed = ask([question], [WEATHER])
        ((id_, name, arguments),) = mixed.calls
        assert (name, json.loads(arguments), mixed.finish) == ("get_weather", {"city": "Oslo"}, "tool_calls")
        result = {"role": "tool", "tool_call_id": id_, "content": "12 degrees, rain"}
        answer = ask([question, _called((id_, name, arguments)), result], [WEATHER])
        assert answer.calls == ()
        if _word(picture) not in answer.text or "12 degrees, rain" not in answer.text:
            wrong.append(f"{_word(picture)}: {answer.text!r}")
    _most(wrong, of=CARDS, at_most=3)


def test_a_later_question_about_the_same_picture_is_answered_too(ask: Ask) -> None:
    wrong = []
    for picture in _cards(1500):
        question = _user(_image(picture), _text("What is the background colour?"))
        first = ask([question])
        history = [question, {"role": "assistant", "content": first.text}, _user(_text("Read the text in image 1."))]
        answer = ask(history)
        assert answer.calls == ()
        if _word(picture) not in answer.text:
            wrong.append(f"{_word(picture)}: {answer.text!r}")
    _most(wrong, of=CARDS, at_most=3)


@pytest.mark.parametrize("words", ["What is the capital of Norway?", "Hello!", "Explain recursion."])
def test_a_request_without_pictures_gets_what_the_brain_alone_would_say(ask: Ask, words: str) -> None:
    with _client(_engine(BRAIN_VARIABLE)) as alone:
        expected = alone.chat.completions.create(
            model="brain", messages=[{"role": "user", "content": words}], temperature=0, max_tokens=MAX_TOKENS
        )
    answer = ask([_user(_text(words))])
    assert answer.text == expected.choices[0].message.content
    assert answer.text
    assert answer.looks == 0


def test_a_clients_own_tool_is_called_as_if_chiasm_were_not_there(ask: Ask) -> None:
    answer = ask([_user(_text("What is the weather in Oslo?"))], [WEATHER])
    ((_, name, arguments),) = answer.calls
    assert (name, json.loads(arguments), answer.finish) == ("get_weather", {"city": "Oslo"}, "tool_calls")
