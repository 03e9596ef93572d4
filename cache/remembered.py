"""What a process remembers of a store: the values used last, as many as fit."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class Remembered(Generic[V]):
    """A dictionary of bounded cost that lets go of what was used longest ago.  `most` is in the unit of the costs given
    to `put` (bytes, say, or 1 each)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._cost = 0
        self._values: OrderedDict[str, tuple[V, int]] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> V | None:
        entry = self._values.get(key)
        if entry is None:
            return None
        self._values.move_to_end(key)
        return entry[0]

    def put(self, key: str, value: V, cost: int = 1) -> None:
        self.pop(key)
        self._values[key] = (value, cost)
        self._cost += cost
        while self._cost > self._most and len(self._values) > 1:
            _, (_, gone) = self._values.popitem(last=False)
            self._cost -= gone

    def pop(self, key: str) -> None:
        entry = self._values.pop(key, None)
        if entry is not None:
            self._cost -= entry[1]
