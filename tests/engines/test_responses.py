"""Pictures at `/v1/responses`, through a brain and eyes that are real models on a real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.engines.asking import MAX_TOKENS, WEATHER, Json, cards, image, sdk, word
from tests.engines.conftest import Grade
from tests.engines.engines import Engine

pytestmark = pytest.mark.engines

AskResponses = Callable[..., Response]


@pytest.fixture(params=["streamed", "whole"])
def respond(request: pytest.FixtureRequest, service: str, engine: Engine) -> Iterator[AskResponses]:
    with sdk(service) as client:

        def ask(*items: Any, **fields: Any) -> Response:
            asked: Any = {"model": engine.ids["brain"], "input": list(items), "temperature": 0, **fields}
            asked["max_output_tokens"] = MAX_TOKENS
            if request.param == "whole":
                return client.responses.create(**asked)  # type: ignore[no-any-return]
            with client.responses.stream(**asked) as stream:
                return stream.get_final_response()

        yield ask


def user(*parts: Json | str) -> Json:
    return {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": part} if isinstance(part, str) else part for part in parts],
    }


def shown(picture: Any) -> Json:
    return {"type": "input_image", "image_url": image(picture)["image_url"]["url"], "detail": "auto"}


def test_a_code_word_in_a_picture_comes_back_in_the_answer(respond: AskResponses, grade: Grade, count: int) -> None:
    wrong = []
    for picture in cards(2000, count):
        response = respond(user("What is the code word?", shown(picture)))
        assert response.status == "completed"
        assert not any(item.type == "function_call" for item in response.output)
        if word(picture) not in response.output_text:
            wrong.append(f"{word(picture)}: {response.output_text!r}")
    grade(wrong, of=count)


def test_a_picture_in_the_result_of_a_tool_is_seen(respond: AskResponses, grade: Grade, count: int) -> None:
    wrong = []
    for picture in cards(2100, count):
        response = respond(
            user("What is the code word?"),
            {"type": "function_call", "call_id": "c1", "name": "get_screenshot", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": [shown(picture)]},
        )
        if word(picture) not in response.output_text:
            wrong.append(f"{word(picture)}: {response.output_text!r}")
    grade(wrong, of=count)


def test_what_was_seen_goes_back_to_the_engine_and_its_cache_fits(respond: AskResponses, engine: Engine) -> None:
    (picture,) = cards(2200, 1)
    question = user("What is the code word?", shown(picture))
    first = respond(question)
    history = [question, *(item.to_dict() for item in first.output)]
    second = respond(*history, user("Thank you."))
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    if engine.name != "transformers":  # it counts no cached tokens
        assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens // 2


def test_the_clients_call_beside_ours_is_whole(respond: AskResponses) -> None:
    (picture,) = cards(2300, 1)
    tools = [{"type": "function", "strict": False, **WEATHER["function"]}]
    words = "What is the code word? Also, what is the weather in Oslo?"
    response = respond(user(shown(picture), words), tools=tools)
    calls = [item for item in response.output if item.type == "function_call"]
    assert [call.name for call in calls] == [WEATHER["function"]["name"]]


def test_an_unknown_response_to_go_on_from_is_the_engines_to_judge(service: str, engine: Engine) -> None:
    with sdk(service) as client:

        def go_on() -> Response:
            return client.responses.create(model=engine.ids["brain"], input="Hi", previous_response_id="resp_nobody")

        if engine.name == "transformers":  # it pays no attention
            assert go_on().status == "completed"
            return
        with pytest.raises(openai.APIStatusError) as refused:
            go_on()
        assert 400 <= refused.value.status_code < 500
        assert "previous_response_id" in str(refused.value) or "resp_nobody" in str(refused.value)
