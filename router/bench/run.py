"""The flow of `chiasm bench`."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import httpx
from rich.console import Console

from router.bench import images, needle
from router.bench.chiasm import DidNotStart, first_key, some_chiasm
from router.bench.load import Patience, Target, ask, ask_courteously, run_wave
from router.bench.outputs import Outputs
from router.bench.plan import (
    IMAGE_ANSWER_TOKENS,
    IMAGE_BEHIND_TOKENS,
    NEEDLE_ANSWER_TOKENS,
    Plan,
    Side,
    Wave,
    tools_tokens,
    worst_prompt,
)
from router.bench.prompts import Composer, Prompt
from router.bench.purse import Purse, Spent
from router.bench.report import Report, Screen
from router.bench.result import Result
from router.bench.tokens import Tokenizer
from router.config import Flags, Loaded, Settings, TextSettings
from router.doctor.card import code_word, small
from router.http_client import BROKEN, http_client

GOOD: Final = 0
FAILED: Final = 1

_LIST_SECONDS: Final = 10.0

_CACHED_SHARE: Final = 0.1
"""Of a prompt; a chat template's head is less."""

_LAG_SHARE: Final = 0.1
"""Of a first token's time, by which the client may be late."""

_NO_PAGE: tuple[type[Exception], ...] = (*BROKEN, TimeoutError, ValueError, KeyError, IndexError, TypeError)


class CannotMeasure(Exception):
    """`str(error)` says why, in one line."""


def bench(loaded: Loaded, flags: Flags, plan: Plan, *, brain: str | None, outputs: Outputs) -> int:
    """Measure and report; the exit code.

    `flags`: those that `loaded` was made with.  `brain`: a name in the configuration; `None`: the first.  On SIGINT,
    SIGTERM and SIGHUP what was measured so far is reported.  Raises `CannotMeasure` for what is known at once, and
    `OSError` where a file cannot be written.
    """
    text = choose(loaded.settings, brain)
    err = Console(stderr=True, highlight=False, markup=False, emoji=False)
    report = Screen(Console(highlight=False, emoji=False), err, tables=outputs.to_screen)
    result = Result(plan)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            stopped_by = runner.run(_until_stopped(_measure(loaded, flags, text, report, result), result))
    except KeyboardInterrupt:  # where a loop takes no signal handlers
        stopped_by, result.stopped = signal.SIGINT, "interrupted"
    report.closing(result)
    outputs.write(result)
    if stopped_by is not None:
        return 128 + stopped_by
    return GOOD if result.good else FAILED


def choose(settings: Settings, name: str | None) -> TextSettings:
    """The brain of this name; the first of all.  Raises `CannotMeasure`."""
    if name is None:
        return settings.text[0]
    for text in settings.text:
        if name in (text.name, text.model):
            return text
    there = ", ".join(text.name or text.base_url for text in settings.text)
    raise CannotMeasure(f"--brain: there is no {name!r}; there are {there}")


async def _until_stopped(work: Coroutine[Any, Any, None], result: Result) -> signal.Signals | None:
    """Run `work` until it is done, or until a signal comes; which one."""
    task = asyncio.create_task(work)
    came: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        # The second and third Ctrl-C of somebody in a hurry must not keep our Chiasm from being ended.
        if not came:
            came.append(number)
            task.cancel()

    with _handled(stop):
        try:
            await task
        except asyncio.CancelledError:
            if not came:
                raise
            result.stopped = "interrupted"
        except CannotMeasure as reason:
            result.failed = str(reason)
    return came[0] if came else None


