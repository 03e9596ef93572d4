"""The checks of the whole path: a client's requests to a Chiasm that runs, or to one that runs as long as they do."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from router.app import create_app
from router.config import ServerSettings, Settings, StoreSettings, TextSettings
from router.demo.run import loopback_socket, running
from router.doctor import judge_path
from router.doctor.brain import READ
from router.doctor.budget import Budget
from router.doctor.card import Card, small
from router.doctor.check import Check
from router.doctor.eyes import WORD
from router.doctor.facts import Facts
from router.doctor.judge_path import Mixed, Through
from router.doctor.probe import Probe
from router.doctor.verdict import Verdict, ok

_TOKENS = 800
"""Of one answer, over its turns."""

_LOOK_TOKENS = 400
"""Of a look's answer, in a Chiasm of our own; a running one has its own limit."""

_TURNS = 4
_MEANWHILE = 10_000
"""Tokens for what an answer sets off besides: the turns after the first, and looks with their pictures."""


class Path:
    """`where`: in words, which Chiasm it is."""

    def __init__(
        self, *, title: str, where: str, probe: Probe, facts: Facts, chance: random.Random, sees: bool
    ) -> None:
        self.title = title
        self.where = where
        self.probe = probe
        self.facts = facts
        self.chance = chance
        self.sees = sees

    async def ask(
        self, messages: Sequence[Mapping[str, Any]], word: str, *, stream: bool, conversation: str, **fields: Any
    ) -> Through:
        request = {
            "model": self.facts.model,
            "messages": list(messages),
            "stream": stream,
            "max_tokens": _TOKENS,
            **({"stream_options": {"include_usage": True}} if stream else {}),
            **fields,
        }
        headers = {"x-chiasm-conversation": conversation}
        heard = await self.probe.chat(request, pictures=400, more=_MEANWHILE, headers=headers)
        return Through(heard, word, stream, looks=not self.sees)


def _conversation() -> str:
    return f"doctor-{secrets.token_hex(6)}"


def _asking(words: str, card: Card) -> dict[str, Any]:
    return {"role": "user", "content": [card.part, {"type": "text", "text": words}]}


def _in_user_message(*, stream: bool) -> Callable[[Path], Any]:
    async def ask(path: Path) -> Through:
        card = small(path.chance)
        return await path.ask([_asking(WORD, card)], card.words[0], stream=stream, conversation=_conversation())

    return ask


def _in_tool_result(*, stream: bool) -> Callable[[Path], Any]:
    async def ask(path: Path) -> Through:
        card = small(path.chance)
        call = {"id": "call_doctor_1", "type": "function", "function": {"name": "Read", "arguments": _ARGUMENTS}}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "Read photo.png. What is the code word in the image?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_doctor_1", "content": [card.part]},
        ]
        word = card.words[0]
        return await path.ask(messages, word, stream=stream, conversation=_conversation(), tools=[READ])

    return ask


_ARGUMENTS = '{"file_path": "photo.png"}'


async def _mixed(path: Path) -> Mixed:
    card, conversation = small(path.chance), _conversation()
    asked = _asking("What is the code word in this image? Also read the file notes.txt.", card)
    word = card.words[0]
    first = await path.ask([asked], word, stream=True, conversation=conversation, tools=[READ])
    calls = [call for call in first.heard.calls if call.name == "Read"]
    if not first.heard.answered or not calls or len(calls) < len(first.heard.calls):
        return Mixed(first, "Read", None)
    said = {
        "role": "assistant",
        "content": first.heard.text or None,
        "tool_calls": [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ],
    }
    results = [{"role": "tool", "tool_call_id": call.id, "content": "Buy milk."} for call in calls]
    history = [asked, said, *results]
    second = await path.ask(history, word, stream=True, conversation=conversation, tools=[READ])
    return Mixed(first, "Read", second)


async def _which(path: Path) -> Verdict:
    return ok(path.where)


BRAIN, EYES = "the brain", "the eyes"
"""What the path needs: verdicts on whether they work at all."""

_PARTS = (BRAIN, EYES)

CHECKS: tuple[Check[Path, Any], ...] = (
    Check("Chiasm", _which, lambda facts, e: e, _PARTS),
    Check("image from the user, streamed", _in_user_message(stream=True), judge_path.answer, _PARTS),
    Check("image from the user, whole", _in_user_message(stream=False), judge_path.answer, _PARTS),
    Check("image in a tool result, streamed", _in_tool_result(stream=True), judge_path.answer, _PARTS),
    Check("image in a tool result, whole", _in_tool_result(stream=False), judge_path.answer, _PARTS),
    Check("mixed turn", _mixed, judge_path.mixed, _PARTS),
)


# Which Chiasm


@asynccontextmanager
async def some_chiasm(
    settings: Settings, text: TextSettings, client: httpx.AsyncClient
) -> AsyncIterator[tuple[str, str]]:
    """The base URL of the Chiasm that runs where the configuration says, if it knows this brain; else of one in this
    process, on loopback, with a store in memory.  And what it is, in words."""
    host = settings.server.host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (only compared)
    url = f"http://[{host}]:{settings.server.port}/v1" if ":" in host else f"http://{host}:{settings.server.port}/v1"
    if settings.server.port and await _runs(url, settings, text, client):
        yield url, f"the one that runs at {url}"
        return
    with loopback_socket() as listening:
        async with running(create_app(_temporary(settings)), listening):
            address = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
            yield address, "a temporary one in this process (none runs where the configuration says)"


async def _runs(url: str, settings: Settings, text: TextSettings, client: httpx.AsyncClient) -> bool:
    probe = Probe(client, base_url=url, api_key=first_key(settings), budget=Budget(0))
    alive = await probe.page(f"{url.removesuffix('/v1')}/healthz")
    if alive.json != {"status": "ok"}:
        return False
    listing = (await probe.page(f"{url}/models")).json
    rows = listing.get("data") if isinstance(listing, dict) else None
    ids = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return bool(ids) and (text.name is None or text.name in ids)


def first_key(settings: Settings) -> str:
    return settings.server.api_keys[0].get_secret_value() if settings.server.api_keys else ""


def _temporary(settings: Settings) -> Settings:
    """The same brains and eyes, on limits that keep the bill small."""
    return settings.model_copy(
        update={
            "server": ServerSettings(port=0),
            "store": StoreSettings(kind="memory", max_gib=0.1),
            "text": tuple(one.model_copy(update={"max_turns": min(one.max_turns, _TURNS)}) for one in settings.text),
            "vision": tuple(
                one.model_copy(update={"max_tokens": min(one.max_tokens, _LOOK_TOKENS)}) for one in settings.vision
            ),
        }
    )
