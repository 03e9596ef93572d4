"""What an option may hold: kinds of values, each with the words for what is none of its kind."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, SecretStr

from cache.sources.location import AllowedHost


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address, as in `server.host`) can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_at(url: str, host: str, port: int) -> bool:
    """Whether whoever listens on `host` and `port` would be asked by this URL; of names, only `localhost` is known."""
    asked = urlsplit(url)
    if (asked.port or (443 if asked.scheme == "https" else 80)) != port:
        return False
    name, listening = (asked.hostname or "").lower(), host.strip("[]").lower()
    everywhere = listening in ("0.0.0.0", "::")  # noqa: S104 (nothing is bound here)
    if everywhere or "localhost" in (name, listening):
        return is_loopback(name) and (everywhere or is_loopback(listening))
    return name == listening


def _not_a_bool(value: object) -> object:
    # To Python, and so to pydantic, true is the number 1; whoever writes `max_turns = true` means something else.
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 (pydantic takes a TypeError for a fault of ours)
    return value


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        has_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets or a port that make no sense
        has_address = False
    if not has_address or not value.isprintable() or " " in value:
        raise ValueError("must be an http or https address such as 'http://127.0.0.1:8000/v1'")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password (addresses are logged; put it in api_key)")
    if parts.query or parts.fragment:
        raise ValueError("must not hold '?' or '#' (paths such as /chat/completions are added at its end)")
    return value.rstrip("/")


def _http_url_or_empty(value: str) -> str:
    return _http_url(value) if value else value


def _header_safe(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value().strip()
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise ValueError("must be ASCII letters, digits and signs, without spaces: it travels in a header")
    return SecretStr(value)


def _allowed_host(value: str) -> str:
    try:
        return str(AllowedHost.of(value))
    except ValueError:
        raise ValueError(
            "must be a host such as 'images.example.org', 'images.example.org:8080' or '*.example.org' (no scheme or "
            "path, in ASCII letters)"
        ) from None


def _network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    try:
        return ipaddress.ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError("must be an address range such as '10.1.0.0/16' (all host bits zero)") from None


def _without_brackets(host: str) -> str:
    # Brackets belong to URLs; to a socket `[::1]` is an unknown name.
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _two_turns(value: int) -> int:
    if value < 2:
        raise ValueError("must be at least 2 (one turn to look, one left to answer)")
    return value


def _empty_is_unset(value: object) -> object:
    return None if value == "" else value


# More of anything is a slip of the hand, and timers of the event loop overflow somewhere above it.
MOST = 1_000_000_000

Count = Annotated[int, BeforeValidator(_not_a_bool), Field(ge=1, le=MOST)]
Turns = Annotated[int, BeforeValidator(_not_a_bool), Field(le=MOST), AfterValidator(_two_turns)]
Port = Annotated[int, BeforeValidator(_not_a_bool), Field(ge=0, le=65535)]
Amount = Annotated[float, BeforeValidator(_not_a_bool), Field(gt=0, le=MOST)]
AmountOrZero = Annotated[float, BeforeValidator(_not_a_bool), Field(ge=0, le=MOST)]
Price = AmountOrZero
Currency = Annotated[str, Field(pattern=r"^[A-Za-z]{1,8}$")]
BaseUrl = Annotated[str, AfterValidator(_http_url)]
BaseUrlOrEmpty = Annotated[str, AfterValidator(_http_url_or_empty)]
ListenHost = Annotated[str, Field(min_length=1), AfterValidator(_without_brackets)]
Secret = Annotated[SecretStr, AfterValidator(_header_safe)]
OptionalName = Annotated[str | None, BeforeValidator(_empty_is_unset)]
Host = Annotated[str, AfterValidator(_allowed_host)]
Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, PlainValidator(_network)]

Engine = Literal[
    "auto",
    "vllm",
    "sglang",
    "llamacpp",
    "ollama",
    "openai",
    "openrouter",
    "deepseek",
    "zai",
    "kimi",
    "minimax",
    "qwencloud",
]
