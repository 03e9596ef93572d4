"""How many bytes of request bodies there may be at once, over all requests.

Each body is limited by itself, but a hundred within that limit would still fill the memory.  A body counts while its
buffer lives, and at the latest until its request is over; one tenant may have half of all, so that it cannot keep the
others out.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter

from router.errors import TooManyBodies

MOST_BYTES = 512 * 2**20
"""Four bodies of the largest size that is allowed by default.  While a body is looked through, as much again is needed
for a moment for the pictures in it."""

RETRY_SECONDS = 1.0
"""A body is let go of as soon as its pictures are in the store."""


class Body(bytearray):
    """A buffer that others can notice to be gone."""


class Bodies:
    """All bodies of the process.  `largest`: one of this size always has room, if there is no other."""

    def __init__(self, *, largest: int, tenants: int = 1, most: int = MOST_BYTES) -> None:
        self._most = max(most, largest)
        self._each = max(self._most // 2, largest) if tenants > 1 else self._most
        self._held: Counter[str] = Counter()
        self._lock = threading.RLock()  # the last to hold a buffer may be a thread that looked at a picture

    @property
    def held(self) -> int:
        """Bytes of all bodies that are here."""
        return self._held.total()

    def begin(self, tenant: str) -> Share:
        """For one request."""
        return Share(self, tenant)

    def take(self, share: Share, size: int) -> None:
        """Raises `TooManyBodies` where there is no room."""
        with self._lock:
            if self.held + size > self._most or self._held[share.tenant] + size > self._each:
                raise TooManyBodies("too many request bodies at once; try again soon", retry_after=RETRY_SECONDS)
            self._held[share.tenant] += size
            share.size += size

    def give_back(self, share: Share) -> None:
        with self._lock:
            self._held[share.tenant] -= share.size
            share.size = 0
            if not self._held[share.tenant]:
                del self._held[share.tenant]


class Share:
    """What one request's body takes of it."""

    def __init__(self, bodies: Bodies, tenant: str) -> None:
        self._bodies = bodies
        self.tenant = tenant
        self.size = 0

    def take(self, size: int) -> None:
        """Raises `TooManyBodies`."""
        self._bodies.take(self, size)

    def until_gone(self, body: Body) -> None:
        """It is whole: it counts as long as anybody holds it."""
        weakref.finalize(body, self.give_back).atexit = False

    def give_back(self) -> None:
        """Once is enough, twice is fine."""
        self._bodies.give_back(self)
