"""One exchange as those see it who run the service: numbers for `/metrics`, a line of the log, a trace.

The rooms say what happened by plain methods (`wrote`, `turn`, `ended`); what becomes of it is decided here.  Nothing of
what was said passes through: counts, times, names from the configuration, codes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from router.brain import Brain
from router.door import Caller
from router.errors import ChiasmError
from router.intake.conversation import key_of
from router.log_lines import Fields
from router.protocol.events import Action, Fail
from router.protocol.turn import Turn, count_of
from router.response import ClientGone
from router.telemetry.metrics import REASONS, Metrics, model_label, outcome_of
from router.telemetry.prefixes import Prefixes
from router.telemetry.spans import Span, Traces, Value
from tools.call import VisionUsage
from tools.watch import Ending

log = logging.getLogger("chiasm")

_CONVERSATION_DIGITS = 16
"""Of the hash that stands in the log for a conversation's name."""


class Watch:
    """Of one application."""

    def __init__(self, metrics: Metrics, traces: Traces) -> None:
        self.metrics = metrics
        self.traces = traces
        self.prefixes = Prefixes()

    def exchange(self, caller: Caller, form: str, brain: Brain, model: str, *, streams: bool) -> ExchangeWatch:
        """`form`: the wire format's name; `model`: the brain's, as the client knows it."""
        return ExchangeWatch(self, caller, form, brain, model, streams=streams)

    def look(self, eyes: str, images: int) -> _Look:
        return _Look(self, eyes, images)


class _Look:
    def __init__(self, watch: Watch, eyes: str, images: int) -> None:
        self._watch = watch
        self._eyes = eyes
        self._begun = time.monotonic()
        named: dict[str, Value] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": eyes,
            "chiasm.images": images,
        }
        self._span = watch.traces.span(f"look {eyes}", "client", named)

    def ended(self, outcome: Ending, usage: VisionUsage) -> None:
        metrics, span = self._watch.metrics, self._span
        metrics.look(self._eyes, outcome, time.monotonic() - self._begun)
        if usage.calls:
            metrics.tokens("eyes", self._eyes, usage.prompt_tokens, usage.completion_tokens)
            span.set(_usage(usage.prompt_tokens, usage.completion_tokens))
        span.set({"chiasm.look.outcome": outcome})
        if outcome in ("busy", "failed", "failed_retryable", "gone"):
            span.failed(outcome)
        span.end()


class ExchangeWatch:
    """A context manager; what leaves it as an exception is how the exchange ended."""

    def __init__(self, watch: Watch, caller: Caller, form: str, brain: Brain, model: str, *, streams: bool) -> None:
        self._watch = watch
        self._caller = caller
        self._form = form
        self._brain = brain
        self._model = model
        self._label = model_label(brain.settings.name)
        self._streams = streams
        self._begun = time.monotonic()
        self._first: float | None = None
        self._turn: _Turn | None = None
        self._prompts: list[Mapping[str, Any]] = []
        self._chunks = 0
        self._spent = [0, 0, 0]
        self.conversation = ""
        """Its name, once it is known."""
        self.reason = ""
        """The finish reason of a whole answer."""
        self.turns = 0
        self.looked = VisionUsage()
        self._span: Span
        self._current: AbstractContextManager[object]

    def wrote(self, chunks: int) -> None:
        """On the hot path: so many events leave for the client."""
        if not self._chunks:
            self._first = time.monotonic() - self._begun
        self._chunks += chunks

    def heard(self) -> None:
        """The first bytes of a turn."""
        if self._turn is not None:
            self._turn.heard()

    def turn(self, turn: Turn, request: Mapping[str, Any]) -> _Turn:
        self._prompts.append(request)
        self._turn = _Turn(self._watch, self._label, turn, self._spent)
        return self._turn

    def __enter__(self) -> Self:
        about: dict[str, Value] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": self._model,
            "gen_ai.request.stream": self._streams,
            "chiasm.format": self._form,
            "chiasm.request_id": self._caller.request_id,
        }
        traces = self._watch.traces
        self._span = traces.span("exchange", "server", about, self._caller.headers)
        self._current = traces.current(self._span)
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._current.__exit__(None, None, None)
        seconds = time.monotonic() - self._begun
        outcome = _outcome(error, self.reason)
        metrics, label = self._watch.metrics, self._label
        metrics.exchange(label, self._form, outcome, seconds, self._first)
        metrics.answered(label, self.turns, self._chunks)
        if self.conversation and self._prompts:
            named = f"{self._caller.tenant}/{self.conversation}"
            metrics.prompt(label, *self._watch.prefixes.compare(named, self._prompts))
        # A server's own code says more, and could be anything: it is for the log alone.
        line = self._line(error.code or error.type if isinstance(error, ChiasmError) else outcome, seconds)
        log.info("exchange %s", line)
        told = ("turns", "looks", "chunks", "conversation")
        self._span.set({f"chiasm.{name}": line[name] for name in told if name in line})
        self._span.set(_usage(*self._spent[:2]))
        if outcome not in REASONS:
            self._span.failed(outcome)
        else:
            self._span.set({"gen_ai.response.finish_reasons": [outcome]})
        self._span.end()

    def _line(self, outcome: str, seconds: float) -> Fields:
        read, said, cached = self._spent
        looked, metrics = self.looked, self._watch.metrics
        line = Fields(request_id=self._caller.request_id)
        if self.conversation:
            line["conversation"] = key_of(self.conversation)[:_CONVERSATION_DIGITS]
        line |= {
            "format": self._form,
            "model": self._model,
            "engine": self._brain.engine,
            "stream": str(self._streams).lower(),
            "turns": self.turns,
            "looks": looked.calls,
            "input_tokens": read,
            "output_tokens": said,
            "cached_tokens": cached,
            "vision_input_tokens": looked.prompt_tokens,
            "vision_output_tokens": looked.completion_tokens,
            "chunks": self._chunks,
            "outcome": outcome,
        }
        if self._first is not None:
            line["ms_first"] = round(self._first * 1000)
        line["ms"] = round(seconds * 1000)
        cost = metrics.price("brain", self._label).of(read, said)
        if self._brain.eyes is not None:
            eyes = metrics.price("eyes", self._brain.eyes.name)
            cost += eyes.of(looked.prompt_tokens, looked.completion_tokens)
        if cost:
            line["cost"] = round(cost, 6)
        return line


