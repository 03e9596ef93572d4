"""Whether the process is alive, and whether what it works with is there.

`/readyz` is open to everybody, so it must cost little and tell little: however often it is asked, brain, eyes and store
are asked once in `FRESH_SECONDS`, by one at a time; and the answer holds our own words alone, while what a server said
goes to the log, once whenever it changes.

*   *not ready* (503): a brain or its eyes cannot be used;
*   *degraded* (503, too, because not all is usable): the store cannot be used.  Answers go on: what it would remember
    is looked at and sent again.  Who puts several routers on one store behind a balancer may want to let this one pass;
*   *ready* (200);
*   *draining* (503): the process was told to end.  Nobody else is asked about anything then.

`/healthz` asks nobody.  It fails only while the event loop stands still for so long (`MOST_LAG_SECONDS`) that a new
process would serve better.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal

import orjson

from cache.store import Store, StoreError
from router.brain import Brain
from router.door import Caller
from router.errors import UpstreamError, UpstreamRefused
from router.response import Receive, Send, send_json
from router.upstream import UNREACHED

log = logging.getLogger("chiasm.health")

PROBE_SECONDS = 5.0
FRESH_SECONDS = 2.0

WATCHED_SECONDS = 60.0
"""Who asks `/readyz` more rarely than this does not go by it."""

MOST_LAG_SECONDS = 5.0
_BEAT_SECONDS = 1.0

State = Literal["ok", "unreachable", "refuses the key", "broken", "no answer", "left alone", "not usable"]
"""How one of them is.  "left alone": it was out of reach several times in a row, and the circuit breaker is open."""

_Checked = tuple[State, str]
"""And what was said about it, for the log."""

_OK: _Checked = ("ok", "")


class Readiness:
    """Asks, and remembers for a moment."""

    def __init__(self, brains: Sequence[Brain], store: Store) -> None:
        self._brains = brains
        self._checks: dict[str, Callable[[], Awaitable[_Checked]]] = {"store": partial(_store, store)}
        for number, brain in enumerate(brains, 1):
            self._checks[_label(brain, number)] = partial(_brain, brain)
            if brain.eyes is not None:
                self._checks[f"vision {brain.eyes.name}"] = partial(_eyes, brain.eyes.ready)
        self._probe: asyncio.Task[dict[str, State]] | None = None
        self._fresh_until = 0.0
        self._logged: dict[str, str] = {}
        self._asked_at = -math.inf
        self.draining = False
        """Set once the process was told to end."""

    def is_watched(self) -> bool:
        """Whether somebody goes by what this says."""
        return asyncio.get_running_loop().time() - self._asked_at < WATCHED_SECONDS

    async def now(self) -> tuple[int, dict[str, Any]]:
        """The status, and the answer's body."""
        self._asked_at = asyncio.get_running_loop().time()
        if self.draining:
            return 503, {"status": "draining", "checks": {}, "breakers": {}, "notes": []}
        states = await self._states()
        sick = {label for label, state in states.items() if state != "ok"}
        status = "ready" if not sick else "degraded" if sick == {"store"} else "not ready"
        answer = {
            "status": status,
            "checks": states,
            "breakers": {_label(brain, n): brain.upstream.breaker.state for n, brain in enumerate(self._brains, 1)},
            "notes": [
                f"the server of {_label(brain, n)} does not list the model that is configured"
                for n, brain in enumerate(self._brains, 1)
                if brain.doubt() is not None
            ],
        }
        return 200 if status == "ready" else 503, answer

    async def _states(self) -> dict[str, State]:
        loop = asyncio.get_running_loop()
        if self._probe is None or (self._probe.done() and loop.time() >= self._fresh_until):
            self._probe = asyncio.create_task(self._ask())
        # Whoever asks may leave; the others wait for the same answer.
        return await asyncio.shield(self._probe)

    async def _ask(self) -> dict[str, State]:
        try:
            found = await asyncio.gather(*(_in_time(check) for check in self._checks.values()))
        finally:
            self._fresh_until = asyncio.get_running_loop().time() + FRESH_SECONDS
        states: dict[str, State] = {}
        for label, (state, words) in zip(self._checks, found, strict=True):
            states[label] = state
            told = f"{state}: {words}" if words else state
            if told != self._logged.get(label, "ok"):
                log.warning("%s is %s", label, told)
            self._logged[label] = told
        return states

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)


def _label(brain: Brain, number: int) -> str:
    return f"text {brain.settings.name or f'#{number}'}"


async def _in_time(check: Callable[[], Awaitable[_Checked]]) -> _Checked:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await check()
    except TimeoutError:
        return "no answer", f"nothing in {PROBE_SECONDS:g} seconds"
    except Exception as error:
        log.exception("a check failed")
        return "broken", type(error).__name__


async def _brain(brain: Brain) -> _Checked:
    try:
        await brain.upstream.listing(fresh=True)
    except UpstreamError as error:
        if error.code in UNREACHED:
            return "unreachable", error.message
        if isinstance(error, UpstreamRefused) and error.status in (401, 403):
            return "refuses the key", error.message
        return "broken", brain.upstream.redacted(error).message
    return ("left alone", "") if brain.upstream.breaker.state == "open" else _OK


async def _eyes(ready: Callable[[], Awaitable[str | None]]) -> _Checked:
    problem = await ready()
    return _OK if problem is None else ("not usable", problem)


async def _store(store: Store) -> _Checked:
    try:
        await store.put("probe/ready", b"1", ttl=60)
        given = await store.get("probe/ready")
    except StoreError as error:
        return "not usable", str(error)
    return _OK if given == b"1" else ("not usable", "it does not give back what was put")


class Pulse:
    """How late the event loop is: a timer that notes when it should have come."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lag = 0.0
        self._due = self._loop.time()
        self._timer: asyncio.TimerHandle
        self._beat()

    @property
    def lag(self) -> float:
        """Seconds: of the last beat, or of the one that is overdue."""
        return max(self._lag, self._loop.time() - self._due)

    def stop(self) -> None:
        self._timer.cancel()

    def _beat(self) -> None:
        now = self._loop.time()
        self._lag = now - self._due
        self._due = now + _BEAT_SECONDS
        self._timer = self._loop.call_at(self._due, self._beat)


async def healthz(caller: Caller, scope: Any, receive: Receive, send: Send) -> None:
    """`GET /healthz`: the process is alive; asks nobody."""
    pulse = scope["state"]["pulse"]
    assert isinstance(pulse, Pulse)
    headers = {"x-request-id": caller.request_id}
    if pulse.lag < MOST_LAG_SECONDS:
        await send_json(send, 200, b'{"status":"ok"}', headers)
    else:
        log.error("the event loop stood still for %.1f s", pulse.lag)
        await send_json(send, 503, b'{"status":"stalled"}', headers)


async def readyz(caller: Caller, scope: Any, receive: Receive, send: Send) -> None:
    """`GET /readyz`: brain, eyes and store are usable."""
    readiness = scope["state"]["readiness"]
    assert isinstance(readiness, Readiness)
    status, answer = await readiness.now()
    headers = {"x-request-id": caller.request_id, "cache-control": "no-store"}
    await send_json(send, status, orjson.dumps(answer), headers)
