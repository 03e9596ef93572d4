"""What a page of the admin API costs, and one of the admin page: one conversation with many images, and many
conversations with one.

    .venv/bin/python -m benchmarks.admin_pages [IMAGES] [CONVERSATIONS]

Prints milliseconds of CPU time, of all threads, for the whole request inside the application (no sockets).
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
import time
from pathlib import Path

from starlette.applications import Starlette

from cache.disk import DiskStore
from cache.memory import MemoryStore
from cache.record import ImageRecord
from cache.rows import Rows
from cache.store import Store
from cache.tables import Tables, place
from router.admin.auth import Auth
from router.admin.ids import conversation_id
from router.admin.models import ConversationQuery, ImageQuery
from router.admin.page.routes import routes
from router.admin.service import Admin
from tests.admin_of import admin_of

TENANT = hashlib.sha256(b"tenant").hexdigest()[:32]


AUTH = Auth("")


def key_of(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()[:40]


async def fill(store: Store, number: int, images: int) -> str:
    """A conversation; its id."""
    tables, rows, key = Tables(store), Rows(store), key_of(number)
    wanted: list[tuple[str, int | None]] = []
    for first in range(0, images, 200):
        wanted = [(hashlib.sha256(b"%d" % n).hexdigest(), None) for n in range(first, min(first + 200, images))]

        def began(table: object, numbers: object, new: object) -> None: ...

        table, numbers, _ = await tables.number(TENANT, key, wanted, began)
        where = place(TENANT, key, table)
        for (digest, _), given in zip(wanted, numbers, strict=True):
            row = ImageRecord(given, digest, "image/png", 1280, 720, 90_000, file=f"shot-{given}.png")
            row.description, row.last_answer, row.looks = "a page with a form", "What was said. " * 60, 1
            await rows.add(where, row)
    id_ = conversation_id(TENANT, key)
    assert id_ is not None

    def date(table: object) -> None:
        table.created, table.name = 1_790_000_000.0 + number, f"c-{number}"  # type: ignore[attr-defined]

    await tables.change(TENANT, key, date)
    return id_


async def measured(what: str, work: object) -> None:
    begun, wall = time.process_time(), time.perf_counter()
    answer = await work  # type: ignore[misc]
    cpu, waited = time.process_time() - begun, time.perf_counter() - wall
    size = f"{len(answer[0])} entries" if isinstance(answer, tuple) else "-"
    if isinstance(answer, bytes):
        size = f"{len(answer) / 1024:.0f} KiB"
    print(f"{what:58} {cpu * 1000:7.1f} ms CPU {waited * 1000:7.1f} ms, {size}")


async def page(admin: Admin, path: str, query: str = "") -> bytes:
    """As a browser on this machine gets it, without a socket."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1"), (b"accept", b"text/html")],
        "client": ("127.0.0.1", 1),
        "state": {"admin": admin},
    }
    body, status = bytearray(), 0

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, object]) -> None:
        nonlocal status
        status = int(str(message.get("status", status)))
        part = message.get("body", b"")
        assert isinstance(part, bytes)
        body.extend(part)

    await Starlette(routes=list(routes(AUTH)))(scope, receive, send)  # type: ignore[arg-type]
    assert status == 200, (path, status)
    return bytes(body)


async def run(store: Store, images: int, conversations: int) -> None:
    id_ = await fill(store, 0, images)
    for number in range(1, conversations):
        await fill(store, number, 1)
    admin = admin_of(store)
    await measured("images, first page of 50", admin.images(id_, ImageQuery()))
    await measured("images, first page of 200", admin.images(id_, ImageQuery(limit=200)))
    _, cursor = await admin.images(id_, ImageQuery(limit=200))
    await measured("images, second page of 200", admin.images(id_, ImageQuery(limit=200, cursor=cursor)))
    await measured("images, a word that none has", admin.images(id_, ImageQuery(q="nowhere")))
    await measured("images, status loaded", admin.images(id_, ImageQuery(status="loaded")))
    await measured("conversations, first page after the start", admin.conversations(ConversationQuery()))
    await measured("conversations, first page", admin.conversations(ConversationQuery()))
    await measured("conversations, page of 200", admin.conversations(ConversationQuery(limit=200)))
    await measured("conversations, a word that none has", admin.conversations(ConversationQuery(q="nowhere")))
    await measured("stats", admin.stats())
    there = f"/admin/conversations/{id_}"
    await page(admin, there)  # templates are compiled once in the life of a process
    await measured("the admin page: images, first page of 50", page(admin, there))
    _, cursor = await admin.images(id_, ImageQuery(limit=200))
    await measured("the admin page: images, a page in the middle", page(admin, there, f"cursor={cursor}"))
    await measured("the admin page: images, a word that none has", page(admin, there, "q=nowhere"))
    await measured("the admin page: conversations, first page of 50", page(admin, "/admin"))
    cursor, pages, begun = None, 0, time.process_time()
    while True:
        _, cursor = await admin.images(id_, ImageQuery(limit=200, cursor=cursor))
        pages += 1
        if cursor is None:
            break
    print(f"all images, {pages} pages of 200: {(time.process_time() - begun) * 1000 / pages:.1f} ms CPU a page")


async def main() -> None:
    images, conversations = (
        (int(sys.argv[1]) if sys.argv[1:] else 10_000),
        (int(sys.argv[2]) if sys.argv[2:] else 2_000),
    )
    memory = MemoryStore(max_bytes=2**30)
    print(f"{images} images in one conversation, {conversations} conversations, in memory")
    await run(memory, images, conversations)
    with tempfile.TemporaryDirectory() as folder:
        store = DiskStore(Path(folder) / "store", max_bytes=2**30)
        print("the same on disk")
        await run(store, images, conversations)
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())
