"""Templates, and what every page has."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from cache.store import StoreError
from router.admin.door import PAGE_HEADERS, Call, Reply
from router.admin.page import assets, wording
from router.errors import ChiasmError, Unauthorized

_SAID = {
    "forget": "Image #{} is forgotten: what was seen in it leaves the prompt with the next request.",
    "load": "Image #{} is loaded: what was seen in it stands in the prompt again.",
    "pin": "Image #{} is pinned: it stays loaded.",
    "unpin": "Image #{} is no longer pinned.",
    "analyze": "The eyes looked at image #{}. Their answer is below.",
    "delete": "Image #{} is deleted.",
    "delete-conversation": "The conversation is deleted, with all its images.",
}


@dataclass(frozen=True, slots=True)
class Link:
    """Of the way back to the beginning."""

    words: str
    url: str


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["asset"] = assets.url
    found.globals["query"] = query_string
    found.filters |= {
        name: getattr(wording, name)
        for name in ("words", "line", "size", "count", "iso", "utc", "ago", "took", "money")
    }
    return found


def query_string(given: Mapping[str, Any], **changed: Any) -> str:
    """`?…` with these changes; empty values go."""
    merged = {name: value for name, value in {**given, **changed}.items() if value not in (None, "", False)}
    return f"?{urlencode(merged)}" if merged else ""


def html(name: str, **context: Any) -> bytes:
    # A client may have named a file with half a surrogate pair.
    return _templates().get_template(name).render(context).encode("utf-8", "replace")


async def page(call: Call, name: str, **context: Any) -> Reply:
    """`name`: of the template.  Gives a browser that has no session one."""
    session = "" if call.who.by_key else call.who.session or call.auth.new_session()
    headers = dict(PAGE_HEADERS)
    if session and not call.who.session:
        headers["set-cookie"] = call.auth.set_cookie(call.asking, session)
    try:
        stats = await call.admin.stats()
    except StoreError:
        stats = None
    shown = {
        "csrf": call.auth.csrf(session) if session else "",
        "here": here_of(call.scope),
        "now": time.time(),
        "notice": _notice(call.query),
        "signs_out": call.auth.needs_key,
        "stats": stats,
        "trail": (),
        "live": None,
        "currency": call.admin.settings.server.currency,
    }
    return Reply(html(name, **{**shown, **context}), media_type="text/html; charset=utf-8", headers=headers)


def here_of(scope: Any) -> str:
    """The address of a page with its filters, without what was said on it once."""
    query = scope.get("query_string", b"").decode("latin-1")
    kept = "&".join(pair for pair in query.split("&") if pair and pair.partition("=")[0] not in ("done", "image"))
    path = str(scope["path"])
    return f"{path}?{kept}" if kept else path


def _notice(query: Mapping[str, str]) -> str:
    """Of a change that has just been made; whoever writes such an address himself can say only this."""
    number = query.get("image", "")
    said = _SAID.get(query.get("done", ""), "")
    return said.format(number) if said and (number.isdecimal() or "{}" not in said) and len(number) < 10 else ""


def error_page(error: ChiasmError, scope: Any) -> bytes:
    """A refusal for people.  Who has not signed in finds the form, and goes on where he wanted to go."""
    if isinstance(error, Unauthorized):
        path = str(scope["path"])
        tried = path == "/admin/sign-in" and scope["method"] == "POST"
        there = here_of(scope) if scope["method"] == "GET" and path != "/admin/sign-in" else "/admin"
        return html("sign_in.html", next=there, wrong=tried)
    return html(
        "error.html",
        status=error.status,
        message=error.message,
        code=error.code or error.type,
        back=_back(error, scope),
    )


_PLACE = re.compile(r"(/admin/conversations/[A-Za-z0-9_-]+)(?:/images/([0-9]+))?")


def _back(error: ChiasmError, scope: Any) -> Link | None:
    """To the image or the conversation that was asked for, if it may be there."""
    place = _PLACE.match(str(scope["path"]))
    if place is None or error.status == 404 or place[0] == scope["path"]:
        return None
    return Link(f"Back to image #{place[2]}" if place[2] else "Back to the images", place[0])
