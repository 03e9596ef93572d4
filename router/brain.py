"""A model that clients can ask for: its server, its facts, its eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.config import TextSettings
from router.errors import UnknownModel
from router.protocol.profiles import Profile
from router.upstream import Upstream
from tools.vision.backend import VisionBackend


@dataclass(frozen=True, slots=True)
class Brain:
    settings: TextSettings
    upstream: Upstream
    profile: Profile
    eyes: VisionBackend | None
    """`None` only where `images` is `off`."""

    async def name(self) -> str:
        """The id that clients ask for: as configured, else the one that the server gives its model.

        Raises `UpstreamError` where that must be asked and cannot be.
        """
        return self.settings.name or await self.upstream.model()


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
