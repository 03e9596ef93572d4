"""Style, script and mark.  Their address holds a digest of all of them, so a browser may keep them for ever and still
never shows a page with yesterday's style."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from router.admin.door import Call, Reply
from router.admin.errors import NotFound

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_YEAR = 365 * 24 * 3600


@cache
def _held() -> dict[str, bytes]:
    found = sorted((files(__package__) / "static").iterdir(), key=lambda one: one.name)
    return {one.name: one.read_bytes() for one in found if _type_of(one.name)}


def _type_of(name: str) -> str:
    return next((kind for ending, kind in _TYPES.items() if name.endswith(ending)), "")


@cache
def digest() -> str:
    every = hashlib.sha256()
    for name, data in _held().items():
        every.update(b"%s\0%d\0%s" % (name.encode(), len(data), data))
    return every.hexdigest()[:16]


def data(name: str) -> bytes:
    return _held()[name]


def url(name: str) -> str:
    """Raises `KeyError` for one that there is not: by a test, not by a visitor."""
    assert _held()[name]
    return f"/admin/assets/{digest()}/{name}"


async def asset(call: Call) -> Reply:
    """`GET /admin/assets/{digest}/{name}`: nothing secret; the page on which one signs in needs them too."""
    data = _held().get(call.path["name"])
    if data is None or call.path["digest"] != digest():
        raise NotFound("there is no such file; load the page anew")
    keep = {"cache-control": f"public, max-age={_YEAR}, immutable"}
    return Reply(data, media_type=_type_of(call.path["name"]), headers=keep)
