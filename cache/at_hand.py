"""What the store did not take, in memory for a while: so much, so long, and what came first goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

SECONDS = 900.0
"""A brain may think for minutes before it looks at what came with the request; longer than this few answers take."""

MOST_BYTES = 128 * 2**20
"""For all requests together: six images of the largest size that is allowed by default, or a hundred screenshots."""


class AtHand:
    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds that never go back."""
        self._clock = clock
        self._bytes = 0
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        """And until when; in that order."""

    def __repr__(self) -> str:
        return f"<AtHand {len(self._values)} values, {self._bytes} bytes>"

    def put(self, key: str, data: bytes) -> None:
        self.pop(key)
        self._values[key] = (data, self._clock() + SECONDS)
        self._bytes += len(data)
        self._let_go()

    def get(self, key: str) -> bytes | None:
        self._let_go()
        found = self._values.get(key)
        return None if found is None else found[0]

    def pop(self, key: str) -> bool:
        """Says whether it was there."""
        found = self._values.pop(key, None)
        if found is None:
            return False
        self._bytes -= len(found[0])
        return True

    def _let_go(self) -> None:
        """Of what is too much, or has been here for too long."""
        now = self._clock()
        while self._values:
            key, (_, until) = next(iter(self._values.items()))
            if self._bytes <= MOST_BYTES and now < until:
                return
            self.pop(key)
