"""Image bytes under the SHA-256 of themselves, inside one tenant.

The digest is the name, so the same image is kept once, and nothing that a store could give back wrongly is ever
taken for it.  Tenants do not share: if they did, how fast a `put` returns would tell one tenant what another has.

What the store does not take, because it is full or away, stays at hand for the looks of the request that brought it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable

from anyio import CapacityLimiter, to_thread

from cache.at_hand import AtHand
from cache.remembered import Remembered
from cache.store import Store, StoreError

INLINE_BYTES = 64 * 1024
"""Up to here hashing takes 40 µs, less than the way to a thread and back."""

HASHERS = 2
"""Threads that may hash at once: an image takes milliseconds, and the other processors have streams to serve."""

_MISSED = 20_000
"""Digests, about 200 bytes each."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """Content-addressed bytes in `store`, under `blob/<tenant>/<digest>`.

    All methods raise `StoreError` where the store does, and `ValueError` for a tenant that cannot be a word of a key.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds that never go back."""
        self._store = store
        self._hashers = CapacityLimiter(HASHERS)
        self._at_hand = AtHand(clock)
        self._missed: Remembered[bool] = Remembered(_MISSED)

    async def put(self, tenant: str, data: bytes, digest: str = "") -> str:
        """Keep `data`; its digest (64 hex digits), for whoever knows it already `digest`.  What is there already is not
        written again, but counts as used.

        Where that raises `StoreError`, `get` finds it for a while all the same.
        """
        digest = digest or await self._digest(data)
        key = _key(tenant, digest)
        try:
            await self._store.add(key, data)
        except StoreError:
            self._at_hand.put(key, data)
            raise
        self._at_hand.pop(key)
        self._missed.pop(key)
        return digest

    async def get(self, tenant: str, digest: str) -> bytes | None:
        """The bytes whose SHA-256 is `digest`; `None` if they are not there or not they."""
        if not _DIGEST.fullmatch(digest):
            return None
        key = _key(tenant, digest)
        if (held := self._at_hand.get(key)) is not None:
            return held
        self._missed.put(key, True)  # until they are found
        data = await self._store.get(key)
        if data is None:
            return None
        if await self._digest(data) != digest:
            await self._store.delete(key)
            return None
        self._missed.pop(key)
        return data

    def missed(self, tenant: str, digest: str) -> bool:
        """Whether they could not be had when they were asked for last, and have not been put again since."""
        return _key(tenant, digest) in self._missed

    async def delete(self, tenant: str, digest: str) -> bool:
        """Forget the bytes; says whether they were known."""
        if not _DIGEST.fullmatch(digest):
            return False
        key = _key(tenant, digest)
        held = self._at_hand.pop(key)
        return await self._store.delete(key) or held

    async def _digest(self, data: bytes) -> str:
        if len(data) <= INLINE_BYTES:
            return hashlib.sha256(data).hexdigest()
        return await to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest(), limiter=self._hashers)


def _key(tenant: str, digest: str) -> str:
    if not tenant or "/" in tenant:
        raise ValueError(f"a tenant is one word of a key, not {tenant!r}")
    return f"blob/{tenant}/{digest}"
