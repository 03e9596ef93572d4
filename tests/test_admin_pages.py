"""Long lists in pages: whole and stable while more arrives, bounded in what one costs, and honest when the store
fails."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from cache.blobs import Blobs
from cache.disk import DiskStore
from cache.holders import Holders
from cache.memory import MemoryStore
from cache.record import ImageRecord
from cache.rows import Rows
from cache.store import Store, StoreError
from cache.table import ImageTable
from cache.tables import Tables, place
from router.admin import listing
from router.admin.errors import Conflict, NotFound
from router.admin.ids import conversation_id, named
from router.admin.models import Action, ConversationQuery, ImageQuery
from router.admin.service import Admin
from router.intake.conversation import tenant_of
from tests.admin_of import admin_of
from tests.conversing import tiny
from tests.failing import FailingStore, broken

pytestmark = pytest.mark.anyio

TENANT = tenant_of("a key")


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:40]


async def arrive(
    store: Store, *seeds: int, name: str = "c", created: float = 1.0, tenant: str = TENANT, with_bytes: bool = False
) -> str:
    """New images of a conversation, which may be new itself; its id."""
    tables, rows = Tables(store), Rows(store)
    digests = [hashlib.sha256(tiny(seed)).hexdigest() for seed in seeds]

    def settle(table: ImageTable, numbers: list[int], new: set[int]) -> None:
        table.name, table.created = name, table.created or created
        for number in numbers:
            table.arrive(number, tool=False, tokens=1)

    table, numbers, _ = await tables.number(tenant, key_of(name), [(digest, None) for digest in digests], settle)
    where = place(tenant, key_of(name), table)
    for seed, number, digest in zip(seeds, numbers, digests, strict=True):
        if with_bytes:
            await Blobs(store).put(tenant, tiny(seed))
            await Holders(store).hold(where, digest, number)
        await rows.add(where, ImageRecord(number, digest, "image/png", 8, 8, 70, file=f"{seed}.png"))
    id_ = conversation_id(tenant, key_of(name))
    assert id_ is not None
    return id_


@pytest.fixture(params=["memory", "disk"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store = MemoryStore(max_bytes=2**30)
    if request.param == "disk":
        opened = DiskStore(tmp_path / "store", max_bytes=2**30)
    yield opened
    await opened.close()


async def all_images(admin: Admin, id_: str, between: Callable[[], Any] | None = None, **query: Any) -> list[list[int]]:
    """By page.  `between`: what happens after each."""
    pages: list[list[int]] = []
    cursor = None
    while True:
        found, cursor = await admin.images(id_, ImageQuery(cursor=cursor, **query))
        pages.append([one.number for one in found])
        if cursor is None:
            return pages
        if between is not None:
            await between()


# Names


@pytest.mark.parametrize("tenant", ["local", TENANT])
def test_an_id_names_one_conversation_of_one_tenant(tenant: str) -> None:
    id_ = conversation_id(tenant, key_of("c"))
    assert id_ is not None
    assert named(id_) == (tenant, key_of("c"))
    assert conversation_id(tenant, key_of("d")) != id_
    assert conversation_id("local" if tenant == TENANT else TENANT, key_of("c")) != id_


@pytest.mark.parametrize("id_", ["", "x", "=", "A" * 27 + "=", "A" * 26, "A" * 49, "ä" * 27, "/" * 27, "A" * 26 + "B"])
def test_what_is_no_id_names_nothing(id_: str) -> None:
    assert named(id_) is None


def test_what_no_request_has_made_has_no_id() -> None:
    assert conversation_id("local", "nobody") is None
    assert conversation_id("../local", key_of("c")) is None


# Pages


async def test_pages_of_images_are_whole_and_in_order(store: Store) -> None:
    id_ = await arrive(store, *range(1, 24))
    pages = await all_images(admin_of(store), id_, limit=10)
    assert pages == [[*range(1, 11)], [*range(11, 21)], [21, 22, 23]]


async def test_images_that_arrive_between_two_pages_are_neither_lost_nor_told_twice(store: Store) -> None:
    id_ = await arrive(store, 1, 2, 3, 4)
    seeds = iter((5, 6))

    async def more() -> None:
        if (seed := next(seeds, None)) is not None:
            await arrive(store, seed)

    pages = await all_images(admin_of(store), id_, more, limit=2)
    assert [number for page in pages for number in page] == [1, 2, 3, 4, 5, 6]


async def test_images_that_are_deleted_between_two_pages_move_nothing(store: Store) -> None:
    id_ = await arrive(store, *range(1, 9))
    admin = admin_of(store)
    going = iter([3, 2, 8])

    async def less() -> None:
        if (number := next(going, None)) is not None:
            assert await admin_of(store).delete_image(id_, number)

    pages = await all_images(admin, id_, less, limit=2)
    assert [number for page in pages for number in page] == [1, 2, 4, 5, 6, 7]


async def test_conversations_that_begin_between_two_pages_move_nothing(store: Store) -> None:
    for number in range(5):
        await arrive(store, 1, name=f"c{number}", created=float(number + 1))
    admin = admin_of(store)
    first, cursor = await admin.conversations(ConversationQuery(limit=2))
    await arrive(store, 1, name="newest", created=99.0)
    await arrive(store, 1, name="of another", created=3.0, tenant="local")
    rest, end = await admin.conversations(ConversationQuery(limit=10, cursor=cursor))
    assert end is None
    assert [one.created for one in [*first, *rest]] == [5.0, 4.0, 3.0, 3.0, 2.0, 1.0]
    assert len({one.id for one in [*first, *rest]}) == 6
    newest, _ = await admin.conversations(ConversationQuery(limit=1))
    assert newest[0].created == 99.0


async def test_a_conversation_that_ends_between_two_pages_is_left_out(store: Store) -> None:
    ids = [await arrive(store, 1, name=f"c{number}", created=float(number + 1)) for number in range(4)]
    admin = admin_of(store)
    _, cursor = await admin.conversations(ConversationQuery(limit=1))
    await admin_of(store).delete_conversation(ids[1])
    rest, _ = await admin.conversations(ConversationQuery(cursor=cursor))
    assert [one.id for one in rest] == [ids[2], ids[0]]


async def test_a_page_ends_where_it_has_read_enough(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_READ", 5)
    monkeypatch.setattr(listing, "CHUNK", 2)
    id_ = await arrive(store, *range(1, 13))
    pages = await all_images(admin_of(store), id_, q="12.png")
    assert pages == [[], [], [12]]
    assert await all_images(admin_of(store), id_, q="nowhere") == [[], [], []]
    assert await all_images(admin_of(store), id_, limit=1, q=".png") == [[number] for number in range(1, 13)]


async def test_the_cost_of_a_page_does_not_grow_with_the_table(store: Store) -> None:
    """Counted in records that are read, which no other load on the machine can change."""
    read: list[int] = []

    class Counting(MemoryStore):
        async def get_many(self, keys: Any) -> list[bytes | None]:
            read.append(len(keys))
            return await super().get_many(keys)

    counting = Counting(max_bytes=2**28)
    for at in range(0, 2000, 200):
        id_ = await arrive(counting, *range(at, at + 200))
    admin = admin_of(counting)
    read.clear()
    found, cursor = await admin.images(id_, ImageQuery())
    assert (len(found), sum(read)) == (50, 50)
    read.clear()
    await admin.images(id_, ImageQuery(cursor=cursor, q="nowhere"))
    assert sum(read) == listing.MOST_READ


async def test_when_a_conversation_began_is_read_once(store: Store) -> None:
    for number in range(1, 7):
        await arrive(store, 1, name=f"c{number}", created=float(number))
    admin = admin_of(store)
    await admin.conversations(ConversationQuery(limit=1))
    assert sorted(began for began, _, _ in await admin.order.all()) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    asked: list[Any] = []
    read_many = Tables.read_many

    async def counted(self: Tables, places: Any) -> Any:
        asked.append(len(places))
        return await read_many(self, places)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tables, "read_many", counted)
        await admin.conversations(ConversationQuery(limit=2))
    assert asked == [2]


# A row that is older, or gone


async def test_a_row_of_an_older_version_is_read(store: Store) -> None:
    id_ = await arrive(store, 1)
    where = place(TENANT, key_of("c"), await Tables(store).get(TENANT, key_of("c")))
    await store.put(f"row/{where}/1", b'1 {"number":1,"digest":"d","looks":2,"last_answer":"A cat."}')
    one = await admin_of(store).image(id_, 1)
    assert (one.looks, one.last_answer, one.first_turn, one.errors, one.seconds) == (2, "A cat.", None, 0, 0.0)


async def test_an_image_without_a_row_is_listed_and_can_be_forgotten(store: Store) -> None:
    id_ = await arrive(store, 1)
    where = place(TENANT, key_of("c"), await Tables(store).get(TENANT, key_of("c")))
    await store.delete(f"row/{where}/1")
    admin = admin_of(store)
    ((one,), _) = await admin.images(id_, ImageQuery())
    assert one.reason == "nothing is known of it any more"
    assert (await admin.do("forget", id_, 1)).status == "forgotten"
    with pytest.raises(Conflict):
        await admin.do("load", id_, 1)


async def test_images_at_which_something_went_wrong_can_be_found(store: Store) -> None:
    id_ = await arrive(store, 1, 2, 3)
    where = place(TENANT, key_of("c"), await Tables(store).get(TENANT, key_of("c")))

    def failed(row: ImageRecord) -> None:
        row.errors = 1

    def unreadable(row: ImageRecord) -> None:
        row.problem = "truncated PNG"

    await Rows(store).change(where, 2, failed)
    await Rows(store).change(where, 3, unreadable)
    admin = admin_of(store)
    assert await all_images(admin, id_, error=True) == [[2, 3]]
    assert await all_images(admin, id_, error=False) == [[1]]


# A store that fails


ALL: list[Action] = ["forget", "load", "pin", "unpin"]


async def test_nothing_is_told_of_what_cannot_be_read() -> None:
    store = FailingStore()
    id_ = await arrive(store, 1, with_bytes=True)
    admin = admin_of(store)
    store.on_read = broken
    asked: list[Coroutine[Any, Any, Any]] = [
        admin.conversations(ConversationQuery()),
        admin.conversation(id_),
        admin.images(id_, ImageQuery()),
        admin.image(id_, 1),
        admin.thumbnail(id_, 1),
        admin.analyze(id_, 1, "What?"),
        *(admin.do(action, id_, 1) for action in ALL),
    ]
    for one in asked:
        with pytest.raises(StoreError):
            await one


async def test_an_action_that_is_not_kept_is_not_done() -> None:
    store = FailingStore()
    id_ = await arrive(store, 1, with_bytes=True)
    admin = admin_of(store)
    store.on_write = broken
    actions: list[Action] = ["forget", "pin"]
    for action in actions:
        with pytest.raises(StoreError):
            await admin.do(action, id_, 1)
    with pytest.raises(StoreError):
        await admin.delete_image(id_, 1)
    store.on_write = lambda key: None
    assert (await admin.image(id_, 1)).status == "loaded"
    assert (await admin.do("forget", id_, 1)).status == "forgotten"


@pytest.mark.parametrize("action", ALL)
@pytest.mark.parametrize("whole", [False, True], ids=["the image", "the conversation"])
async def test_what_is_deleted_while_somebody_acts_on_it_is_not_there(
    action: Action, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(max_bytes=2**28)
    id_ = await arrive(store, 1, 2, with_bytes=True)
    admin, other = admin_of(store), admin_of(store)
    read = Rows.read

    async def and_then_deleted(self: Rows, where: str, number: int) -> ImageRecord | None:
        """By another process, after the row was read and before the table is changed."""
        row = await read(self, where, number)
        with monkeypatch.context() as patch:
            patch.setattr(Rows, "read", read)
            await (other.delete_conversation(id_) if whole else other.delete_image(id_, 1))
        return row

    monkeypatch.setattr(Rows, "read", and_then_deleted)
    with pytest.raises((NotFound, Conflict)):
        await admin.do(action, id_, 1)
    monkeypatch.setattr(Rows, "read", read)
    left = [key async for key in store.keys("")]
    assert not whole or left == []
    assert not [key for key in left if key.startswith("row/") and key.endswith("/1")]


async def test_a_deletion_that_was_cut_short_is_done_again_under_the_same_id() -> None:
    """Its table is gone, and what is left has no other name."""
    store = FailingStore()
    id_ = await arrive(store, 1, with_bytes=True)
    await store.delete(f"table/{TENANT}/{key_of('c')}")
    admin = admin_of(store)
    with pytest.raises(NotFound):
        await admin.conversation(id_)
    assert await admin.delete_conversation(id_)
    assert [key async for key in store.keys("")] == []
