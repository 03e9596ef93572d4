r"""Where an image is said to be: a URL taken apart once, and the hosts that such a URL may name.

Every way to dress up an address lives on two programs reading the same URL differently (`http://a.org\@b.org/`,
`http://a.org#@b.org/`, `0x7f.1`, `127。0。0。1`).  So one strict expression reads it; ASCII letters, digits, dots,
hyphens and underscores make a host; what does not fit is refused rather than repaired; and the request is sent to the
parts that were checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, Self
from urllib.parse import quote, urljoin

from cache.sources.not_fetched import NotFetched

LONGEST_URL = 8192
"""Letters; signed addresses take up to 2,000."""

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,254})(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>(?:[/?][^#]*)?)(?:#.*)?",
    re.IGNORECASE | re.DOTALL | re.ASCII,
)
_WITH_USER = re.compile(r"[a-z]+://[^/?#]*@", re.IGNORECASE)
_SCHEME = re.compile(r"https?:", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_KEPT = "/?:@!$&'()*+,;=%-._~[]"
"""Signs of a path and query that go out as they came; a signature may cover each of them."""

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_ENTRY = re.compile(r"(?P<below>\*\.)?(?P<host>\[[^\]]*\]|[^:*]+)(?::(?P<port>[0-9]{1,5}))?")

_USUAL_PORTS = frozenset({80, 443})


@dataclass(frozen=True, slots=True)
class Location:
    """A URL's parts, in one form."""

    scheme: Literal["http", "https"]
    host: str
    """A name in lower case without a dot at its end, or an address in its usual form, an IPv6 one without brackets."""
    port: int
    target: str
    """Path and query as they go out."""

    @classmethod
    def of(cls, url: str) -> Self:
        """Raises `NotFetched`."""
        url = url.strip(" ")
        if not _SCHEME.match(url):
            raise NotFetched("only images at http and https addresses can be fetched")
        if len(url) > LONGEST_URL:
            raise NotFetched("its address is too long")
        if _CONTROL.search(url) is not None:
            raise NotFetched("its address is not well formed")
        if _WITH_USER.match(url):
            raise NotFetched("its address holds a user name or password")
        match = _URL.fullmatch(url)
        host = None if match is None else _host(match["host"])
        if match is None or host is None:
            raise NotFetched("its address is not well formed")
        scheme: Literal["http", "https"] = "https" if match["scheme"].lower() == "https" else "http"
        port = int(match["port"]) if match["port"] else {"http": 80, "https": 443}[scheme]
        if not 0 < port < 65536:
            raise NotFetched("its address is not well formed")
        target = quote(match["target"], safe=_KEPT, errors="surrogatepass")
        return cls(scheme, host, port, target if target.startswith("/") else "/" + target)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.target}"

    def moved_to(self, where: str) -> Location:
        """Where a redirect leads from here.  Raises `NotFetched`."""
        # What is not ASCII stands there as bytes; a backslash must not be a slash to us and a letter to others.
        ascii = quote(where.encode("utf-8", "surrogateescape"), safe=_KEPT + "#")
        try:
            there = Location.of(urljoin(self.url, ascii))
        except ValueError:
            raise NotFetched("its address is not well formed") from None
        if self.scheme == "https" and there.scheme == "http":
            raise NotFetched("it redirects from https to http")
        return there


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """One entry of the list of hosts: `images.example.org`, `*.example.org` (every name below it, itself not), an
    address; each with `:8080` behind it for another port than 80 and 443."""

    host: str
    below: bool = False
    port: int | None = None

    @classmethod
    def of(cls, entry: str) -> Self:
        """Raises `ValueError`."""
        bare = _address(entry)
        match = None if bare is not None else _ENTRY.fullmatch(entry.lower())
        host = bare if match is None else _host(match["host"])
        if host is None:
            raise ValueError("no host")
        below, port = (False, None) if match is None else (bool(match["below"]), match["port"])
        if (below and _address(host) is not None) or (port is not None and not 0 < int(port) < 65536):
            raise ValueError("no host")
        return cls(host, below, None if port is None else int(port))

    def __str__(self) -> str:
        if self.port is None:
            return f"*.{self.host}" if self.below else self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'*.' if self.below else ''}{host}:{self.port}"

    def allows(self, location: Location) -> bool:
        if location.port != self.port if self.port is not None else location.port not in _USUAL_PORTS:
            return False
        return location.host.endswith("." + self.host) if self.below else location.host == self.host


def allows(hosts: Iterable[AllowedHost], location: Location) -> bool:
    return any(one.allows(location) for one in hosts)


def _host(text: str) -> str | None:
    """`None` for what is none, and for an IPv4 address in any other form than `127.0.0.1`: some program down the line
    would take `127.1`, `0x7f000001`, `017700000001` or `2130706433` for one."""
    host = text.lower().removesuffix(".")
    if host.startswith("["):
        host = host[1:-1]
        return _address(host) if ":" in host else None
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        return _address(host)
    return host if _HOST_NAME.fullmatch(host) else None


def _address(text: str) -> str | None:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(IPv6Address(inner)) if ":" in inner and "%" not in inner else str(IPv4Address(inner))
    except ValueError:
        return None
