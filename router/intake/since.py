"""Since when each message with pictures stands in the prompt of a brain with eyes.

An image that was forgotten and came back is seen where it came back, not where it stood before: the past is rewritten
once, by the forgetting.  So for every message with pictures the stamp is kept that the image table had when the message
was first sent; its pixels stand while that image has been loaded since no later than then.

    since/<where>/<full place>   the stamp
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from cache.remembered import Remembered
from cache.store import Store, StoreError
from router.protocol.ledger import Place

log = logging.getLogger("chiasm.since")

_REMEMBERED = 50_000
"""Messages, some 200 bytes each."""

_DIGITS = 18


class Since:
    """`where` is a conversation's place in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: Remembered[int] = Remembered(_REMEMBERED)

    async def stamps(self, where: str, places: Mapping[int, Place], now: int) -> dict[int, int]:
        """By index of the message.  `now`: the table's stamp, from which on those stand that nobody has seen before or
        of which the store knows nothing any more."""
        keys = {index: f"since/{where}/{place.full}" for index, place in places.items()}
        asked = [key for key in dict.fromkeys(keys.values()) if key not in self._known]
        try:
            for key, value in zip(asked, await self._store.get_many(asked) if asked else [], strict=True):
                stamp = _read(value)
                if stamp is None and not await self._store.add(key, b"%d" % now):
                    stamp = _read(await self._store.get(key))  # a rival was faster, and its words are in a prompt
                self._known.put(key, now if stamp is None else stamp)
        except StoreError as error:
            log.warning("when a message was first sent could not be read or kept: %s", error)
        known = {index: self._known.get(key) for index, key in keys.items()}
        return {index: now if stamp is None else stamp for index, stamp in known.items()}


def _read(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) <= _DIGITS else None
