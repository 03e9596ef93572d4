"""What the admin API works with, over a store alone: no brain, no eyes, no server."""

from __future__ import annotations

from cache.blobs import Blobs
from cache.holders import Holders
from cache.image import DEFAULT_LIMITS
from cache.looks import Looks
from cache.pixels.pool import Pixels
from cache.rows import Rows
from cache.store import Store
from cache.tables import Tables
from router.admin.events import Bus
from router.admin.service import Admin, open_admin
from router.admin.thumbnails import Thumbnails
from router.config import Settings
from router.intake.conversations import Conversations
from router.intake.hidden_turns import HiddenTurns
from router.intake.response_ids import ResponseIds


def admin_of(store: Store) -> Admin:
    """As a process has it that was just started."""
    tables, rows, blobs, looks = Tables(store), Rows(store), Blobs(store), Looks(store)
    return open_admin(
        settings=Settings.model_validate({"text": [{"base_url": "http://127.0.0.1:1/v1", "images": "off"}]}),
        store=store,
        tables=tables,
        rows=rows,
        blobs=blobs,
        looks=looks,
        deleting=Conversations(
            store,
            tables=tables,
            rows=rows,
            blobs=blobs,
            holders=Holders(store),
            looks=looks,
            hidden_turns=HiddenTurns(store),
            response_ids=ResponseIds(store),
        ),
        brains=[],
        eyes=[],
        thumbnails=Thumbnails(Pixels(DEFAULT_LIMITS), DEFAULT_LIMITS),
        bus=Bus(),
    )
