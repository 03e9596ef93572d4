"""Values that several processes change: read, change, exchange only if nobody was faster, else again.

A document is kept whole under one key, in front of it the version of its form.  What is damaged begins anew; what a
newer version wrote is left alone, and the change is made for this request only.

Fields that have their default value are not written, so a changed default is a new form, as is a changed meaning.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from cache.store import Store, StoreError

T = TypeVar("T")
A = TypeVar("A")

_ATTEMPTS = 64
"""More rivals than this on one document at one moment is not traffic but a fault."""

_VERSION = re.compile(rb"[0-9]{1,9} ")

log = logging.getLogger("chiasm.cache")


class Foreign(Exception):
    """The document has a form that this version does not know."""


@functools.cache
def _adapter(form: Any) -> TypeAdapter[Any]:
    """One for all stores: making it takes milliseconds."""
    return TypeAdapter(form)


class Documents(Generic[T]):
    """All documents of one kind.  `kind` names it in the log, `empty` makes the one that stands for none."""

    def __init__(
        self, store: Store, form: type[T], *, kind: str, version: int, empty: Callable[[], T], ttl: float | None = None
    ) -> None:
        self._store = store
        self._adapter: TypeAdapter[T] = _adapter(form)  # type: ignore[arg-type]  # a class can be hashed
        self._kind = kind
        self._version = b"%d " % version
        self._empty = empty
        self._ttl = ttl

    def write(self, document: T) -> bytes:
        """Raises `StoreError` for what JSON cannot hold, such as half a surrogate pair."""
        try:
            return self._version + self._adapter.dump_json(document, exclude_defaults=True)
        except PydanticSerializationError as error:
            raise StoreError(f"the {self._kind} cannot be written down") from error

    def read(self, value: bytes | None) -> T | None:
        """`None` where there is none or it is damaged.  Raises `Foreign`."""
        if value is None:
            return None
        if value.startswith(self._version):
            with suppress(ValidationError):
                return self._adapter.validate_json(value[len(self._version) :], strict=True)
        elif _VERSION.match(value):
            raise Foreign(f"the {self._kind} in the store has form {value.partition(b' ')[0].decode()}")
        log.warning("the %s in the store is damaged; starting it anew", self._kind)
        return None

    async def get(self, key: str) -> T | None:
        """As it is kept; `None` where there is none, it cannot be read or the store fails."""
        return (await self.get_many([key]))[0]

    async def get_many(self, keys: Sequence[str]) -> list[T | None]:
        """As `get`, in the order of `keys`."""
        try:
            return [self.readable(value) for value in await self._store.get_many(keys)]
        except StoreError as error:
            log.warning("the %s could not be read: %s", self._kind, error)
            return [None] * len(keys)

    def readable(self, value: bytes | None) -> T | None:
        """As `read`, and `None` for what a newer version wrote."""
        try:
            return self.read(value)
        except Foreign as error:
            log.warning("%s", error)
            return None

    async def change(self, key: str, change: Callable[[T], A]) -> tuple[T, A]:
        """Change it in one step; `change` may be asked again on a newer document when a rival was faster.

        A store that fails costs the memory of it and nothing else: the change is made on what was last seen.
        What `change` raises comes out, and nothing is kept then.
        """
        document, answer, _ = await self.attempt(key, change)
        return document, answer

    async def change_for_sure(self, key: str, change: Callable[[T], A]) -> A:
        """As `change`.  Raises `StoreError` where it could not be read or kept."""
        for _ in range(_ATTEMPTS):
            old = await self._store.get(key)
            try:
                _, answer, kept = await self._changed(key, old, change)
            except Foreign as error:
                raise StoreError(str(error)) from None
            if kept is not None:
                return answer
        raise StoreError(f"the {self._kind} was changed by others all the time")

    async def attempt(self, key: str, change: Callable[[T], A]) -> tuple[T, A, bool]:
        """As `change`, and says whether it is kept."""
        old: bytes | None = None
        try:
            for _ in range(_ATTEMPTS):
                old = await self._store.get(key)
                document, answer, kept = await self._changed(key, old, change)
                if kept is not None:
                    return document, answer, kept
            log.warning("the %s was changed by others %d times in a row; not kept", self._kind, _ATTEMPTS)
        except StoreError as error:
            log.warning("the %s could not be kept: %s", self._kind, error)
        except Foreign as error:
            log.warning("%s; not kept", error)
            old = None
        last = self.read(old)  # afresh: the change must not be made twice on one document
        document = self._empty() if last is None else last
        return document, change(document), False

    async def _changed(self, key: str, old: bytes | None, change: Callable[[T], A]) -> tuple[T, A, bool | None]:
        """The document that was `old`, changed, and whether there is one now; `None` where a rival was faster."""
        kept = self.read(old)
        document = self._empty() if kept is None else kept
        before = self.write(document)
        answer = change(document)
        new = self.write(document)
        if new == before:
            return document, answer, kept is not None
        return document, answer, True if await self._exchange(key, old, new) else None

    async def _exchange(self, key: str, old: bytes | None, new: bytes) -> bool:
        if old is None:
            return await self._store.add(key, new, ttl=self._ttl)
        return await self._store.swap(key, old, new, ttl=self._ttl)
