"""The right to be forgotten in earnest: a conversation, or one image of it, and nothing of it readable afterwards.

What there is of a conversation in the store, under its place `<tenant>/<conversation>/<generation>`:

    table    numbers, what is loaded            turn, near   hidden turns and where they belong
    row      what is known of each image        shown        image tables that the brain was shown
    number   older numbers                      held         marks beside the bytes it holds
    since    when pixels came into its prompt   url          what was found at addresses

and beside it the ids of its answers where the server keeps them (response), and, shared within the tenant, the bytes
themselves and what was seen in them.  The table goes first: from
then on a request begins a new generation, which shares no key with the old one, whatever processes still remember.
What a request that runs meanwhile keeps in the old place it takes back itself (`Tables.at`).

A deletion that failed or was killed half way is done again: what lies in places without a table goes too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from cache.blobs import Blobs
from cache.holders import Holders
from cache.looks import Looks
from cache.record import ImageRecord
from cache.rows import Rows
from cache.store import Store, StoreError
from cache.table import ImageTable
from cache.tables import Tables, place
from router.intake.hidden_turns import HiddenTurns
from router.intake.response_ids import ResponseIds

_OF_A_CONVERSATION = ("number", "turn", "near", "shown", "since", "url")


class Conversations:
    """All methods raise `StoreError`: who wants something deleted must know if it was not."""

    def __init__(
        self,
        store: Store,
        *,
        tables: Tables,
        rows: Rows,
        blobs: Blobs,
        holders: Holders,
        looks: Looks,
        hidden_turns: HiddenTurns,
        response_ids: ResponseIds,
    ) -> None:
        self._store = store
        self._tables = tables
        self._rows = rows
        self._blobs = blobs
        self._holders = holders
        self._looks = looks
        self._hidden_turns = hidden_turns
        self._response_ids = response_ids

    async def all(self, tenant: str = "") -> AsyncIterator[tuple[str, str]]:
        """Tenant and key of every conversation, in no order; of all tenants without one."""
        async for key in self._store.keys(f"table/{tenant}/" if tenant else "table/"):
            _, owner, conversation = key.split("/")
            yield owner, conversation

    async def delete(self, tenant: str, conversation: str) -> bool:
        """Says whether there was such a conversation."""
        there = await self._store.delete(f"table/{tenant}/{conversation}")
        dead = _Dead(self._tables)
        async for key in self._store.keys(f"row/{tenant}/{conversation}/"):
            where, _, number = key.removeprefix("row/").rpartition("/")
            if await dead.holds(where):
                await self._delete_row(tenant, where, int(number))
                there = True
        async for where, digest, held in self._holders.of(tenant, conversation):  # rows that were never kept
            if await dead.holds(where):
                await self._let_go(tenant, where, digest, held)
                there = True
        for kind in _OF_A_CONVERSATION:
            async for key in self._store.keys(f"{kind}/{tenant}/{conversation}/"):
                if await dead.holds("/".join(key.split("/")[1:4])):
                    await self._store.delete(key)
                    there = True
        await self._response_ids.forget(tenant, conversation)
        return there

    async def delete_image(self, tenant: str, conversation: str, number: int) -> bool:
        """Its number stays taken, and its placeholder says that it was deleted.  Says whether there was such an image.

        The hidden turns in which it was looked at lose what was seen; tables that were shown go altogether.
        """

        def delete(table: ImageTable) -> bool:
            known = number not in table.deleted
            table.delete(number)
            return known

        known = await self._tables.read(tenant, conversation)
        if known is None or number not in known:
            return False
        table, there = await self._tables.change(tenant, conversation, delete)
        if not table.kept or number not in table:
            raise StoreError("the image table could not be changed")
        where = place(tenant, conversation, table)
        async for key in self._store.keys(f"row/{where}/"):
            await self._rows.change_for_sure(where, int(key.rpartition("/")[2]), lambda row: _forget(row, number))
        await self._hidden_turns.erase(where, number)
        there |= await self._delete_row(tenant, where, number)  # last: it says that there is still something to do
        return there

    async def _delete_row(self, tenant: str, where: str, number: int) -> bool:
        """The row goes last, because it says what else there is."""
        row = await self._rows.read(where, number)
        if row is not None:
            await self._let_go(tenant, where, row.digest, number)
        return await self._rows.delete(where, number)

    async def _let_go(self, tenant: str, where: str, digest: str, number: int) -> None:
        if await self._holders.let_go(where, digest, number):
            await self._looks.forget(tenant, digest)
            await self._blobs.delete(tenant, digest)


class _Dead:
    """Places that have no table any more."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._known: dict[str, bool] = {}

    async def holds(self, where: str) -> bool:
        """A place comes to life by its table, so what is found there has one, or never will again."""
        if where not in self._known:
            self._known[where] = await self._tables.at(where) is None
        return self._known[where]


def _forget(row: ImageRecord, number: int) -> None:
    """What was said of this image beside the one of the row."""
    if number in row.last_beside:
        row.last_task = row.last_answer = ""
        row.last_beside = []
