"""A model that clients can ask for: its server, its facts, its eyes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from router.config import TextSettings
from router.errors import UnknownModel, UpstreamError
from router.protocol.profiles import PROFILES, Profile, recognise
from router.upstream import UNREACHED, Upstream
from tools.vision.backend import VisionBackend

DETECTION_SECONDS = 2.0
"""What a first request may wait for the server to say what it is; the cautious profile works meanwhile."""

AGAIN_SECONDS = 60.0
"""Until a server that had no list of models to show is asked for it again: each time costs a request some of its first
byte, and what it would tell is worth little more than caution."""


class Brain:
    def __init__(
        self,
        *,
        settings: TextSettings,
        upstream: Upstream,
        eyes: VisionBackend | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`eyes`: `None` only where `images` is `off` or `native`."""
        self.settings = settings
        self.upstream = upstream
        self.eyes = eyes
        self._engine = recognise(upstream.host, "", "") if settings.engine == "auto" else settings.engine
        """"auto" as long as nobody knows."""
        self._clock = clock
        self._ask_from = -math.inf
        """When the server may be asked for its list of models; never again once it has shown one."""

    @property
    def engine(self) -> str:
        """Its profile; `auto` as long as nobody knows."""
        return self._engine

    async def name(self) -> str:
        """The id that clients ask for: as configured, else the one that the server gives its model.

        Raises `UpstreamError` where that must be asked and cannot be.
        """
        return self.settings.name or await self.upstream.model()

    def doubt(self) -> str | None:
        """What looks like a wrong model id, as far as the server was asked; some servers know ids that they hide."""
        listing, model = self.upstream.listed, self.settings.model
        if listing is None or not listing.ids or model is None or model in listing.ids:
            return None
        return f"the server at {self.settings.base_url} lists {', '.join(map(repr, listing.ids[:5]))}, not {model!r}"

    async def profile(self) -> Profile:
        """The facts to go by: as configured, else by what the server says of itself, in its list of models or in its
        answers so far; without what it was found to refuse.  Never fails, never sends a picture or a prompt to find
        out."""
        if self._engine == "auto":
            listed = await self._listed_engine()
            self._engine = self.upstream.engine if listed == "auto" else listed
        return PROFILES[self._engine].without_thoughts_in(self.upstream.refused_thoughts)

    async def _listed_engine(self) -> str:
        if self._clock() < self._ask_from:
            return "auto"
        try:
            async with asyncio.timeout(DETECTION_SECONDS):
                listing = await self.upstream.listing()
        except (UpstreamError, TimeoutError) as error:
            # The request itself will tell what is wrong.  A server that is not there yet is asked by the next one.
            if getattr(error, "code", None) not in UNREACHED:
                self._ask_from = self._clock() + AGAIN_SECONDS
            return "auto"
        self._ask_from = math.inf if listing.ids else self._clock() + AGAIN_SECONDS
        return recognise(self.upstream.host, listing.owner, listing.server)


async def choose(brains: Sequence[Brain], model: str) -> Brain:
    """The brain that a request's `model` names; without one, the first.  Raises `UnknownModel`, `UpstreamError`."""
    if not model:
        return brains[0]
    names = [await brain.name() for brain in brains]
    for brain, name in zip(brains, names, strict=True):
        if name == model:
            return brain
    raise unknown_model(model, names)


def unknown_model(model: str, names: Sequence[str]) -> UnknownModel:
    """Names the models that there are."""
    there_are = f"there {'is' if len(names) == 1 else 'are'} {', '.join(repr(name) for name in names)}"
    return UnknownModel(f"there is no model {model[:100]!r}; {there_are}")
