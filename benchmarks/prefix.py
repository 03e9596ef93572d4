"""How much of each prompt the text model's server has computed already: a long session of browser automation, replayed.

    make bench-prefix
    python -m benchmarks.prefix --screenshots 200

An agent clicks, takes a screenshot, has it looked at, clicks again, and now and then wants to know something of a
screenshot of long ago.  Brain and eyes are scripts; the application between them is the real one, without sockets.
The same session is counted three times:

*   **chiasm**: as it is.
*   **no ledger**: hidden turns, and tables that were shown, are lost between requests.
*   **ccr (simulated)**: the rule of claude-code-router's image agent (1.0.73), by its source, applied to the same
    session: our own few lines of it, not that program.

For every prompt that the brain's server gets, the longest common prefix of bytes with the prompt that it got before is
what a prefix cache can use again.  Tools come first in a prompt, then the messages: so most chat templates have it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from cache.memory import MemoryStore
from tests.brain import Calls, looks
from tests.cards import card
from tests.conversing import Habits, Inside, Talk, Told, Turn, pictures_of, recalls, turn
from tests.live import function, shown, tool_result, user

GOAL_SHARE = 0.97
GOAL_FORGETTINGS = 1.0
"""Per 10 new images."""

TOOLS = tuple(function(name) for name in ("navigate", "click", "type_text", "screenshot", "wait_for"))
SYSTEM = "You operate a browser. Work step by step, check every page by a screenshot. " * 40

LOOKED_AT = 0.85
"""Of the screenshots."""

ASKED_AGAIN = 0.06
"""Of the steps: something is wanted of an older screenshot."""

WORDS = (
    *("button", "menu", "table", "row", "price", "total", "date", "error", "field", "login"),
    *("cart", "page", "link", "title", "header", "search", "result"),
)


@dataclass(frozen=True, slots=True)
class Sent:
    """One prompt as a line of bytes, and whether a forgetting came before it."""

    prompt: bytes
    forgot: bool = False


@dataclass(slots=True)
class Counted:
    name: str
    sent: list[Sent] = field(default_factory=list)
    forgettings: int = 0

    def share(self, *, forgettings: bool) -> float:
        """Of all bytes but those of the very first prompt; `forgettings`: whether prompts after one count too."""
        whole = again = 0
        for before, now in zip(self.sent, self.sent[1:], strict=False):
            if forgettings or not now.forgot:
                whole += len(now.prompt)
                again += common(before.prompt, now.prompt)
        return again / whole

    def anew(self) -> int:
        """Bytes that are computed in the whole session."""
        pairs = zip([Sent(b""), *self.sent], self.sent, strict=False)
        return sum(len(now.prompt) - common(before.prompt, now.prompt) for before, now in pairs)

    def rewritten(self) -> int:
        """Prompts that do not begin with all of the one before, and no forgetting explains it."""
        pairs = zip(self.sent, self.sent[1:], strict=False)
        return sum(not now.prompt.startswith(before.prompt) for before, now in pairs if not now.forgot)

    def looks(self) -> int:
        """Looks that the brain can still read at the end."""
        return self.sent[-1].prompt.count(b" by a vision model; text in an image")


def common(one: bytes, other: bytes) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


def line_of(request: Mapping[str, Any]) -> bytes:
    return orjson.dumps(request.get("tools") or []) + orjson.dumps(request["messages"])[1:-1]


# The session


@dataclass(frozen=True, slots=True)
class Request:
    """What the client sends, and how the brain answers."""

    new: list[dict[str, Any]]
    turns: list[Turn]
    images: int = 0


def session(screenshots: int, chance: random.Random) -> Iterator[Request]:
    calling = turn("I begin.", Calls("navigate", '{"path":"https://shop.example/"}'))
    yield Request([user("Find the cheapest red kettle and order it. " + prose(chance, 60))], [calling])
    for step in range(1, screenshots + 1):
        taking = turn(Calls("screenshot", "{}"))
        yield Request([tool_result(calling.calls[0].id, page(chance))], [taking])
        hidden = []
        if chance.random() < LOOKED_AT:
            hidden.append(turn(prose(chance, 12), looks(step, prose(chance, 15))))
        if step > 1 and chance.random() < ASKED_AGAIN:
            older = chance.randint(1, step - 1)
            hidden.append(turn(recalls(older)) if chance.random() < 0.5 else turn(looks(older, prose(chance, 15))))
        arguments = orjson.dumps({"path": prose(chance, 6)}).decode()
        calling = turn(prose(chance, 20), Calls(chance.choice(["click", "type_text", "wait_for"]), arguments))
        picture = shown(card(step, kind="screen", size=(512, 320)).png())
        yield Request([tool_result(taking.calls[0].id, [picture])], [*hidden, calling], 1)
    yield Request([tool_result(calling.calls[0].id, page(chance))], [turn("Ordered. " + prose(chance, 60))])


def prose(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=words)).capitalize() + "."


def page(chance: random.Random) -> str:
    """What a tool says of a page: its tree of elements, as browser tools do."""
    return "\n".join(f"- {prose(chance, 4)} [ref=e{chance.randint(1, 999)}]" for _ in range(chance.randint(8, 30)))


# The three ways


async def replayed(requests: Sequence[Request], *, ledger: bool) -> tuple[Counted, list[tuple[Any, Told]]]:
    """Through the application; with the client's own history of each request."""
    counted = Counted("chiasm" if ledger else "no ledger")
    store = MemoryStore(max_bytes=2**30)
    limits = {"max_loaded": 30, "keep_loaded": 20}
    chance = random.Random(2)
    eyes = [prose(chance, 90) for _ in range(20)]
    site = await Inside(store, images=limits, looked=lambda number: f"{number}: {eyes[number % 20]}").__aenter__()
    talk = Talk(site, habits=Habits(), system=SYSTEM, tools=TOOLS)
    seen: list[tuple[Any, Told]] = []
    gone: set[int] = set()
    for request in requests:
        if not ledger:
            await site.__aexit__(None, None, None)
            for kind in ("turn/", "near/", "shown/"):
                async for key in store.keys(kind):
                    await store.delete(key)
            site = await Inside(store, images=limits, looked=site.looked).__aenter__()
            talk.site = site
            talk.lost()
        told = await talk.ask(*request.new, *request.turns)
        seen.append((talk.history[:-1], told))
        now = {number for number, status in told.at_first.statuses.items() if status == "forgotten"}
        forgot = bool(now - gone)
        counted.forgettings += forgot
        gone = now
        for number, prompt in enumerate(told.prompts):
            counted.sent.append(Sent(line_of(prompt), forgot and not number))
    await site.__aexit__(None, None, None)
    return counted, seen


