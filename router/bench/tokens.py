"""Which way a server counts tokens, if it does.

vLLM takes a conversation and counts it with its template.  llama.cpp writes the template out and counts that.  SGLang
and older vLLM count plain text, without the template, which the first answer's usage then tells
(`prompts.Composer.learn`).  All three do so beside `/v1`, under `/tokenize`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final

import httpx
import orjson

from router.bench.prompts import Counter
from router.http_client import BROKEN

_SECONDS: Final = 20.0
"""Half a million tokens take llama.cpp's tokenizer two."""

_NO_PAGE: tuple[type[Exception], ...] = (*BROKEN, TimeoutError, orjson.JSONDecodeError)


class _No(Exception):
    """The server does not count this way."""


class Tokenizer:
    """`client` is lent."""

    def __init__(self, client: httpx.AsyncClient, *, base_url: str, model: str, headers: Mapping[str, str]) -> None:
        self._client = client
        self._root = re.sub(r"/v\d+$", "", base_url)
        self._model = model
        self._headers = headers

    async def counter(self) -> Counter | None:
        """The most exact way that this server knows."""
        for way in (self._of_conversation, self._of_template, self._of_text):
            try:
                if await way("one two three four") > 0:
                    return _steady(way)
            except _No:
                continue
        return None

    async def _of_conversation(self, text: str) -> int:
        request = {"model": self._model, "messages": _messages(text), "add_generation_prompt": True}
        return _count(await self._post("/tokenize", request))

    async def _of_template(self, text: str) -> int:
        prompt = (await self._post("/apply-template", {"messages": _messages(text)})).get("prompt")
        if not isinstance(prompt, str):
            raise _No
        request = {"content": prompt, "add_special": True, "parse_special": True}
        tokens = (await self._post("/tokenize", request)).get("tokens")
        if not isinstance(tokens, list):
            raise _No
        return len(tokens)

    async def _of_text(self, text: str) -> int:
        return _count(await self._post("/tokenize", {"model": self._model, "prompt": text}))

    async def _post(self, path: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        headers = {**self._headers, "content-type": "application/json"}
        try:
            async with asyncio.timeout(_SECONDS):
                answer = await self._client.post(f"{self._root}{path}", content=orjson.dumps(request), headers=headers)
                value = orjson.loads(answer.content) if answer.status_code == 200 else None
        except _NO_PAGE:
            raise _No from None
        if not isinstance(value, dict):
            raise _No
        return value


def _steady(way: Counter) -> Counter:
    """A server that counted once and then does not is asked no further: 0 is never what was wanted."""

    async def count(text: str) -> int:
        try:
            return await way(text)
        except _No:
            return 0

    return count


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _count(value: Mapping[str, Any]) -> int:
    count = value.get("count")
    if not isinstance(count, int):
        raise _No
    return count
