"""What the image table should know before it is shown, found out while nobody waits for it.

*   A few words on images that nobody has looked at, from the moment on at which a forgetting comes near: the brain
    reads them in the table instead of an image that it has never seen.
*   The likeness of screenshots, so that of those that show the same the older go first.

One thing at a time; a look only while no other is under way (`tools.vision.courteous`), and it gives way at once.
What does not fit into the queue, or is lost with the process, is simply not known: nothing depends on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial

from cache.likeness import likeness_of
from cache.pixels.pool import Pixels
from cache.table import UNLIKE
from router.intake.images import ConversationImages
from tools.vision.backend import VisionError, VisionImage, VisionQuery
from tools.vision.courteous import Courteous

log = logging.getLogger("chiasm.afterwards")

TASK = "Say in at most twelve words what this image shows. No introduction."

MOST_WAITING = 200
"""Errands of all conversations together; more come in than are done, so the oldest are dropped."""

_ATTEMPTS = 3
"""Looks at one image that had to give way before it is left alone."""

Errand = Callable[[], Awaitable[None]]


class Afterwards:
    """`near`: as many loaded images announce a forgetting.  `pixels`: who decodes them."""

    def __init__(self, *, near: int, pixels: Pixels) -> None:
        self._near = near
        self._pixels = pixels
        self._errands: deque[tuple[str, Errand]] = deque(maxlen=MOST_WAITING)
        self._waiting: set[str] = set()
        self._runner: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chiasm-likeness")

    @property
    def busy(self) -> bool:
        return self._runner is not None and not self._runner.done()

    async def close(self) -> None:
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def consider(self, images: ConversationImages, eyes: Courteous | None) -> None:
        """Whatever this conversation's table lacks is put on the list."""
        loaded = images.table.loaded
        if len(loaded) < self._near:
            return
        for number, image in loaded.items():
            if image.tool and not image.likeness:
                self._put(f"like {images.where}/{number}", partial(self._liken, images, number))
            if eyes is not None and not image.described:
                self._put(f"look {images.where}/{number}", partial(self._describe, images, number, eyes))

    def _put(self, name: str, errand: Errand) -> None:
        if name in self._waiting:
            return
        if len(self._errands) == MOST_WAITING:
            self._waiting.discard(self._errands[0][0])
        self._errands.append((name, errand))
        self._waiting.add(name)
        if not self.busy:
            # Of no request: it goes on with the errands of others.
            self._runner = asyncio.create_task(self._run(), context=Context())

    async def _run(self) -> None:
        while self._errands:
            name, errand = self._errands.popleft()
            try:
                await errand()
            except Exception:
                log.exception("something about an image could not be found out")
            self._waiting.discard(name)

    async def _liken(self, images: ConversationImages, number: int) -> None:
        data = await images.data(number)
        found = ""
        if data is not None:
            find = partial(likeness_of, self._pixels, data, tenant=images.tenant)
            found = await asyncio.get_running_loop().run_in_executor(self._thread, find)
        await images.noted(number, likeness=found or UNLIKE)

    async def _describe(self, images: ConversationImages, number: int, eyes: Courteous) -> None:
        row = (await images.records([number])).get(number)
        if row is None or row.problem or row.description:
            await images.noted(number, description="")
            return
        data = await images.data(number)
        if data is None:
            return
        query = VisionQuery((VisionImage(number, data),), TASK, "")
        for _ in range(_ATTEMPTS):
            try:
                answer = await eyes.look_behind(query)
            except VisionError as error:
                log.info("an image could not be described: %s", str(error).partition(":")[0])
                return
            if answer is not None:
                await images.noted(number, description=answer.text)
                return
