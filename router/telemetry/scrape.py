"""`GET /metrics`, and the numbers that are read when somebody asks rather than counted when something happens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Any

from cache.store import Store, StoreError
from cache.usage import bytes_held
from router.brain import Brain
from router.config import Settings
from router.door import Caller
from router.response import Receive, Send, send_json
from router.telemetry.metrics import Metrics, model_label
from tools.vision.backend import VisionBackend
from tools.vision.courteous import Courteous

log = logging.getLogger("chiasm.metrics")

SIZED_SECONDS = 60.0
"""Between two looks at how much the store holds: on disk every file is asked."""

_SHARED_SECONDS = 2.0
"""So old may be what another worker says of its queue."""


class Gauges:
    """How things are in this process.  Where others answer for it, it says so by itself now and then."""

    def __init__(
        self,
        metrics: Metrics,
        brains: Sequence[Brain],
        eyes: Sequence[VisionBackend],
        settings: Settings,
        answering: Collection[Any],
        store: Store,
    ) -> None:
        self.metrics = metrics
        self._brains = brains
        self._eyes = list(zip(eyes, (one.max_concurrency for one in settings.vision), strict=True))
        self._answering = answering
        self._store = store
        self._sized_until = 0.0
        self._sizing: asyncio.Task[None] | None = None
        self._telling = asyncio.create_task(self._tell()) if metrics.shared else None
        self.read()

    def read(self) -> None:
        self.metrics.running(len(self._answering))
        for one, most in self._eyes:
            looking = one.looking if isinstance(one, Courteous) else 0
            self.metrics.eyes(one.name, looking, max(0, looking - most))
        for brain in self._brains:
            self.metrics.breaker(model_label(brain.settings.name), brain.upstream.breaker.state)

    async def size(self) -> None:
        """How much the store holds, remembered for `SIZED_SECONDS`."""
        if self._sizing is None or (self._sizing.done() and asyncio.get_running_loop().time() >= self._sized_until):
            self._sizing = asyncio.create_task(self._size())
        await asyncio.shield(self._sizing)

    async def close(self) -> None:
        tasks = [task for task in (self._telling, self._sizing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _size(self) -> None:
        try:
            held = await bytes_held(self._store)
        except StoreError as error:
            log.warning("the size of the store is not known: %s", error)
            held = None
        if held is not None:
            self.metrics.stored(held)
        self._sized_until = asyncio.get_running_loop().time() + SIZED_SECONDS

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_SHARED_SECONDS)
            self.read()


async def metrics(caller: Caller, scope: Any, receive: Receive, send: Send) -> None:
    """`GET /metrics`, in Prometheus's text format or as OpenMetrics."""
    gauges = scope["state"]["gauges"]
    assert isinstance(gauges, Gauges)
    gauges.read()
    await gauges.size()
    data, media_type = await gauges.metrics.exposed(caller.headers.get("accept", ""))
    await send_json(send, 200, data, {"content-type": media_type, "x-request-id": caller.request_id})