_CCR_WORDS = "This is an image, if you need to view or analyze it, you need to extract the imageId"


def as_ccr(seen: Sequence[tuple[Any, Told]]) -> Counted:
    """claude-code-router's rule: in each request the images are counted anew and replaced by a sentence (in a tool's
    result, by that sentence alone), the system text gets an addition, and follow-up turns are forgotten afterwards."""
    counted = Counted("ccr (simulated)")
    addition = (
        "You are a text-only language model and do not possess visual perception. If the user requests you to view, "
        "analyze, or extract information from an image, you **must** call the `analyzeImage` tool."
    )
    tool = function("analyzeImage")
    for history, told in seen:
        number = 0
        messages: list[Any] = []
        for message in history:
            if brought := pictures_of(message):
                number += len(brought)
                words = f"[Image #{number}]{_CCR_WORDS}"
                message = {**message, "content": words}
            messages.append(message)
        messages[0] = {**messages[0], "content": f"{messages[0]['content']}\n{addition}"}
        tools = [tool, *TOOLS] if number else list(TOOLS)
        last = told.prompts[-1]["messages"]
        for prompt in told.prompts:
            hidden = last[len(told.prompts[0]["messages"]) : len(prompt["messages"])]
            counted.sent.append(Sent(line_of({"tools": tools, "messages": [*messages, *hidden]})))
    return counted


async def main() -> int:
    arguments = argparse.ArgumentParser(description="The share of each prompt that a prefix cache can use again.")
    arguments.add_argument("--screenshots", type=int, default=110)
    screenshots = arguments.parse_args().screenshots
    requests = list(session(screenshots, random.Random(1)))
    with_ledger, seen = await replayed(requests, ledger=True)
    without, _ = await replayed(requests, ledger=False)
    prompts = len(with_ledger.sent)
    print(f"{len(requests)} requests, {prompts} prompts, {screenshots} screenshots; ", end="")
    print(f"the last prompt has {len(with_ledger.sent[-1].prompt) / 1000:.0f} kB\n")
    print("| | reusable | outside forgettings | past rewritten otherwise | computed anew | looks at the end |")
    print("|---|---|---|---|---|---|")
    for one in (with_ledger, without, as_ccr(seen)):
        shares = f"{one.share(forgettings=True):.2%} | {one.share(forgettings=False):.2%}"
        print(f"| {one.name} | {shares} | {one.rewritten()} prompts | {one.anew() / 1e6:.1f} MB | {one.looks()} |")
    print("\nWhere tools are offered with the first image only, as by default, that prompt has a new head.")
    rate = 10 * with_ledger.forgettings / screenshots
    share = with_ledger.share(forgettings=False)
    print(f"\nforgettings: {with_ledger.forgettings}, {rate:.2f} for 10 new images")
    print(f"goal: at least {GOAL_SHARE:.0%} reusable outside forgettings: {_verdict(share >= GOAL_SHARE)}")
    print(f"goal: at most {GOAL_FORGETTINGS:g} forgetting for 10 new images: {_verdict(rate <= GOAL_FORGETTINGS)}")
    print("\n'ccr (simulated)' is a simulation of claude-code-router's rule, not that program.  It forgets every look")
    print("after its request, which costs little of the prefix and all that was seen: so its prompts are short.")
    return 0


def _verdict(reached: bool) -> str:
    return "reached" if reached else "MISSED"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
