"""A circuit breaker: a server that is down is not asked again and again, and says so at once."""

from __future__ import annotations

from collections.abc import Callable

FAILURES = 5
"""In a row; fewer happen to a healthy server that restarts."""

OPEN_SECONDS = 5.0
"""Unless said otherwise.  Short, because a restarted server should not wait for us; long enough to spare a struggling
one a storm."""


class Breaker:
    """Closed (all may ask), open (nobody may), half open (one may, and decides).  Not asking anything itself, it never
    waits."""

    def __init__(self, clock: Callable[[], float], *, open_seconds: float = OPEN_SECONDS) -> None:
        """`clock`: seconds that never go back.  `open_seconds`: how long nobody may ask."""
        self._clock = clock
        self._open_seconds = open_seconds
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False

    def __repr__(self) -> str:
        return f"<Breaker {self.state}, {self._failures} failures>"

    @property
    def state(self) -> str:
        if self._opened_at is None:
            return "closed"
        return "open" if self._left() > 0 else "half open"

    @property
    def on_the_brink(self) -> bool:
        """Whether one failure more opens it."""
        return self._failures >= FAILURES - 1

    def wait(self) -> float | None:
        """`None`: ask now, and report `succeeded`, `failed` or `given_up`.  Else the seconds until it may be tried."""
        if self._opened_at is None:
            return None
        left = self._left()
        if left <= 0 and not self._probing:
            self._probing = True
            return None
        return max(left, 1.0)

    def succeeded(self) -> None:
        self._failures = 0
        self._opened_at = None
        self._probing = False

    def failed(self) -> None:
        self._failures += 1
        self._probing = False
        if self._failures >= FAILURES:
            self._opened_at = self._clock()

    def given_up(self) -> None:
        """Whoever asked left before there was an answer: nothing was learnt."""
        self._probing = False

    def _left(self) -> float:
        return 0.0 if self._opened_at is None else self._opened_at + self._open_seconds - self._clock()
