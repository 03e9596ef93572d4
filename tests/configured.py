"""A request with what a configuration adds to it."""

from __future__ import annotations

from typing import Any

from router.config import TextSettings
from router.endpoints import THINKING
from router.protocol.chat.request import with_settings as of_chat
from router.protocol.profiles import Profile


def with_settings(request: dict[str, Any], text: TextSettings, profile: Profile) -> dict[str, Any]:
    """A Chat Completions request, as `router.endpoints` completes it."""
    return of_chat(request, profile, thinking=THINKING[text.thinking], preset=text.sampling == "preset")
