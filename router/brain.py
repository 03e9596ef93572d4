"""A model that clients can ask for: its server, its facts, its eyes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from router.config import TextSettings
from router.errors import UnknownModel, UpstreamError
from router.protocol.profiles import PROFILES, Profile, recognise
from router.upstream import Upstream
from tools.vision.backend import VisionBackend

DETECTION_SECONDS = 2.0
"""What a first request may wait for the server to say what it is; the cautious profile works meanwhile."""


class Brain:
    def __init__(self, *, settings: TextSettings, upstream: Upstream, eyes: VisionBackend | None) -> None:
        """`eyes`: `None` only where `images` is `off`."""
        self.settings = settings
        self.upstream = upstream
        self.eyes = eyes
        self._profile: Profile | None = None if settings.engine == "auto" else PROFILES[settings.engine]

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
        """The facts to go by: as configured, else by what the server says of itself.  Never fails, never sends a
        picture or a prompt to find out."""
        if self._profile is not None:
            return self._profile
        engine = recognise(self.upstream.host, "", "")
        if engine == "auto":
            try:
                async with asyncio.timeout(DETECTION_SECONDS):
                    listing = await self.upstream.listing()
            except (UpstreamError, TimeoutError):
                return PROFILES["auto"]  # the request itself will tell what is wrong; the next one asks again
            engine = recognise(self.upstream.host, listing.owner, listing.server)
        self._profile = PROFILES[engine]
        return self._profile


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
