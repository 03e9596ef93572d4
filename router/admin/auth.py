"""Who may come in.

With `server.admin_key`: whoever sends it in a header, and a browser that has signed in with it once.  Without: whoever
asks from this machine.

**A browser** asks on behalf of any page that it shows, so three things are checked.  *Whose page asks* (`Origin`,
`Sec-Fetch-Site`): one of ours or none.  *That the page is ours, once more, for every change*: a token that only a page
of ours can have read.  It is made from the session, so nothing is kept here, and every process and machine with the
same key takes it.  *Under which name it found us*, where there is no key: a page of a stranger can have its own name
point at this machine (DNS rebinding), and is then our own page as far as the browser knows; so the name must be one
of this machine.

**This machine** is where the connection comes from.  Behind a proxy that would be everybody, so what came through one
is refused.

A session is a cookie: when it ends, a random word, and a seal.  The seal's secret is made from the key by a slow
function, so that a cookie which leaks does not help to guess the key.  Another key ends all sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from router.config import is_loopback
from router.errors import BadRequest, Forbidden, Unauthorized

COOKIE = "chiasm_admin"
SESSION_SECONDS = 12 * 3600
CSRF_HEADER = "x-csrf-token"

_ONCE = ("host", "origin", "authorization", "x-api-key", "cookie", "sec-fetch-site", CSRF_HEADER)
"""Headers of which two would mean that somebody else reads another one than we do."""

_THROUGH_A_PROXY = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "forwarded", "via")

_DIGITS = 13

_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Asking:
    """What a request says of where it comes from.  Names of headers in lower case."""

    method: str
    headers: Mapping[str, str]
    peer: str | None
    """The other end of the connection."""

    @classmethod
    def of(cls, scope: Any) -> Asking:
        """Raises `BadRequest` for headers that say two things at once."""
        headers: dict[str, str] = {}
        for raw, value in scope["headers"]:
            name = raw.decode("latin-1").lower()
            if name in _ONCE and name in headers:
                raise BadRequest(f"there are two headers {name!r}")
            headers[name] = value.decode("latin-1")
        client = scope.get("client")
        return cls(scope["method"], headers, client[0] if client else None)

    @property
    def by_browser(self) -> bool:
        return any(name in self.headers for name in ("origin", "sec-fetch-site", "sec-fetch-mode", "cookie"))

    @property
    def navigates(self) -> bool:
        """Somebody follows a link, which changes nothing."""
        return self.method in ("GET", "HEAD") and self.headers.get("sec-fetch-mode") == "navigate"

    @property
    def cookie(self) -> str:
        for pair in self.headers.get("cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == COOKIE:
                return value
        return ""


@dataclass(frozen=True, slots=True)
class Who:
    """`name` is for the audit log; `session` is what a browser signed in with, or has been given."""

    name: str
    session: str = ""
    by_key: bool = False
    """The key came with the request itself, which no page of a stranger can bring about."""


class Auth:
    def __init__(self, key: str, *, clock: Callable[[], float] = time.time) -> None:
        """`key`: empty where this machine alone may ask.  `clock`: seconds since 1970."""
        self._key = key.encode()
        self._clock = clock

    @property
    def needs_key(self) -> bool:
        return bool(self._key)

    def check(self, asking: Asking, *, page: bool = False) -> Who:
        """Raises `Unauthorized`, `Forbidden`.  `page`: links on other sites may lead here."""
        if not (page and asking.navigates):
            _refuse_strangers(asking)
        if not self._key:
            _refuse_other_machines(asking)
            return Who("loopback", session=asking.cookie if self._is_session(asking.cookie) else "")
        offered = _offered(asking)
        if offered:
            if not self._is_key(offered):
                raise Unauthorized("the admin key is wrong: send server.admin_key as Bearer or x-api-key")
            return Who(self._name, by_key=True)
        if self._is_session(asking.cookie):
            return Who(self._name, session=asking.cookie)
        raise Unauthorized("the admin key is missing: send server.admin_key as Bearer or x-api-key")

    def check_change(self, asking: Asking, who: Who, token: str | None = None) -> None:
        """That a change is meant by who makes it.  `token`: from a form; else it is in a header.  Raises
        `Forbidden`."""
        if asking.method not in _CHANGING or who.by_key or (not self._key and not asking.by_browser):
            return
        given = asking.headers.get(CSRF_HEADER, "") if token is None else token
        if not who.session or not hmac.compare_digest(
            given.encode("utf-8", "replace"), self.csrf(who.session).encode()
        ):
            raise Forbidden(
                f"the token against forged requests ({CSRF_HEADER}) is missing or old; load the page anew", code="csrf"
            )

    def sign_in(self, asking: Asking, key: str) -> str:
        """A session for who has the key (or is on this machine, where there is none).  Raises `Unauthorized`,
        `Forbidden`."""
        _refuse_strangers(asking)
        if not self._key:
            _refuse_other_machines(asking)
        elif not self._is_key(key):
            raise Unauthorized("the admin key is wrong")
        return self.new_session()

    def new_session(self) -> str:
        """To be given only to who may come in."""
        words = f"{int(self._clock()) + SESSION_SECONDS}.{secrets.token_urlsafe(18)}"
        return f"{words}.{self._seal('session', words)}"

    def csrf(self, session: str) -> str:
        """What a page of ours sends with every change."""
        return self._seal("csrf", session)

    def set_cookie(self, asking: Asking, session: str) -> str:
        """The header's value; an empty `session` takes it away."""
        secure = asking.headers.get("origin", "").startswith("https://")
        age = SESSION_SECONDS if session else 0
        return f"{COOKIE}={session}; Path=/admin; Max-Age={age}; HttpOnly; SameSite=Strict" + "; Secure" * secure

    def _is_key(self, key: str) -> bool:
        return bool(key) and hmac.compare_digest(key.encode("utf-8", "replace"), self._key)

    def _is_session(self, cookie: str) -> bool:
        words, _, seal = cookie.rpartition(".")
        if not hmac.compare_digest(seal.encode("utf-8", "replace"), self._seal("session", words).encode()):
            return False
        ends = words.partition(".")[0]
        return ends.isdecimal() and len(ends) < _DIGITS and int(ends) > self._clock()

    def _seal(self, kind: str, words: str) -> str:
        said = f"{kind}\0{words}".encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, said, hashlib.sha256).hexdigest()

    @cached_property
    def _secret(self) -> bytes:
        # Without a key nothing is secret but the session's random word, which strangers cannot read.
        return hashlib.scrypt(self._key, salt=b"chiasm admin session", n=2**14, r=8, p=1, dklen=32)

    @cached_property
    def _name(self) -> str:
        return "key:" + hashlib.sha256(b"chiasm admin\0" + self._key).hexdigest()[:8]


