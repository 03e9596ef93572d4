"""Coming in and going out."""

from __future__ import annotations

import re

from router.admin.door import PAGE_HEADERS, Call, Reply
from router.admin.page.render import html
from router.errors import ChiasmError

_OURS = re.compile(r"/admin(?:/[A-Za-z0-9_./-]*)?(?:\?[A-Za-z0-9_.~%&=+-]*)?")


def ours(url: str, otherwise: str = "/admin") -> str:
    """An address of a page of ours; another one is not gone to."""
    return url if len(url) < 2000 and _OURS.fullmatch(url) and ".." not in url else otherwise


async def form(call: Call) -> Reply:
    """`GET /admin/sign-in`"""
    return Reply(
        html("sign_in.html", next="/admin", wrong=False), media_type="text/html; charset=utf-8", headers=PAGE_HEADERS
    )


async def sign_in(call: Call) -> Reply:
    """`POST /admin/sign-in`: a form with the `key`, and the address to go to `next`."""
    try:
        given = await call.form()
        session = call.auth.sign_in(call.asking, given.get("key", ""))
    except ChiasmError as error:
        call.audit("sign in", error.code or error.type)
        raise
    call.audit("sign in", "done")
    there = ours(given.get("next", ""))
    return Reply(status=303, headers={"location": there, "set-cookie": call.auth.set_cookie(call.asking, session)})


async def sign_out(call: Call) -> Reply:
    """`POST /admin/sign-out`: a form with the token `csrf`."""
    given = await call.form()
    call.auth.check_change(call.asking, call.who, given.get("csrf", ""))
    call.audit("sign out", "done")
    return Reply(status=303, headers={"location": "/admin", "set-cookie": call.auth.set_cookie(call.asking, "")})
