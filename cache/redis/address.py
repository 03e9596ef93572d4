"""From the `url` of the configuration to connections.

A password may stand anywhere in a url that somebody mistyped, so no message quotes any part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, RedisSSLContext, SSLConnection, parse_url

from cache.store import StoreError

_OPTIONS = frozenset(
    {
        "db",
        "username",
        "password",
        "ssl_keyfile",
        "ssl_certfile",
        "ssl_password",
        "ssl_cert_reqs",
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_check_hostname",
    }
)
"""What may stand behind the `?`.  Others that the library knows (limits, retries, protocol) would undo what the store
promises."""


@dataclass(frozen=True, slots=True)
class Address:
    """How to connect, and the password that values are sealed with."""

    connection: type[AbstractConnection] = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    password: str = field(repr=False)


class SharedTls(SSLConnection):
    """With a TLS context made before: each connection would load the machine's certificates anew, on the event loop,
    which takes tens of milliseconds."""

    def __init__(self, *, tls: RedisSSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context = tls


def read_address(url: str) -> Address:
    """Raises `StoreError` for a url that cannot be used; certificates it names are loaded here."""
    problem = _problem(url)
    if problem is not None:
        raise StoreError(f"the url of the store {problem}")
    options: dict[str, Any] = dict(parse_url(url))
    connection = options.pop("connection_class", Connection)
    password = str(options.get("password", ""))
    if issubclass(connection, SSLConnection):
        tls = _tls({name: value for name, value in options.items() if name.startswith("ssl_")})
        options = {name: value for name, value in options.items() if not name.startswith("ssl_")} | {"tls": tls}
        connection = SharedTls
    return Address(connection, options, password)


def _problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        options = parse_url(url)
        port = parts.port
    except ValueError:
        return "cannot be read; special characters in its password must be percent-encoded"
    if parts.scheme != "unix" and (parts.path.strip("/") and not parts.path.strip("/").isdecimal()):
        return "must end in the number of a database, if anything; a / in its password is written %2F"
    if parts.fragment:
        return "must not hold a #; in a password it is written %23"
    if parts.scheme == "unix" and not parts.path:
        return "must name the path of a socket"
    if set(options) - {"connection_class", "host", "port", "path"} - _OPTIONS:
        return f"may have these options behind its ?, and no others: {', '.join(sorted(_OPTIONS))}"
    if parts.scheme != "rediss" and any(name.startswith("ssl_") for name in options):
        return "has options for TLS, but does not begin with rediss://"
    if port == 0:
        return "must not name port 0"
    return None


def _tls(options: Mapping[str, Any]) -> RedisSSLContext:
    problem: str | None
    try:
        tls = SSLConnection(**options).ssl_context
        tls.get()
    except OSError as error:  # ssl.SSLError is one; its text names no content of a file
        problem = error.strerror or type(error).__name__
    except Exception as error:  # a value the client does not know; the error would repeat it
        problem = type(error).__name__
    else:
        return tls
    raise StoreError(f"the certificates that the url of the store names cannot be used: {problem}")