@contextmanager
def _handled(stop: Callable[[signal.Signals], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    # A terminal that is closed must not leave our Chiasm behind.
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    with suppress(NotImplementedError):  # Windows: then Ctrl-C is a KeyboardInterrupt
        for number in numbers:
            loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        with suppress(NotImplementedError):
            for number in numbers:
                loop.remove_signal_handler(number)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


async def _measure(loaded: Loaded, flags: Flags, text: TextSettings, report: Report, result: Result) -> None:
    settings = loaded.settings
    try:
        async with asyncio.timeout(result.plan.seconds), http_client() as client:
            alone = await _brain(settings, text, client)
            result.brain, result.brain_url = alone.model, text.base_url
            async with _targets(loaded, flags, text, alone, result, client) as targets:
                await Run(client, targets, settings, text, report, result).all()
    except TimeoutError:
        result.stopped = "seconds"
    except Spent:
        result.stopped = "bounds"
    except DidNotStart as reason:
        raise CannotMeasure(str(reason)) from None


async def _brain(settings: Settings, text: TextSettings, client: httpx.AsyncClient) -> Target:
    target = Target(
        "alone",
        text.base_url,
        text.model or text.name or "",
        text.api_key.get_secret_value(),
        Patience(first_event=text.first_byte_seconds, silence=text.idle_seconds),
        _secrets(settings),
    )
    if not target.model:
        target.model = await _first_listed(client, target)
    return target


async def _first_listed(client: httpx.AsyncClient, target: Target) -> str:
    try:
        async with asyncio.timeout(_LIST_SECONDS):
            answer = await client.get(f"{target.base_url}/models", headers=target.headers)
            rows = answer.json()["data"] if answer.status_code == 200 else []
            return str(rows[0]["id"])
    except _NO_PAGE:
        raise CannotMeasure(
            f"{target.base_url} lists no model: is the brain there? `chiasm doctor` says more, --text-model names one"
        ) from None


@asynccontextmanager
async def _targets(
    loaded: Loaded, flags: Flags, text: TextSettings, alone: Target, result: Result, client: httpx.AsyncClient
) -> AsyncIterator[Mapping[Side, Target]]:
    settings = loaded.settings
    if "behind" not in result.plan.sides:
        yield {"alone": alone}
        return
    name = text.name or alone.model
    async with some_chiasm(settings, loaded.source, flags, name, client) as (url, where):
        result.chiasm = where
        behind = Target("behind", url, name, first_key(settings), alone.patience, _secrets(settings))
        yield {"alone": alone, "behind": behind}


def _secrets(settings: Settings) -> tuple[str, ...]:
    keys = [one.api_key for one in (*settings.text, *settings.vision)]
    return tuple(key.get_secret_value() for key in (*keys, *settings.server.api_keys, settings.server.admin_key))


class Run:
    """One run against targets that are there.  `client` is lent."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        targets: Mapping[Side, Target],
        settings: Settings,
        text: TextSettings,
        report: Report,
        result: Result,
    ) -> None:
        self._client = client
        self._targets = targets
        self._report = report
        self._result = result
        self._plan = result.plan
        self._chance = random.SystemRandom()
        self._tools = settings.images.offer_tools == "always" and text.images == "tool"
        self._kept: str | None = None
        """The prompt that is sent every time, with `cached`."""

    async def all(self) -> None:
        """Raises `Spent`; `CannotMeasure` where a side does not answer at all."""
        plan, result = self._plan, self._result
        alone = self._targets["alone"]
        tokenizer = Tokenizer(self._client, base_url=alone.base_url, model=alone.model, headers=alone.headers)
        self._composer = Composer(await tokenizer.counter(), self._chance)
        result.exact = self._composer.counts
        result.bounds = plan.bounds(exact=result.exact, tools=self._tools)
        self._purse = result.purse = Purse(result.bounds)
        self._report.opening(result)
        for side in plan.sides:
            await self._warm_up(self._targets[side])
        for wave in plan.waves():
            await self._wave(wave)
        for depth, side in plan.needles():
            await self._needle(depth, side)
        for _ in range(plan.images):
            await self._image()

    async def _warm_up(self, target: Target) -> None:
        prompt = await self._composer.prompt(self._plan.prompt_tokens)
        worst = self._worst(target.side, self._plan.prompt_tokens, self._plan.warm_up_tokens)
        answer = await ask_courteously(self._client, target, prompt.text, self._plan.warm_up_tokens, self._purse, worst)
        if answer.why or not answer.arrivals:
            side = "the brain" if target.side == "alone" else "Chiasm"
            raise CannotMeasure(f"{side} at {target.base_url}: {answer.why or 'no words came'}")
        # Behind Chiasm the prompt may hold more than we wrote.
        if target.side == "alone" or "alone" not in self._plan.sides:
            told = answer.count("prompt_tokens")
            if not self._composer.learn(prompt, told):
                self._result.note(f"a prompt of {prompt.tokens} tokens counts {told} in usage: does the server cut it?")
        if not answer.count("completion_tokens"):
            self._result.note(f"{target.side}: no usage in the stream, so there are no rates, only times")
        if target.left_out:
            self._result.note(f"{target.side}: refuses {', '.join(sorted(target.left_out))}, asked without")
        self._report.step()

    async def _wave(self, wave: Wave) -> None:
        target = self._targets[wave.side]
        prompts = [await self._sweep_prompt() for _ in range(wave.streams)]
        worst = self._worst(wave.side, self._plan.prompt_tokens, self._plan.max_tokens)
        self._report.doing(f"{wave.streams} at once, {wave.side}, round {wave.round + 1}")
        measured = await run_wave(self._client, target, wave, prompts, self._plan.max_tokens, self._purse, worst)
        self._result.waves.append(measured)
        for stream in measured.answers:
            share = (stream.cached_tokens or 0) / max(1, stream.prompt_tokens)
            if share > _CACHED_SHARE and not self._plan.cached:
                self._result.note(f"{wave.side}: {share:.0%} of a prompt came from the prefix cache")
        firsts = [stream.first for stream in measured.answers]
        if firsts and measured.lag > max(0.005, _LAG_SHARE * min(firsts)):
            self._result.note("this client was late itself (`client_lag_ms` in the JSON): its machine is too busy")
        self._report.step(wave.streams)

    async def _sweep_prompt(self) -> str:
        if self._plan.cached and self._kept is not None:
            return self._kept
        prompt = await self._composer.prompt(self._plan.prompt_tokens)
        self._check(prompt, self._plan.prompt_tokens)
        self._kept = prompt.text
        return prompt.text

    def _check(self, prompt: Prompt, wanted: int) -> None:
        if self._result.exact and not prompt.exact:
            self._result.note(f"a prompt of {wanted} tokens could not be made, the nearest has {prompt.tokens}")

    async def _needle(self, depth: float, side: Side) -> None:
        wanted, word = self._plan.needle_tokens, code_word(self._chance)
        self._report.doing(f"needle at {depth:.0%}, {side}")
        prompt = await self._composer.prompt(wanted, needle.QUESTION, planted=needle.fact(word), depth=depth)
        self._check(prompt, wanted)
        target = self._targets[side]
        messages = [{"role": "user", "content": prompt.text}]
        request = target.request(messages, NEEDLE_ANSWER_TOKENS, to_the_end=False)
        worst = self._worst(side, wanted, NEEDLE_ANSWER_TOKENS)
        answer = await ask(self._client, target, request, self._purse, worst)
        self._result.needles.append(needle.judged(answer, word, side=side, depth=depth, wanted=prompt.tokens))
        self._report.step()

    async def _image(self) -> None:
        self._report.doing("image turn")
        card, target = small(self._chance), self._targets["behind"]
        request = target.request(images.asking(card), IMAGE_ANSWER_TOKENS, to_the_end=False)
        worst = IMAGE_ANSWER_TOKENS + IMAGE_BEHIND_TOKENS
        headers = images.conversation()
        answer = await ask(self._client, target, request, self._purse, worst, headers=headers)
        self._result.images.append(images.judged(answer, card))
        self._report.step()

    def _worst(self, side: Side, prompt: int, answer: int) -> int:
        return worst_prompt(prompt, exact=self._result.exact) + answer + tools_tokens(side, tools=self._tools)
