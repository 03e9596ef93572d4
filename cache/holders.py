"""Which conversations hold an image.

A tenant's conversations share the bytes of an image (`cache.blobs`).  So that deleting one of them can delete the bytes
too, and only if nobody else has them, each row leaves a mark of its own beside them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from cache.store import Store


class Holders:
    """`where` is a conversation's place in the store: `<tenant>/<conversation>/<generation>`."""

    def __init__(self, store: Store, *, ttl: float | None = None) -> None:
        self._store = store
        self._ttl = ttl

    async def hold(self, where: str, digest: str, number: int) -> None:
        """Where it is held already, that counts as a use.  Raises `StoreError`."""
        await self._store.add(*self.mark(where, digest, number), ttl=self._ttl)

    def mark(self, where: str, digest: str, number: int) -> tuple[str, bytes]:
        """The record by which it is held, for whoever keeps it together with others."""
        return _key(where, digest, number), b"1"

    async def let_go(self, where: str, digest: str, number: int) -> bool:
        """Says whether nobody holds the image any more.  Raises `StoreError`."""
        await self._store.delete(_key(where, digest, number))
        return not await self.held(where.partition("/")[0], digest)

    async def held(self, tenant: str, digest: str) -> bool:
        """Whether any conversation of the tenant holds the image.  Raises `StoreError`."""
        async for _ in self._store.keys(f"held/{tenant}/{digest}/"):
            return True
        return False

    async def of(self, tenant: str, conversation: str) -> AsyncIterator[tuple[str, str, int]]:
        """The marks of a conversation, in all places that it had: place, digest and number.  Looks at all the tenant
        has.  Raises `StoreError`."""
        async for key in self._store.keys(f"held/{tenant}/"):
            _, _, digest, whose, generation, number = key.split("/")
            if whose == conversation:
                yield f"{tenant}/{conversation}/{generation}", digest, int(number)


def _key(where: str, digest: str, number: int) -> str:
    tenant, _, rest = where.partition("/")
    return f"held/{tenant}/{digest}/{rest}/{number}"
