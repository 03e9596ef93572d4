"""What every store can do: keep bytes under a key, and change them without losing a rival's change.

One protocol serves both small records (image tables, numbers, looks, hidden turns: JSON, well under 64 KiB)
and blobs (images as they came, up to tens of MB).  Keys are ASCII paths of `/`-separated words such as
`table/<tenant>/<conversation>` or `blob/<tenant>/<digest>`; the first word is the *kind*, and a store may
keep kinds in different places.  Values are opaque bytes: a store never interprets them, and what it gives
back is byte for byte what was put, or `None`; never a part of it, never something else.

Losing a store costs time and memory, never correctness, so every caller must be able to live with `None`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol


class StoreError(Exception):
    """The store could not do what was asked (disk full, locked, unreachable); the caller goes on without."""


class Store(Protocol):
    """The contract that `tests/test_store_contract.py` holds every implementation to.

    All methods may be called at once from many tasks, and (except for `MemoryStore`) from many processes.
    None blocks the event loop.  All raise `StoreError` where the medium fails, and nothing else.
    """

    async def get(self, key: str) -> bytes | None:
        """The value last put under `key`; `None` where there is none, it has expired, or it fails its checks."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """As `get` for each, in their order, at the price of little more than one."""

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep `value` under `key`, whole or not at all.

        After `ttl` seconds it is gone; `None` sets no limit of its own.  Any store may drop any value earlier, for
        room or for having lain unused.
        """

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        """Like `put`, but only where `key` has no value; says whether it was put.  Atomic: of rivals one wins.

        Where it has one, that counts as a use of it, and is cheap however large the value.
        """

    async def add_many(self, values: Sequence[tuple[str, bytes]], *, ttl: float | None = None) -> list[bool]:
        """As `add` for each key and value, in their order; of small records many are little more work than one."""

    async def swap(self, key: str, old: bytes, new: bytes, *, ttl: float | None = None) -> bool:
        """Put `new` only where the value is exactly `old`; says whether it did.  Atomic: of rivals one wins."""

    async def delete(self, key: str) -> bool:
        """Make `key` unknown, its bytes unreadable; says whether it was known."""

    def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Every key that begins with `prefix`, in no order; changes made meanwhile may or may not show."""

    async def sweep(self) -> object:
        """Remove what has expired, lies idle too long or exceeds the space; the application asks now and then."""

    async def close(self) -> None:
        """Let go of files and connections.  Twice is fine; any other call after it raises `StoreError`."""
