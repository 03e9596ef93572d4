"""The wire formats as tests speak them, at both ends: referees, and not mirrors, of `router.protocol`.

Tests are written in the words of Chat Completions.  A *speaker* says them in one wire format: it makes a client's
request of them, reads the answer as strictly as the contract is, tells what a scripted brain was asked and writes what
that says.  Each is written from the format's own specification and takes nothing from the router.

A test file is run in every format by

    pytestmark = [..., pytest.mark.usefixtures("speaker")]

(`tests/conftest.py`); what holds for some formats only says so by `@pytest.mark.formats("chat")`.
"""

from __future__ import annotations

from typing import Final

from tests.speakers.chat import Chat
from tests.speakers.messages import Messages
from tests.speakers.responses import Responses
from tests.speakers.speaker import Speaker

CHAT: Final = Chat()
SPEAKERS: Final[dict[str, Speaker]] = {speaker.name: speaker for speaker in (CHAT, Messages(), Responses())}

_now: Speaker = CHAT


def speaking() -> Speaker:
    """Whom the running test has speak."""
    return _now


def speak(name: str) -> Speaker:
    """From now on."""
    global _now
    _now = SPEAKERS[name]
    return _now


def speaker_at(path: str) -> Speaker:
    """Chat where nobody else is at home."""
    return next((one for one in SPEAKERS.values() if path.partition("?")[0] == one.path), CHAT)