class _Turn(AbstractContextManager["_Turn"]):
    """One completion asked of the brain."""

    def __init__(self, watch: Watch, label: str, turn: Turn, spent: list[int]) -> None:
        self._watch = watch
        self._label = label
        self._turn = turn
        self._spent = spent
        self._begun = time.monotonic()
        self._first: float | None = None
        self._error = ""
        self._current: AbstractContextManager[object]

    def heard(self) -> None:
        if self._first is None:
            self._first = time.monotonic() - self._begun

    def ended(self, actions: Sequence[Action]) -> None:
        failed = next((action.error for action in actions if isinstance(action, Fail)), None)
        if failed is not None:
            self._error = outcome_of(failed)

    def __enter__(self) -> Self:
        traces = self._watch.traces
        about: dict[str, Value] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": self._label,
            "chiasm.turn": self._turn.number,
        }
        self._span = traces.span(f"chat {self._label}", "client", about)
        self._current = traces.current(self._span)
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._current.__exit__(None, None, None)
        turn, metrics, span = self._turn, self._watch.metrics, self._span
        failure = self._error if error is None else _outcome(error, "")
        metrics.turn(self._label, time.monotonic() - self._begun, self._first, failure)
        if turn.usage is not None:
            spent = turn.prompt_tokens(), turn.completion_tokens(), _cached(turn.usage.values)
            metrics.tokens("brain", self._label, *spent[:2])
            if spent[2]:
                metrics.cached(self._label, spent[2])
            self._spent[:] = [sum(pair) for pair in zip(self._spent, spent, strict=True)]
            span.set({**_usage(*spent[:2]), "gen_ai.usage.cache_read.input_tokens": spent[2]})
        if turn.finish is not None:
            span.set({"gen_ai.response.finish_reasons": [outcome_of(None, turn.finish)]})
        if failure:
            span.failed(failure)
        span.end()


def _usage(read: int, said: int) -> dict[str, int]:
    return {"gen_ai.usage.input_tokens": read, "gen_ai.usage.output_tokens": said}


def _cached(usage: Mapping[str, Any]) -> int:
    """Tokens of the prompt that came from the server's cache, in whichever format it says so."""
    for name in ("prompt_tokens_details", "input_tokens_details"):
        if isinstance(details := usage.get(name), Mapping) and (cached := count_of(details, "cached_tokens")):
            return cached
    return count_of(usage, "cache_read_input_tokens")


def _outcome(error: BaseException | None, reason: str) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    if isinstance(error, ClientGone):
        return "client_gone"
    return outcome_of(error, reason)
