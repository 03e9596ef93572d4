"""All that a client gets to see of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.clients.roster import NODE_BINARY

NOWHERE: Final = "http://127.0.0.1:9"
"""A proxy that is none: whatever a client wants from the network besides the service, it does not get."""


def environment(home: Path, **more: str) -> dict[str, str]:
    return {
        "PATH": f"{NODE_BINARY.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "HTTP_PROXY": NOWHERE,
        "HTTPS_PROXY": NOWHERE,
        "NO_PROXY": "127.0.0.1,localhost",
        "DO_NOT_TRACK": "1",
        **more,
    }
