"""What brain and eyes are asked alike: the list of models, a first completion, version and context."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx

from router.config import UpstreamSettings
from router.doctor.facts import Facts
from router.doctor.heard import Heard, Page
from router.doctor.judge_server import NO_LIST, tokens_per_event
from router.doctor.probe import Probe
from router.protocol.profiles import recognise, recognise_answer

_VERSIONS = {
    "vllm": ("/version", "version"),
    "ollama": ("/api/version", "version"),
    "llamacpp": ("/props", "build_info"),
}


class Server:
    """A model on a server, with what was learnt of it."""

    def __init__(
        self, settings: UpstreamSettings, *, title: str, place: str, probe: Probe, chance: random.Random
    ) -> None:
        self.title = title
        self.probe = probe
        self.chance = chance
        self.listing = Page()
        self.ids: list[str] = []
        self.hello: Heard | None = None
        """The first completion; several checks look at it."""
        self.facts = Facts(
            place=place,
            base_url=settings.base_url,
            configured=settings.model,
            model=settings.model,
            has_key=bool(settings.api_key.get_secret_value()),
            engine=recognise(_host(settings.base_url), "", "") if settings.engine == "auto" else settings.engine,
        )

    async def ask_for_models(self) -> Page:
        listing = self.listing = await self.probe.page(f"{self.facts.base_url}/models")
        rows = _rows(listing.json)
        self.ids = [str(row["id"]) for row in rows]
        if self.facts.engine == "auto":
            owner = rows[0].get("owned_by") if rows else ""
            engine = recognise(_host(self.facts.base_url), str(owner), listing.headers.get("server", ""))
            self.facts = replace(self.facts, engine=engine)
        if self.facts.model is None and self.ids:
            self.facts = replace(self.facts, model=self.ids[0])
        if listing.status == 200:
            await self._ask_for_version(next((row for row in rows if row["id"] == self.facts.model), None))
        return listing

    async def first_completion(self, ask: Callable[[], Awaitable[Heard]]) -> Heard | None:
        """`None` where the list of models says already that it makes no sense."""
        lets_us_in = 200 <= self.listing.status < 300 or self.listing.status in NO_LIST
        if self.hello is None and lets_us_in and self.facts.model is not None:
            self.hello = await ask()
            self.facts = replace(self.facts, tokens_per_event=tokens_per_event(self.hello))
            if self.facts.engine == "auto":
                self.facts = replace(self.facts, engine=recognise_answer(self.hello.headers, self.hello.first))
        return self.hello

    async def _ask_for_version(self, row: dict[str, Any] | None) -> None:
        root = re.sub(r"/v\d+$", "", self.facts.base_url)
        length = _context(row or {})
        if self.facts.engine in _VERSIONS:
            path, name = _VERSIONS[self.facts.engine]
            page = await self.probe.page(f"{root}{path}")
            told = page.json if isinstance(page.json, dict) else {}
            version = self.probe.cleaned(str(told.get(name) or ""))
            self.facts = replace(self.facts, version=version[:40])
            settings = told.get("default_generation_settings")
            if length is None and isinstance(settings, dict) and isinstance(settings.get("n_ctx"), int):
                length = settings["n_ctx"]
        if length is None and self.facts.engine == "ollama":
            page = await self.probe.page(f"{root}/api/ps")
            running = page.json.get("models") if isinstance(page.json, dict) else None
            for one in running if isinstance(running, list) else []:
                if isinstance(one, dict) and self.facts.model in (one.get("model"), one.get("name")):
                    length = _context(one)
        self.facts = replace(self.facts, context=length)


def _rows(value: object) -> list[dict[str, Any]]:
    rows = value.get("data") if isinstance(value, dict) else None
    found = rows if isinstance(rows, list) else []
    return [row for row in found if isinstance(row, dict) and isinstance(row.get("id"), str) and row["id"]]


def _context(row: dict[str, Any]) -> int | None:
    meta = row.get("meta")
    for value in (
        row.get("max_model_len"),  # vLLM, SGLang
        meta.get("n_ctx") if isinstance(meta, dict) else None,  # llama.cpp: of one slot
        row.get("context_length"),  # OpenRouter, Ollama's list of what runs
        row.get("context_window"),  # Groq
    ):
        if isinstance(value, int) and value > 0:
            return value
    return None


def _host(url: str) -> str:
    return httpx.URL(url).host
