"""What a client means by `previous_response_id`, where the server keeps responses.

An answer with hidden turns is several responses to the server and one to the client, which knows it by the id of the
first.  Whoever goes on from there means the last, so that is noted; and with it the conversation, because a request
that only says what is new has no opening to know it by, and the place of a mixed turn, whose hidden calls the server
still wants answered beside the client's own.

    response/<tenant>/<SHA-256 of the model and the id>

Lost, the id goes on as the client sent it, and what the server says to that reaches the client.  Not where there are
several tenants: the server keeps the responses of all of them under one key of ours, so whoever knows an id could read
another's conversation.  There an id counts only for the one to whom it was given, and what else is kept (items,
conversations) is named by nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cache.documents import Documents
from cache.store import Store, StoreError
from router.errors import BadRequest
from router.intake.conversation import key_of
from router.protocol.ledger import Place

CONVERSATION = "x-chiasm-conversation"

_READ_AT_ONCE = 500
"""Notes, in which nobody else reads."""


@dataclass(slots=True)
class Noted:
    """An answer as the server knows it.  Without one, an id stands for itself."""

    last: str = ""
    """The id of the last response."""
    conversation: str = ""
    full: str = ""
    near: str = ""
    """The place of a mixed turn; empty where nothing was left open."""


class ResponseIds:
    def __init__(self, store: Store, *, tenants: int = 1) -> None:
        self._notes = Documents(store, Noted, kind="response id", version=1, empty=Noted)
        self._store = store
        self._tenants = tenants

    async def link(self, tenant: str, model: str, request: Mapping[str, Any]) -> Link:
        """Between the answer that `request` goes on from, if any, and its own.  Raises `BadRequest` for an id that this
        tenant was not given, and for names of what the server keeps for all tenants."""
        if self._tenants > 1:
            _check_names(request)
        previous = request.get("previous_response_id")
        noted = await self._notes.get(_key(tenant, model, previous)) if isinstance(previous, str) and previous else None
        if previous and noted is None and self._tenants > 1:
            error = BadRequest(
                f"Previous response with id {str(previous)[:100]!r} not found.", param="previous_response_id"
            )
            error.code = "previous_response_not_found"
            raise error
        return Link(self, tenant, model, noted, stored=request.get("store") is not False)

    async def note(self, tenant: str, model: str, id_: str, noted: Noted) -> None:
        with suppress(StoreError):  # the id then stands for itself
            await self._store.put(_key(tenant, model, id_), self._notes.write(noted))

    async def forget(self, tenant: str, conversation: str) -> None:
        """What was noted of answers in this conversation.  Raises `StoreError`."""
        keys = [key async for key in self._store.keys(f"response/{tenant}/")]
        for first in range(0, len(keys), _READ_AT_ONCE):
            some = keys[first : first + _READ_AT_ONCE]
            for key, value in zip(some, await self._store.get_many(some), strict=True):
                noted = self._notes.readable(value)
                if noted is not None and key_of(noted.conversation) == conversation:
                    await self._store.delete(key)


class Link:
    """One answer between the one before it and the one after it."""

    def __init__(self, ids: ResponseIds, tenant: str, model: str, before: Noted | None, *, stored: bool) -> None:
        self._ids = ids
        self._tenant = tenant
        self._model = model
        self._before = before
        self._stored = stored
        self._open: Place | None = None

    @property
    def opening(self) -> str:
        """What makes the places of a history that begins in the middle others than those of any other."""
        return self._before.last if self._before else ""

    @property
    def unanswered(self) -> Place | None:
        """The mixed turn that the server's last response ended with."""
        before = self._before
        return Place(before.full, before.near) if before and before.full else None

    def left_open(self, place: Place) -> None:
        """This answer ends with calls of ours that are still at work, kept at `place`."""
        self._open = place

    def request(self, request: dict[str, Any]) -> dict[str, Any]:
        """The client's, with the id that the server means."""
        return {**request, "previous_response_id": self._before.last} if self._before else request

    def headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The client's, which say which conversation it is."""
        known = self._before.conversation if self._before else ""
        return {**headers, CONVERSATION: known} if known and CONVERSATION not in headers else headers

    async def answered(self, id_: str, last: str, conversation: str) -> None:
        """`id_`: by which the client knows the answer; `last`: of the server's last response."""
        if not (self._stored and id_ and last):
            return
        noted = Noted(last, conversation)
        if self._open is not None:
            noted.full, noted.near = self._open.full, self._open.near
        await self._ids.note(self._tenant, self._model, id_, noted)


def _check_names(request: Mapping[str, Any]) -> None:
    """Raises `BadRequest`."""
    items = request.get("input")
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if _is_name(item):
            place = f"input[{index}]"
            raise BadRequest(f"{place}: items that the server keeps cannot be named here; send them whole", param=place)
    if request.get("conversation"):
        raise BadRequest(
            "conversations that the server keeps cannot be named here; use previous_response_id", param="conversation"
        )


def _is_name(item: Mapping[str, Any]) -> bool:
    """Whether the server would look for the rest of it by its id, as OpenAI's does for these two when they come without
    (https://github.com/vercel/ai/issues/7543)."""
    match item.get("type"):
        case "item_reference":
            return True
        case "reasoning":
            return bool(item.get("id")) and not (item.get("encrypted_content") or item.get("content"))
        case "image_generation_call":
            return not item.get("result")
    return False


def _key(tenant: str, model: str, id_: object) -> str:
    digest = hashlib.sha256(f"{model}\0{id_}".encode("utf-8", "replace")).hexdigest()[:40]
    return f"response/{tenant}/{digest}"
