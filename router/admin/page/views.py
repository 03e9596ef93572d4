"""What is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from router.admin.api import number_of
from router.admin.door import Call, Reply
from router.admin.errors import Conflict
from router.admin.models import ConversationQuery, ImageQuery
from router.admin.page import assets, spreadsheet
from router.admin.page.render import Link, page, query_string
from router.admin.page.side_by_side import Row, compared
from router.admin.thumbnails import LARGE, SIDE
from router.errors import Overloaded

ROWS_OF_PROMPT = 60
"""Messages on a page."""

_TRIES, _PAUSE = 8, 0.4
"""A page of thumbnails asks for more at once than are decoded at once."""

_HOME = Link("Conversations", "/admin")


def _given(call: Call, *names: str) -> dict[str, str]:
    """The filters that were set: a form sends those that were left empty too."""
    return {name: value for name, value in call.query.items() if name in names and value != ""}


def _filters(call: Call) -> dict[str, str]:
    return _given(call, "q", "status", "error")


async def conversations(call: Call) -> Reply:
    """`GET /admin`"""
    filters, paged = _filters(call), _given(call, "cursor")
    query = ConversationQuery.model_validate({**filters, **paged})
    found, cursor = await call.admin.conversations(query)
    return await page(
        call,
        "conversations.html",
        title="Conversations",
        conversations=found,
        cursor=cursor,
        filters=filters,
        paged=bool(paged),
        twins={
            "JSON": f"/admin/api/conversations{query_string(filters)}",
            "CSV": f"/admin/conversations.csv{query_string(filters)}",
        },
        live="",
    )


async def state(call: Call) -> Reply:
    """`GET /admin/state`: the head of every page alone, which reads no conversation."""
    return await page(call, "state.html")


async def conversation(call: Call) -> Reply:
    """`GET /admin/conversations/{id}`"""
    id_ = call.path["id"]
    filters, paged = _filters(call), _given(call, "cursor")
    one = await call.admin.conversation(id_)
    found, cursor = await call.admin.images(id_, ImageQuery.model_validate({**filters, **paged}))
    there = f"/admin/conversations/{id_}"
    return await page(
        call,
        "images.html",
        title="Images",
        conversation=one,
        images=found,
        cursor=cursor,
        filters=filters,
        paged=bool(paged),
        there=there,
        twins={
            "JSON": f"/admin/api/conversations/{id_}/images{query_string(filters, details='true')}",
            "CSV": f"{there}/images.csv{query_string(filters)}",
        },
        trail=(_HOME,),
        live=id_,
    )


async def image(call: Call) -> Reply:
    """`GET /admin/conversations/{id}/images/{n}`"""
    id_, number = call.path["id"], number_of(call)
    one = await call.admin.conversation(id_)
    found = await call.admin.image(id_, number)
    there = f"/admin/conversations/{id_}"
    return await page(
        call,
        "image.html",
        title=f"Image #{number}",
        conversation=one,
        image=found,
        there=there,
        twins={"JSON": f"/admin/api/conversations/{id_}/images/{number}?details=true"},
        trail=(_HOME, Link("Images", there)),
        live=id_,
    )


async def prompt(call: Call) -> Reply:
    """`GET /admin/conversations/{id}/prompt`: what the brain saw."""
    id_ = call.path["id"]
    one = await call.admin.conversation(id_)
    last = await call.admin.last_prompt(id_)
    held = None if last is None else last.read()
    both = None if held is None else await asyncio.to_thread(compared, held)
    only = call.query.get("show") == "changed"
    rows = [] if both is None else [row for row in both.rows if not (only and row.same)]
    shown, before, after = _some(rows, call.query)
    there = f"/admin/conversations/{id_}"
    return await page(
        call,
        "prompt.html",
        title="What the brain saw",
        conversation=one,
        last=last,
        both=both,
        rows=shown,
        tools=() if held is None else held.tools,
        left=len(rows) - len(shown),
        before=before,
        after=after,
        only=only,
        there=there,
        twins={"JSON": f"{there}/prompt.json"} if last is not None else {},
        trail=(_HOME, Link("Images", there)),
        live=id_,
    )


def _some(rows: Sequence[Row], query: Mapping[str, str]) -> tuple[Sequence[Row], int | None, int | None]:
    """Of a long prompt the end, which is what people ask about; the ends of the pages before and after it."""
    given = query.get("end", "")
    end = int(given) if given.isascii() and given.isdecimal() and len(given) < 10 else len(rows)
    end = max(min(end, len(rows)), min(ROWS_OF_PROMPT, len(rows)))
    begin = max(0, end - ROWS_OF_PROMPT)
    return rows[begin:end], begin or None, None if end == len(rows) else min(end + ROWS_OF_PROMPT, len(rows))


async def prompt_json(call: Call) -> Reply:
    """`GET /admin/conversations/{id}/prompt.json`"""
    last = await call.admin.last_prompt(call.path["id"])
    if last is None or not last.body:
        raise Conflict("this process holds no prompt of this conversation", code="no_prompt")
    return Reply(last.body)


async def confirm_image(call: Call) -> Reply:
    """`GET /admin/conversations/{id}/images/{n}/delete`"""
    id_, number = call.path["id"], number_of(call)
    found = await call.admin.image(id_, number)
    there = f"/admin/conversations/{id_}"
    trail = (_HOME, Link("Images", there), Link(f"Image #{number}", f"{there}/images/{number}"))
    return await page(call, "delete.html", title=f"Delete image #{number}?", image=found, there=there, trail=trail)


async def confirm_conversation(call: Call) -> Reply:
    """`GET /admin/conversations/{id}/delete`"""
    one = await call.admin.conversation(call.path["id"])
    there = f"/admin/conversations/{one.id}"
    return await page(
        call,
        "delete.html",
        title="Delete this conversation?",
        image=None,
        conversation=one,
        there=there,
        trail=(_HOME, Link("Images", there)),
    )


async def picture(call: Call) -> Reply:
    """`GET /admin/conversations/{id}/images/{n}/picture`: the thumbnail, or a drawing that says there is none."""
    side = LARGE if call.query.get("size") == "large" else SIDE
    for left in range(_TRIES, 0, -1):
        try:
            data = await call.admin.thumbnail(call.path["id"], number_of(call), side)
        except Conflict:
            return Reply(assets.data("no-picture.svg"), media_type="image/svg+xml")
        except Overloaded:
            if left == 1:
                raise
            await asyncio.sleep(_PAUSE)
        else:
            return Reply(data, media_type="image/png")
    raise AssertionError("the last try answers or raises")


async def conversations_csv(call: Call) -> Reply | None:
    """`GET /admin/conversations.csv`"""
    query = ConversationQuery.model_validate(_filters(call))
    if call.asking.method == "HEAD":
        return Reply(media_type="text/csv; charset=utf-8")
    rows = spreadsheet.conversations(call, query)
    await spreadsheet.send(call, rows, spreadsheet.CONVERSATION_COLUMNS, "conversations.csv")
    return None


async def images_csv(call: Call) -> Reply | None:
    """`GET /admin/conversations/{id}/images.csv`"""
    query = ImageQuery.model_validate(_filters(call))
    if call.asking.method == "HEAD":
        return Reply(media_type="text/csv; charset=utf-8")
    rows = spreadsheet.images(call, call.path["id"], query)
    await spreadsheet.send(call, rows, spreadsheet.IMAGE_COLUMNS, "images.csv")
    return None