def _offered(asking: Asking) -> str:
    scheme, _, bearer = asking.headers.get("authorization", "").partition(" ")
    return asking.headers.get("x-api-key", "") or (bearer.strip() if scheme.lower() == "bearer" else "")


def _refuse_strangers(asking: Asking) -> None:
    """Pages of other sites."""
    site, origin = asking.headers.get("sec-fetch-site"), asking.headers.get("origin")
    if site not in (None, "same-origin", "none"):
        raise Forbidden("pages of other sites may not ask here")
    # Where the browser itself says that it is the same, a proxy may have given us another host's name.
    if origin is not None and site is None and _place(origin) != asking.headers.get("host", "").lower():
        raise Forbidden("pages of other sites may not ask here")


def _refuse_other_machines(asking: Asking) -> None:
    if asking.peer is None or not _is_this_machine(asking.peer):
        raise Forbidden("only this machine may ask here; set server.admin_key to ask from others", code="not_loopback")
    if any(name in asking.headers for name in _THROUGH_A_PROXY):
        raise Forbidden("this came through a proxy; set server.admin_key to ask through one", code="not_loopback")
    host = asking.headers.get("host", "")
    if not is_loopback(_hostname(f"//{host}")):
        raise Forbidden(f"{host[:100]!r} is no name of this machine; use 127.0.0.1 or localhost", code="not_loopback")
    origin = asking.headers.get("origin")
    if origin is not None and _place(origin) != host.lower():
        raise Forbidden("pages of other sites may not ask here")


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_this_machine(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
