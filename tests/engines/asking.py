"""What the tests send, and what a client makes of the answer: the official SDK, streamed and whole."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.cards import Card, card

MAX_TOKENS = 400
"""A right answer takes up to two hundred in all its turns.  A tiny model that has lost its way does not stop."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client made of one completion."""

    text: str
    reasoning: str
    calls: tuple[tuple[str, str, str], ...]
    """Of the client's own tools: id, name, arguments."""
    finish: str | None
    usage: CompletionUsage

    @property
    def looks(self) -> int:
        """Calls of the eyes, as `usage.chiasm` counts them."""
        return self.counted.get("vision_calls", 0)

    @property
    def counted(self) -> Mapping[str, int]:
        """`usage.chiasm`; empty when the engine itself was asked."""
        counted: Mapping[str, int] = (self.usage.model_extra or {}).get("chiasm", {})
        return counted


class Ask(Protocol):
    """Sends messages, and tools and further fields of the body perhaps.  `conversation`: what the client calls it in
    Chiasm's header, where the opening does not tell which one it is."""

    def __call__(
        self, messages: list[Any], tools: list[Any] | None = None, conversation: str | None = None, **fields: Any
    ) -> Answer: ...


def sdk(base_url: str) -> openai.OpenAI:
    # A proxy from the environment has no business on loopback; a retry would hide a failure.
    http = openai.DefaultHttpxClient(trust_env=False, timeout=120)
    return openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, http_client=http)


def streamed(client: openai.OpenAI, model: str) -> Ask:
    def ask(
        messages: list[Any], tools: list[Any] | None = None, conversation: str | None = None, **fields: Any
    ) -> Answer:
        chunks = list(
            client.chat.completions.create(
                model=model,
                messages=messages,
                tools=tools or openai.omit,
                temperature=0,
                max_tokens=MAX_TOKENS,
                stream=True,
                stream_options={"include_usage": True},
                extra_headers=_named(conversation),
                extra_body=fields,
            )
        )
        assert len({chunk.id for chunk in chunks}) == 1
        choices = [choice for chunk in chunks for choice in chunk.choices]
        (finish,) = [choice.finish_reason for choice in choices if choice.finish_reason]
        (usage,) = [chunk.usage for chunk in chunks if chunk.usage is not None]
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
            reasoning="".join(_reasoning(choice.delta.model_extra) for choice in choices),
            calls=tuple((id_, name, arguments) for id_, name, arguments in calls.values()),
            finish=finish,
            usage=usage,
        )

    return ask


def whole(client: openai.OpenAI, model: str) -> Ask:
    def ask(
        messages: list[Any], tools: list[Any] | None = None, conversation: str | None = None, **fields: Any
    ) -> Answer:
        completion = client.chat.completions.create(
            model=model,
            messages=messages,
            tools=tools or openai.omit,
            temperature=0,
            max_tokens=MAX_TOKENS,
            extra_headers=_named(conversation),
            extra_body=fields,
        )
        (choice,) = completion.choices
        calls = [
            call for call in choice.message.tool_calls or [] if isinstance(call, ChatCompletionMessageFunctionToolCall)
        ]
        assert completion.usage is not None
        return Answer(
            text=choice.message.content or "",
            reasoning=_reasoning(choice.message.model_extra),
            calls=tuple((call.id, call.function.name, call.function.arguments) for call in calls),
            finish=choice.finish_reason,
            usage=completion.usage,
        )

    return ask


def _named(conversation: str | None) -> dict[str, str]:
    return {} if conversation is None else {"x-chiasm-conversation": conversation}


def _reasoning(extra: Mapping[str, Any] | None) -> str:
    said = extra or {}
    words: str = said.get("reasoning_content") or said.get("reasoning") or ""
    return words


# Pictures


_asked = itertools.count()
_note = ""
"""Stands in the pictures of the test that runs: looks are remembered, and each test is to have the eyes look anew."""


def cards(first: int, count: int) -> list[Card]:
    """Pictures of one code word each, all of one size that needs no scaling; for one test."""
    global _note
    _note = f"test {next(_asked)}"
    return [card(seed, kind="word", size=(256, 128)) for seed in range(first, first + count)]


def word(picture: Card) -> str:
    """Three to six characters of thirty-four: an answer that holds it has come from the pixels and no other way."""
    said: str = picture.words[0][1]
    return said


def image(picture: Card) -> Json:
    out, info = io.BytesIO(), PngInfo()
    info.add_text("note", _note)
    assert picture.image is not None
    picture.image.save(out, "PNG", pnginfo=info)
    return image_of("image/png", out.getvalue())


def webp(picture: Card) -> Json:
    out = io.BytesIO()
    Image.open(io.BytesIO(picture.png())).save(out, "WEBP", lossless=True)
    return image_of("image/webp", out.getvalue())


def image_of(media_type: str, data: bytes) -> Json:
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


# Messages and tools


def text(words: str) -> Json:
    return {"type": "text", "text": words}


def user(*content: Json) -> Json:
    return {"role": "user", "content": list(content)}


def system(words: str) -> Json:
    return {"role": "system", "content": words}


def assistant(words: str) -> Json:
    return {"role": "assistant", "content": words}


def called(*calls: tuple[str, str, str]) -> Json:
    """The assistant's turn as a client sends it back."""
    wire = [{"id": id_, "type": "function", "function": {"name": name, "arguments": args}} for id_, name, args in calls]
    return {"role": "assistant", "content": "", "tool_calls": wire}


def _tool(name: str, parameter: str, description: str) -> Json:
    parameters = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


READ = _tool("Read", "file_path", "Reads a file.")
WEATHER = _tool("get_weather", "city", "The weather of today in a city.")
