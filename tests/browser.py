"""A real browser: Debian's Chromium without a window, in a profile of its own that is gone afterwards.

async with browser() as chromium, chromium.visits(house.port) as visit:
    await visit.page.goto(visit.url("/admin"))
# at the end: nothing on the console, and nothing was asked of anybody but the house
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright, expect

from tests.live import DEADLINE

_QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
"""Without these it asks for things of its own."""

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@dataclass
class Visit:
    """One profile, and what it did."""

    context: BrowserContext
    page: Page
    port: int
    said: list[str] = field(default_factory=list)
    """On the console, and exceptions."""
    strangers: list[str] = field(default_factory=list)
    """Addresses of others that were asked for."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def open(self, path: str) -> None:
        await self.page.goto(self.url(path))


@dataclass(frozen=True, slots=True)
class Chromium:
    _browser: Browser

    @asynccontextmanager
    async def visits(self, port: int, *, console_may_say: str = "", **profile: Any) -> AsyncIterator[Visit]:
        """`profile`: as of Playwright's `new_context`.  `console_may_say`: in a line that is expected."""
        context = await self._browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **profile})
        context.set_default_timeout(1000 * DEADLINE)
        page = await context.new_page()
        visit = Visit(context, page, port)

        def said(message: ConsoleMessage) -> None:
            if not console_may_say or console_may_say not in message.text:
                visit.said.append(f"{message.type}: {message.text}")

        page.on("console", said)
        page.on("pageerror", lambda error: visit.said.append(f"exception: {error}"))
        context.on("request", lambda request: _note(visit, request.url))
        try:
            yield visit
            assert visit.said == [], f"the console is not silent: {visit.said}"
            assert visit.strangers == [], "a request left the house"
        finally:
            await context.close()


def _note(visit: Visit, url: str) -> None:
    place = urlsplit(url)
    if place.scheme not in ("data", "blob", "about") and place.netloc != f"127.0.0.1:{visit.port}":
        visit.strangers.append(url)


@asynccontextmanager
async def browser() -> AsyncIterator[Chromium]:
    found = shutil.which("chromium")
    assert found is not None, "there is no chromium: run tests/install_chromium.sh"
    expect.set_options(timeout=1000 * DEADLINE)
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=found, args=_QUIET)
        try:
            yield Chromium(started)
        finally:
            await started.close()
