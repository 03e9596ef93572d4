"""Lists as CSV, for spreadsheets.

A cell that begins with `=` or one of its kin is a formula to a spreadsheet, and may send the sheet to somebody.  So
every cell with strangers' words that begins so gets an apostrophe, which says that it is text (OWASP, CSV injection).
Where a comma is the decimal sign, a spreadsheet goes by semicolons and takes quotes in the middle of its cells for
letters: there a cell may begin behind whatever separates, and so may a row.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from router.admin.door import SECURITY_HEADERS, Call
from router.admin.models import MOST_LISTED, Conversation, ConversationQuery, ImageDetails, ImageQuery
from router.response import start, unless_gone

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_FORMULA_INSIDE = re.compile(r"(?s)(?<=.)([;,|\t\r\n]\"? *)(?=[=+\-@＝＋－＠])")

Rows = AsyncIterator[Sequence[Mapping[str, Any]]]


def cell(value: object) -> object:
    """As it may stand in a sheet."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return value
    text = value.replace("\0", "").encode("utf-8", "replace").decode()
    inside = _FORMULA_INSIDE.sub(r"\1'", text)
    return f"'{inside}" if text.lstrip(" ").startswith(_FORMULA) else inside


def lines(rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, head: bool) -> bytes:
    out = io.StringIO()
    sheet = csv.writer(out, lineterminator="\r\n")
    if head:
        sheet.writerow(names)
    for row in rows:
        sheet.writerow([cell(row[name]) for name in names])
    return out.getvalue().encode()


def _flat(one: Conversation | ImageDetails) -> dict[str, Any]:
    """What looking has cost is one number here, empty where no prices are set."""
    return {**one.model_dump(), "cost": "" if one.cost is None else one.cost.amount}


async def conversations(call: Call, query: ConversationQuery) -> Rows:
    cursor = query.cursor
    while True:
        page = query.model_copy(update={"limit": MOST_LISTED, "cursor": cursor})
        found, cursor = await call.admin.conversations(page)
        yield list(map(_flat, found))
        if cursor is None:
            return


async def images(call: Call, id_: str, query: ImageQuery) -> Rows:
    cursor = query.cursor
    while True:
        page = query.model_copy(update={"limit": MOST_LISTED, "cursor": cursor})
        found, cursor = await call.admin.images(id_, page)
        yield list(map(_flat, found))
        if cursor is None:
            return


async def send(call: Call, rows: Rows, names: Sequence[str], file: str) -> None:
    """The whole list, page by page: a table of any length costs the memory of one page."""
    first = await anext(rows)  # what is not there, or cannot be read, is still a status
    fields = {
        **SECURITY_HEADERS,
        "content-type": "text/csv; charset=utf-8",
        "content-disposition": f'attachment; filename="{file}"',
        "x-request-id": call.request_id,
    }

    async def write() -> None:
        await call.send(start(200, fields))
        await put(lines(first, names, head=True))
        async for more in rows:
            await put(lines(more, names, head=False))
        await call.send({"type": "http.response.body", "body": b""})

    async def put(data: bytes) -> None:
        await call.send({"type": "http.response.body", "body": data, "more_body": True})

    await unless_gone(call.receive, write())


CONVERSATION_COLUMNS = tuple(Conversation.model_fields)
IMAGE_COLUMNS = tuple(ImageDetails.model_fields)
