"""What a run may still cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from router.bench.plan import Bounds


class Spent(Exception):
    """The next request could go beyond the bounds."""


@dataclass(slots=True)
class Loan:
    """The worst case of one request, until it is known what it cost."""

    worst: int
    cost: int | None = None
    """`None`: nobody told; then the worst case counts."""


class Purse:
    """Requests side by side hold their worst cases at the same time, so that together they stay within the bounds."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.requests = 0
        self.tokens = 0
        """Spent."""
        self._lent = 0

    def has(self, requests: int, worst: int) -> bool:
        """Whether so many requests, `worst` tokens each, stay within the bounds."""
        left = self.bounds.tokens - self.tokens - self._lent
        return self.requests + requests <= self.bounds.requests and requests * worst <= left

    @contextmanager
    def lend(self, worst: int) -> Iterator[Loan]:
        """Raises `Spent` instead of lending what is not there."""
        if not self.has(1, worst):
            raise Spent
        self.requests += 1
        self._lent += worst
        loan = Loan(worst)
        try:
            yield loan
        finally:
            self._lent -= worst
            self.tokens += worst if loan.cost is None else loan.cost
