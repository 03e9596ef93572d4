"""Everything that has no picture in it: what a brain on a real engine says alone is what it says behind Chiasm."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.engines.asking import WEATHER, Ask, assistant, cards, image, sdk, system, text, user, word
from tests.engines.conftest import NAME, Serve
from tests.engines.engines import Engine

pytestmark = pytest.mark.engines

THINK: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": True}}
DO_NOT_THINK: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize("words", ["What is the capital of Norway?", "Hello!", "Explain recursion."])
def test_a_request_without_pictures_gets_what_the_brain_alone_would_say(ask: Ask, ask_alone: Ask, words: str) -> None:
    expected = ask_alone([user(text(words))])
    answer = ask([user(text(words))])
    assert (answer.text, answer.reasoning, answer.finish) == (expected.text, expected.reasoning, expected.finish)
    assert answer.text
    assert answer.looks == 0


def test_usage_without_pictures_is_the_engines(ask: Ask, ask_alone: Ask) -> None:
    expected, usage = ask_alone([user(text("Hello!"))]).usage, ask([user(text("Hello!"))]).usage
    assert usage.prompt_tokens == expected.prompt_tokens > 0
    assert usage.completion_tokens == expected.completion_tokens > 0
    assert usage.total_tokens == expected.total_tokens


def test_a_clients_own_tool_is_called_as_if_chiasm_were_not_there(ask: Ask) -> None:
    answer = ask([user(text("What is the weather in Oslo?"))], [WEATHER])
    ((_, name, arguments),) = answer.calls
    assert (name, json.loads(arguments), answer.finish) == ("get_weather", {"city": "Oslo"}, "tool_calls")


# System messages


@pytest.mark.parametrize(
    "messages",
    [
        [system("You are a helpful assistant."), system("Answer briefly."), user(text("Hello!"))],
        [user(text("Hello!")), assistant("Hello."), system("Answer briefly."), user(text("Hello!"))],
    ],
    ids=["two at the beginning", "one in the middle"],
)
def test_system_messages_that_the_template_refuses_are_answered(ask: Ask, ask_alone: Ask, messages: list[Any]) -> None:
    with pytest.raises(openai.APIStatusError):
        ask_alone(messages)
    answer = ask(messages)
    assert answer.text
    assert answer.finish == "stop"


# Thinking


def test_the_clients_thinking_switch_is_obeyed(ask: Ask) -> None:
    assert ask([user(text("Hello!"))], **THINK).reasoning.strip()
    assert not ask([user(text("Hello!"))], **DO_NOT_THINK).reasoning.strip()


def test_a_picture_is_seen_with_thinking_and_without(ask: Ask) -> None:
    (picture,) = cards(1000, 1)
    question = [user(image(picture), text("What is the code word?"))]
    thinking, silent = ask(question, **THINK), ask(question, **DO_NOT_THINK)
    assert word(picture) in thinking.text
    assert thinking.reasoning.strip()
    assert "</think>" not in thinking.text
    assert word(picture) in silent.text
    assert not silent.reasoning.strip()


@pytest.mark.parametrize("thinking", ["on", "off"])
def test_the_configured_thinking_switch_is_obeyed(serve: Serve, kind: Callable[..., Ask], thinking: str) -> None:
    with serve(thinking=thinking) as service, sdk(service) as client:
        answer = kind(client, NAME)([user(text("Hello!"))])
    assert bool(answer.reasoning.strip()) == (thinking == "on")
    assert answer.text


# Which engine it is


def test_an_engine_named_in_the_configuration_does_as_well(
    serve: Serve, kind: Callable[..., Ask], engine: Engine
) -> None:
    """Under a name of the configuration's own; "auto" where Chiasm has no profile of the engine."""
    (picture,) = cards(1000, 1)
    question = user(image(picture), text("What is the code word?"))
    with serve(engine=engine.profile or "auto") as service, sdk(service) as client:
        ask = kind(client, NAME)
        first = ask([question])
        later = ask([question, assistant(first.text), user(text("What is the background colour?"))])
    assert word(picture) in first.text
    assert later.text
    assert not later.calls


def test_the_models_page_names_the_brain_as_the_engine_does(service: str, engine: Engine) -> None:
    with sdk(service) as client:
        (model,) = client.models.list().data
    assert model.id == engine.ids["brain"]
    ready = httpx.get(service.removesuffix("/v1") + "/readyz", trust_env=False)
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


# Refusals

_TOO_LONG = [user(text("word " * 20_000))]
_REFUSED: dict[str, tuple[list[Any], dict[str, Any], int, str]] = {
    "llamacpp": (_TOO_LONG, {}, 400, "context"),
    "vllm": (_TOO_LONG, {}, 400, "context"),
    # It has no limit of its own, but takes no field that it does not know.
    "transformers": ([user(text("Hello!"))], {"mirostat": 1}, 422, "mirostat"),
}


def test_a_refusal_of_the_engine_keeps_its_status_and_words(ask: Ask, engine: Engine) -> None:
    messages, fields, status, words = _REFUSED[engine.name]
    with pytest.raises(openai.APIStatusError) as refused:
        ask(messages, **fields)
    assert refused.value.status_code == status
    assert words in refused.value.message
