"""The configuration: what may be set, where it is looked for, and what is said when it is wrong.

A setting is taken from the first of these that has it:

    command-line flags  >  CHIASM_… environment variables  >  one TOML file  >  the defaults below

The file is the one that `--config` names, else the first that exists of `./config.toml`,
`$XDG_CONFIG_HOME/chiasm/config.toml` and `/etc/chiasm/config.toml`; files are never merged with each other.

*Variables in the file.*  Any string may hold `${VAR}` or `${VAR:-default}` (the default also stands in for an empty
variable, as in a shell).  Only `${` is special: a lone `$` and `$$` stay as they are, because passwords hold them, and
`$${` is how a literal `${` is written.  What a variable gives is not searched for variables again.

*Variables beside the file.*  `CHIASM_SERVER__PORT=9000` sets one option, in any letter case; lists are JSON
(`CHIASM_SERVER__API_KEYS='["…"]'`), and so are whole tables: `CHIASM_TEXT='[{"base_url": "…"}]'`.  A name without `__`
that is no table is left alone: clients keep their key in CHIASM_API_KEY, and Kubernetes sets CHIASM_PORT for a
service of our name.

*Secrets in files of their own.*  Where a variable is not set but the same name with `_FILE` behind it is, its value is
the content of the file named there, as container platforms hand secrets over.

Values of secrets appear in no message, no `repr` and no printed configuration.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

# --- what an option may hold -----------------------------------------------------------------------------------------


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address, as in `server.host`) can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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


def _bare_host(value: str) -> str:
    host = value.lower().rstrip(".")
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    if not re.fullmatch(r"[^\s/:*?#@\[\]]+", host):
        raise ValueError("must be a bare host name such as 'images.example.org' (no scheme, port, path or '*')")
    return host


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
AmountOrNone = Annotated[float, BeforeValidator(_not_a_bool), Field(ge=0, le=MOST)]
BaseUrl = Annotated[str, AfterValidator(_http_url)]
Secret = Annotated[SecretStr, AfterValidator(_header_safe)]
OptionalName = Annotated[str | None, BeforeValidator(_empty_is_unset)]
Host = Annotated[str, AfterValidator(_bare_host)]
Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, PlainValidator(_network)]

Engine = Literal["auto", "vllm", "sglang", "llamacpp", "ollama", "openai", "openrouter", "deepseek", "zai"]

NO_SECRET = SecretStr("")

# --- the tables ------------------------------------------------------------------------------------------------------


class _Table(BaseModel):
    # hide_input: a ValidationError that escapes to a log must not carry the key that it complains about.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ServerSettings(_Table):
    """`[server]`: how clients reach Chiasm."""

    host: Annotated[str, Field(min_length=1), AfterValidator(_without_brackets)] = "127.0.0.1"
    """Address to listen on, an IPv6 one without brackets; one that other machines can reach needs `api_keys`."""
    port: Port = 8090
    """0: any free port."""
    api_keys: tuple[Secret, ...] = ()
    """Clients must send one of these; each is a tenant.  Empty entries are dropped; empty: loopback hosts only."""
    admin_key: Secret = NO_SECRET
    """For the admin API and page; empty: reachable from loopback only."""
    max_body_mib: Amount = 128
    """Largest request body, in MiB."""
    heartbeat_seconds: Amount = 10
    """Silence towards the client after which a heartbeat is sent."""
    heartbeat: Literal["comment", "chunk", "off"] = "comment"
    """An SSE comment; an empty chunk, for clients that count chunks; or none."""
    drain_seconds: AmountOrNone = 30
    """How long running answers may go on after SIGTERM; 0: they are cut at once."""

    @field_validator("api_keys")
    @classmethod
    def _drop_empty(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        return tuple(key for key in keys if key.get_secret_value())

    @model_validator(mode="after")
    def _open_doors_need_keys(self) -> Self:
        if not self.api_keys and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} can be reached from other machines, but api_keys is empty: set api_keys "
                "(or the variable CHIASM_SERVER__API_KEYS='[\"…\"]'), or listen on 127.0.0.1"
            )
        return self


class UpstreamSettings(_Table):
    """What a brain and eyes have in common: a model on a server."""

    name: OptionalName = None
    """Default: `model`.  `None` (with `model`): the first model that the server lists, asked on first use."""
    base_url: BaseUrl
    """`http://…/v1`, kept without a slash at its end."""
    model: OptionalName = None
    """Id sent upstream; default: `name`."""
    api_key: Secret = NO_SECRET
    """Sent upstream as a bearer token; empty: none is sent."""
    engine: Engine = "auto"
    """The profile of wire facts to go by; `auto`: found out from the server."""

    @model_validator(mode="before")
    @classmethod
    def _name_and_model_stand_in_for_each_other(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        name, model = given.get("name") or None, given.get("model") or None
        if name is None and isinstance(model, str):
            return {**given, "name": model}
        if model is None and isinstance(name, str):
            return {**given, "model": name}
        return given


class TextSettings(UpstreamSettings):
    """`[[text]]`: a brain, a model that clients can ask for.  `name` is its id in /v1/models and in requests."""

    images: Literal["tool", "caption", "native", "off"] = "tool"
    """Looks on request; described once on arrival; shown to a brain that sees itself; passed through."""
    vision: OptionalName = None
    """The `name` of the eyes to use; `None`: the first."""
    thinking: Literal["client", "on", "off"] = "client"
    """Send the engine's thinking switch, or leave it to the client."""
    sampling: Literal["client", "preset"] = "client"
    """`preset`: the model card's values where the client is silent."""
    max_turns: Turns = 8
    """Upstream completions per client request."""
    first_byte_seconds: Amount = 300
    """Time to the upstream's first event."""
    idle_seconds: Amount = 120
    """Silence allowed inside an upstream stream."""


class VisionSettings(UpstreamSettings):
    """`[[vision]]`: eyes."""

    base_url: Annotated[str, AfterValidator(_http_url_or_empty)] = ""
    """As for a brain; may be empty only where `kind` is `ocr`."""
    thinking: bool = False
    """Let the eyes think before they answer: slower, better at puzzles."""
    max_tokens: Count = 2048
    """Longest answer to one look."""
    max_concurrency: Count = 8
    """Looks at once; further ones wait."""
    timeout_seconds: Amount = 120
    """For one look, waiting for its place not counted."""
    kind: Literal["qwen", "openai", "ocr"] = "qwen"
    """How to ask: as Qwen's vision models like it, plainly, or the embedded reader of printed words."""

    @model_validator(mode="before")
    @classmethod
    def _the_embedded_eyes_have_a_name(cls, given: Any) -> Any:
        # The other kinds can ask their server for a name.
        if isinstance(given, dict) and given.get("kind") == "ocr" and not (given.get("name") or given.get("model")):
            return {**given, "name": "ocr", "model": "ocr"}
        return given

    @model_validator(mode="after")
    def _a_server_unless_embedded(self) -> Self:
        if self.kind != "ocr" and not self.base_url:
            raise ValueError("needs base_url: only kind = 'ocr' works without a server")
        return self


class ImagesSettings(_Table):
    """`[images]`: how many stay in view, and which are let in."""

    max_loaded: Count = 30
    """With more than this the oldest are forgotten …"""
    keep_loaded: Count = 20
    """… down to this many, in one go, so that the prompt's prefix changes rarely."""
    max_loaded_tokens: Count = 60000
    """Second trigger: estimated tokens of what is loaded."""
    offer_tools: Literal["with_images", "always"] = "with_images"
    """From the conversation's first image on, or in every request (the prompt's head then never changes)."""
    max_image_mib: Amount = 20
    """Largest image file, in MiB."""
    max_megapixels: Amount = 50
    """Largest image, in millions of pixels."""
    remote_urls: Literal["off", "allow"] = "off"
    """Whether images may be fetched from http(s) addresses."""
    allowed_hosts: tuple[Host, ...] = ()
    """With `allow`: the only hosts that image addresses may name, in lower case."""
    allowed_networks: tuple[Network, ...] = ()
    """Special address ranges (private, loopback, link-local …) that those hosts may resolve to."""

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.keep_loaded > self.max_loaded:
            raise ValueError(f"keep_loaded ({self.keep_loaded}) must not exceed max_loaded ({self.max_loaded})")
        if self.remote_urls == "allow" and not self.allowed_hosts:
            raise ValueError("remote_urls = 'allow' needs allowed_hosts: name the hosts that images may come from")
        return self


class StoreSettings(_Table):
    """`[store]`: where images and their tables are kept."""

    kind: Literal["disk", "memory", "redis"] = "disk"
    """Redis is what several machines can share."""
    path: Path = Path("~/.local/share/chiasm")
    """Folder for `disk`; `load_settings` makes it absolute."""
    url: SecretStr = NO_SECRET
    """`redis://…` for `redis`; a secret as a whole, since a password may stand anywhere in it."""
    max_gib: Amount = 10
    """Space for images, in GiB; the longest unused go first."""
    retention_hours: Amount = 168
    """Idle time after which a conversation and its images go."""

    @field_validator("path", mode="before")
    @classmethod
    def _some_path(cls, path: object) -> object:
        if not isinstance(path, str | Path) or not str(path) or "\0" in str(path):
            raise ValueError("must be the path of a folder")
        return path

    @model_validator(mode="after")
    def _redis_has_an_address(self) -> Self:
        url = self.url.get_secret_value()
        if self.kind == "redis" and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("kind = 'redis' needs a url that begins with redis://, rediss:// or unix://")
        return self


class Settings(_Table):
    """The whole configuration, checked; `load_settings` is how a process gets one."""

    server: ServerSettings = ServerSettings()
    text: tuple[TextSettings, ...]
    vision: tuple[VisionSettings, ...] = ()
    images: ImagesSettings = ImagesSettings()
    store: StoreSettings = StoreSettings()

    def eyes_for(self, text: TextSettings) -> VisionSettings | None:
        """The eyes that `text` looks with; `None` only where its `images` mode needs none and there are none."""
        if text.vision is None:
            return self.vision[0] if self.vision else None
        return next(eyes for eyes in self.vision if eyes.name == text.vision)

    @model_validator(mode="after")
    def _names_tell_apart(self) -> Self:
        for table, entries in (("text", self.text), ("vision", self.vision)):
            seen: dict[str, int] = {}
            for number, entry in enumerate(entries, 1):
                if entry.name is None:
                    if len(entries) > 1:
                        raise ValueError(f"[[{table}]] #{number} needs a name: with several [[{table}]] each has one")
                elif (first := seen.setdefault(entry.name, number)) != number:
                    raise ValueError(
                        f"[[{table}]] #{number} has the name {entry.name!r}, which [[{table}]] #{first} has already"
                    )
        return self

    @model_validator(mode="after")
    def _brains_have_eyes(self) -> Self:
        if not self.text:
            raise ValueError("there is no [[text]]: add one with a base_url, or give --text URL")
        names = [eyes.name for eyes in self.vision if eyes.name is not None]
        for number, text in enumerate(self.text, 1):
            if text.vision is not None and text.vision not in names:
                raise ValueError(
                    f"[[text]] #{number} vision names {text.vision!r}, but no [[vision]] has that name; "
                    f"{_nearest(text.vision, names) or 'leave it out to use the first'}"
                )
            if not self.vision and text.images in {"tool", "caption"}:
                raise ValueError(
                    f"[[text]] #{number} has images = {text.images!r}, but there is no [[vision]]: add one or give "
                    "--vision URL (kind = 'ocr' needs no server), or set images to 'native' or 'off'"
                )
        return self


_TABLES: Mapping[str, type[_Table]] = {
    "server": ServerSettings,
    "text": TextSettings,
    "vision": VisionSettings,
    "images": ImagesSettings,
    "store": StoreSettings,
}
_LISTS = frozenset({"text", "vision"})

# --- what goes wrong -------------------------------------------------------------------------------------------------

Loc = tuple[int | str, ...]
"""Where a value stands: `("text", 0, "api_key")`, entries counted from 0."""


class ConfigError(Exception):
    """The configuration cannot be used.

    `str(error)` is one line that suffices to mend the first fault; `problems` has one such line for each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        first, *more = self.problems
        return f"{first} (and {len(more)} more)" if more else first


def _nearest(word: str, words: list[str]) -> str:
    """`did you mean 'port'?`, or nothing where nothing is near."""
    near = difflib.get_close_matches(word.lower(), words, n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def _short(word: str) -> str:
    return repr(word if len(word) <= 60 else word[:59] + "…")


def _word(key: str) -> str:
    return key if re.fullmatch(r"[\w-]{1,60}", key) else _short(key)


def _heading(table: str) -> str:
    return f"[[{table}]]" if table in _LISTS else f"[{_word(table)}]"


def _place(loc: Loc) -> str:
    """`[[text]] #1 api_key` for `("text", 0, "api_key")`."""
    if not loc:
        return ""
    head, *rest = loc
    return " ".join([_heading(str(head)), *(f"#{part + 1}" if isinstance(part, int) else _word(part) for part in rest)])


def _homes(option: str) -> list[str]:
    return [_heading(table) for table, model in _TABLES.items() if option in model.model_fields]


def _unknown_table(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), list(_TABLES), n=1)
    return f"there is no table {_short(name)}; " + (
        f"did you mean {_heading(near[0])}?" if near else f"there are {', '.join(map(_heading, _TABLES))}"
    )


def _stray_option(name: str) -> str:
    every = [option for model in _TABLES.values() for option in model.model_fields]
    near = difflib.get_close_matches(name.lower(), every, n=1)
    return f"{_short(name)} stands outside every table; " + (
        f"did you mean {near[0]!r}, under {' or '.join(_homes(near[0]))}?"
        if near
        else f"put options under {', '.join(map(_heading, _TABLES))}"
    )


def _unknown_option(loc: Loc) -> str:
    *where, last = loc
    option, options = str(last), list(_TABLES[str(loc[0])].model_fields)
    homes = _homes(option)
    advice = (
        (f"it belongs under {' or '.join(homes)}" if homes else "")
        or _nearest(option, options)
        or f"it has {', '.join(options)}"
    )
    return f"{_place(tuple(where))} has no option {_short(option)}; {advice}"


def _holds_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_holds_secret(part) for part in get_args(annotation))


def _is_secret(loc: Loc) -> bool:
    model = _TABLES.get(str(loc[0])) if loc else None
    fields = model.model_fields if model else {}
    return any(_holds_secret(fields[part].annotation) for part in loc[1:] if isinstance(part, str) and part in fields)


def _kind(value: object) -> str:
    match value:
        case str():
            return "a string"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case list() | tuple():
            return "a list"
        case dict():
            return "a table"
        case _:
            return f"a {type(value).__name__}"


def _given(value: object, loc: Loc) -> str:
    """`value` as an error may show it: secrets and whole tables (which may hold some) only by their kind."""
    if _is_secret(loc):
        return _kind(value)
    match value:
        case bool():
            return str(value).lower()
        case str():
            # So long a word without a colon or slash is rather a key in the wrong place.
            masked_user = re.sub(r"//[^/]*@", "//****@", value)
            return _kind(value) if re.fullmatch(r"[\w.+=-]{20,}", value) else _short(masked_user)
        case int() | float():
            return f"{value!r:.40}" if isinstance(value, float) or abs(value) < 10**40 else "so large a number"
        case _:
            return _kind(value)


_EXPECTED: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "tuple_type": "a list",
    "model_type": "a table",
    "string_too_short": "a string that is not empty",
    "greater_than": "more than {gt:.0f}",
    "greater_than_equal": "at least {ge:.0f}",
    "less_than_equal": "at most {le:.0f}",
    "literal_error": "one of {expected}",
}


def _sentence(error: ErrorDetails, written: object) -> str:
    """What is wrong, in our words; `written` is the faulty value as the user wrote it."""
    kind, loc, context = error["type"], error["loc"], error.get("ctx", {})
    if kind == "extra_forbidden":
        if len(loc) > 1:
            return _unknown_option(loc)
        is_table = isinstance(error["input"], dict | list)
        return _unknown_table(str(loc[0])) if is_table else _stray_option(str(loc[0]))
    if kind == "missing":
        if len(loc) == 1:
            return f"there is no {_heading(str(loc[0]))}: add one with a base_url, or give --{loc[0]} URL"
        return f"{_place(loc[:-1])} needs {loc[-1]}"
    if len(loc) == 1 and kind == "tuple_type" and isinstance(written, dict):
        return f"[{loc[0]}] must be written [[{loc[0]}]], with double brackets, because there may be several"
    if len(loc) == 1 and kind == "model_type" and isinstance(written, list):
        return f"[[{loc[0]}]] must be written [{loc[0]}], with single brackets, because there is only one"
    if kind == "value_error":
        message = str(context["error"])
        if not any(isinstance(part, str) for part in loc[1:]):  # of a whole table: the message says it all
            return f"{_place(loc)} {message}".lstrip()
        if _is_secret(loc):
            return f"{_place(loc)} {message}"
    elif kind in _EXPECTED:
        message = "must be " + _EXPECTED[kind].format_map(context)
    else:
        message = f"is wrong: {error['msg']}"
    return f"{_place(loc)} {message}, not {_given(written, loc)}"


# --- where it comes from ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flags:
    """What `chiasm serve` was told on the command line; `None`: nothing.

    `text` and `vision` are base URLs.  Each replaces the whole list of its name, so that no key or model id that was
    meant for one server goes to another.
    """

    host: str | None = None
    port: int | None = None
    text: str | None = None
    text_model: str | None = None
    vision: str | None = None
    vision_model: str | None = None


NO_FLAGS = Flags()


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, the file they came from (`None`: no file was needed), and lines worth a warning."""

    settings: Settings
    source: Path | None
    notes: tuple[str, ...] = ()


def load_settings(
    config: Path | None = None,
    *,
    flags: Flags = NO_FLAGS,
    environ: Mapping[str, str],
    cwd: Path,
    home: Path,
    etc: Path = Path("/etc"),
) -> Loaded:
    """Find, read, complete and check the configuration.

    `config` is the file that the user named (then no other is looked for); `environ`, `cwd`, `home` and `etc` are what
    `os.environ`, the working folder, the user's home and /etc are to a process.  Raises `ConfigError`, nothing else.
    """
    source = _find(config, environ=environ, cwd=cwd, home=home, etc=etc)
    name = _shown(source, cwd) if source else ""
    file = _parse(_read(source, name), name) if source else {}

    overrides, origins = _from_environ(environ, cwd)
    _add_flags(overrides, origins, flags)

    # Only what is left of the file is completed: a variable that nothing needs any more need not be set.
    remaining = {table: _without(value, overrides.get(table)) for table, value in file.items()}
    data = {
        table: _complete(value, (table,), name, environ, cwd)
        for table, value in remaining.items()
        if table not in overrides or isinstance(overrides[table], dict)
    }
    for table, value in overrides.items():
        if isinstance(value, dict) and table in data:
            if isinstance(data[table], dict):  # anything else is a fault of the file, which must not be covered up
                data[table] = {**data[table], **value}
        else:
            data[table] = value
    _add_lone_model_ids(data, origins, flags)

    if source is None and "text" not in data:
        places = ", ".join(_shown(path, cwd) for path in _candidates(environ=environ, cwd=cwd, home=home, etc=etc))
        raise ConfigError(
            "nothing is configured: give --text URL and --vision URL (base URLs ending in /v1), "
            f"or write a configuration file (config.example.toml is one; looked for: {places})"
        )

    settings = _check(data, written=remaining, origins=origins, name=name)
    folder = _absolute(settings.store.path, cwd, home)
    store = settings.store.model_copy(update={"path": folder})
    return Loaded(settings.model_copy(update={"store": store}), source, tuple(_notes(settings)))


def _candidates(*, environ: Mapping[str, str], cwd: Path, home: Path, etc: Path) -> list[Path]:
    # A relative $XDG_CONFIG_HOME is to be ignored (XDG Base Directory Specification, "Environment variables").
    xdg = Path(environ.get("XDG_CONFIG_HOME", ""))
    folder = xdg if xdg.is_absolute() else home / ".config"
    return [cwd / "config.toml", folder / "chiasm" / "config.toml", etc / "chiasm" / "config.toml"]


def _find(config: Path | None, *, environ: Mapping[str, str], cwd: Path, home: Path, etc: Path) -> Path | None:
    if config is not None:
        return cwd / config
    for path in _candidates(environ=environ, cwd=cwd, home=home, etc=etc):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # PermissionError: the folder is closed to us, so what is in it is not meant for us
        except OSError:
            pass  # something is there; reading it says what is wrong with it
        return path
    return None


def _shown(path: Path, cwd: Path) -> str:
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def _absolute(path: Path, cwd: Path, home: Path) -> Path:
    return home.joinpath(*path.parts[1:]) if path.parts[:1] == ("~",) else cwd / path


def _read(path: Path, name: str) -> str:
    """The text of a file, with or without the byte order mark that Windows editors put first."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        problem = "there is no such file"
    except IsADirectoryError:
        problem = "is a folder; name the file in it"
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text (at byte {error.start}); save it as UTF-8"
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise ConfigError(f"{name}: {problem}")


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        problem = "brackets nested too deeply"
    except ValueError as error:  # TOMLDecodeError is one; so is Python's limit on digits
        problem = str(error)
    # Raised out here, so that no chained exception carries the text: it may hold keys.
    raise ConfigError(f"{name}: not valid TOML: {problem}")


def _without(value: Any, overridden: Any) -> Any:
    if isinstance(value, dict) and isinstance(overridden, dict):
        return {option: inner for option, inner in value.items() if option not in overridden}
    return value


# `$${` (literal), a well-formed reference, or a `${` that is neither.  Names are those of POSIX shells.
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>(?:(?!\$\{)[^}])*))?\}|\$\{")


def _secret_file(name: str, path: str, cwd: Path) -> str:
    # Editors and `echo` end a file with a newline, which is no part of the key.
    # The path is not shown: by mistake it may be the key itself.
    return _read(cwd / path, f"the file that {name} names").rstrip("\r\n")


def _variable(variable: str, environ: Mapping[str, str], cwd: Path) -> str | None:
    if (value := environ.get(variable)) is not None:
        return value
    if (path := environ.get(name := f"{variable}_FILE")) is not None:
        return _secret_file(name, path, cwd)
    return None


def _complete(value: Any, loc: Loc, name: str, environ: Mapping[str, str], cwd: Path) -> Any:
    """`value` with every `${VAR}` in its strings replaced."""
    if len(loc) > 4:
        # The deepest option is table, entry, option, item of a list; what is deeper will be refused, but
        # a dotted key can be thousands deep.
        return value
    if isinstance(value, dict):
        return {key: _complete(inner, (*loc, key), name, environ, cwd) for key, inner in value.items()}
    if isinstance(value, list):
        return [_complete(inner, (*loc, number), name, environ, cwd) for number, inner in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        variable, default = match["name"], match["default"]
        if variable is None:
            raise ConfigError(
                f"{name}: {_place(loc)} has a '${{' that begins no ${{NAME}} or ${{NAME:-default}}; "
                "write '$${' where the two characters themselves are meant"
            )
        found = _variable(variable, environ, cwd)
        if default is not None:
            return found or default
        if found is None:
            raise ConfigError(
                f"{name}: {_place(loc)} needs the environment variable {variable}, which is not set; "
                f"set it, or write ${{{variable}:-}} if it may be empty"
            )
        return found

    return _REFERENCE.sub(replace, value)


_PREFIX = "CHIASM_"


def _is_setting(path: str) -> bool:
    """Whether `server__port` or `text` (a whole table) is something that may be set."""
    table, separator, option = path.partition("__")
    return table in _TABLES and (not separator or option in _TABLES[table].model_fields)


def _from_environ(environ: Mapping[str, str], cwd: Path) -> tuple[dict[str, Any], dict[Loc, str]]:
    """Options set by variables, in the shape of a file, and which variable each came from."""
    # Sorted so that of two spellings of one name the one in capitals comes last, and wins.
    names = sorted((name for name in environ if name.upper().startswith(_PREFIX)), key=str.isupper)
    variables = {name[len(_PREFIX) :].lower(): name for name in names}
    texts = {path: environ[name] for path, name in variables.items()}
    for path, name in list(variables.items()):
        setting = path.removesuffix("_file")
        if setting != path and _is_setting(setting):
            del variables[path]
            if setting not in variables:
                variables[setting], texts[setting] = name, _secret_file(name, environ[name], cwd)

    overrides: dict[str, Any] = {}
    origins: dict[Loc, str] = {}
    for path in sorted(variables):  # `server` before `server__port`: single options are laid over a whole table
        name, text = variables[path], texts[path]
        table, separator, option = path.partition("__")
        if not separator:
            if table in _TABLES:
                overrides[table] = _json(text, name, list if table in _LISTS else dict)
                origins[(table,)] = name
        elif table not in _TABLES:
            raise ConfigError(f"{name}: {_unknown_table(table)}")
        elif table in _LISTS:
            raise ConfigError(
                f"{name}: there may be several [[{table}]], so a variable can only give all of them: "
                f"put a JSON list in {_PREFIX}{table.upper()}, or write ${{VAR}} in the file"
            )
        else:
            field = _TABLES[table].model_fields.get(option)
            listed = field is not None and get_origin(field.annotation) is tuple
            overrides.setdefault(table, {})[option] = _json(text, name, list) if listed else text
            origins[(table, option)] = name
    return overrides, origins


def _json(text: str, name: str, shape: type[list[Any]] | type[dict[str, Any]]) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, shape):
        example = '["…", "…"]' if "__" in name else '[{"base_url": "…"}]' if shape is list else '{"option": "…"}'
        raise ConfigError(f"{name}: must be a JSON {'list' if shape is list else 'object'} such as {example}")
    return value


def _add_flags(overrides: dict[str, Any], origins: dict[Loc, str], flags: Flags) -> None:
    for option, value in (("host", flags.host), ("port", flags.port)):
        if value is not None:
            overrides.setdefault("server", {})[option] = value
            origins[("server", option)] = f"--{option}"
    for table, url, model in (("text", flags.text, flags.text_model), ("vision", flags.vision, flags.vision_model)):
        if url is not None:
            overrides[table] = [{"base_url": url} | ({} if model is None else {"model": model})]
            origins[(table,)] = f"--{table}"


def _add_lone_model_ids(data: dict[str, Any], origins: dict[Loc, str], flags: Flags) -> None:
    """`--text-model` without `--text` means the only [[text]] there is; new eyes serve every brain."""
    for table, url, model in (("text", flags.text, flags.text_model), ("vision", flags.vision, flags.vision_model)):
        if model is None or url is not None:
            continue
        match data.get(table):
            case [dict() as entry]:
                data[table] = [{**entry, "model": model}]
                origins[(table, 0, "model")] = f"--{table}-model"
            case _:
                raise ConfigError(f"--{table}-model: needs --{table} URL, or a file with exactly one [[{table}]]")
    if flags.vision is not None and isinstance(data.get("text"), list):
        data["text"] = [
            {option: value for option, value in text.items() if option != "vision"} if isinstance(text, dict) else text
            for text in data["text"]
        ]


def _check(data: dict[str, Any], *, written: dict[str, Any], origins: Mapping[Loc, str], name: str) -> Settings:
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    # A misspelt option comes first: it is often why another is missing.
    faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
    problems = []
    for fault in faults:
        loc = fault["loc"]
        origin = next((origins[loc[:end]] for end in range(len(loc), 0, -1) if loc[:end] in origins), None)
        # What a variable gave may be a secret in the wrong place, so the message shows the reference to it.
        template = _at(written, loc) if origin is None else None
        value = template if isinstance(template, str) and "${" in template else fault["input"]
        where = origin or name
        problems.append(f"{where}: {_sentence(fault, value)}" if where else _sentence(fault, value))
    # Raised out here, so that no chained exception carries the values.
    raise ConfigError(*problems)


def _at(data: Any, loc: Loc) -> Any:
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _notes(settings: Settings) -> Iterator[str]:
    entries: tuple[tuple[str, tuple[UpstreamSettings, ...]], ...] = (
        ("text", settings.text),
        ("vision", settings.vision),
    )
    for table, upstreams in entries:
        for number, upstream in enumerate(upstreams):
            url = upstream.base_url
            if url and not re.search(r"/v\d+$", url):  # /v1 nearly everywhere, /v4 at Z.ai
                yield (
                    f"{_place((table, number))} base_url does not end in /v1, as most servers' do; "
                    f"requests will go to {url}/chat/completions"
                )


# --- printing --------------------------------------------------------------------------------------------------------

_UNSET: Mapping[str, str] = {
    "name": "the first model that the server lists",
    "model": "the first model that the server lists",
    "vision": "the first [[vision]]",
}


def masked(settings: Settings) -> str:
    """The effective configuration as TOML, each secret as `"****"` (an empty one stays empty).

    What only the server can tell, or only follows from other entries, stands there as a comment.
    """
    blocks = []
    for table in _TABLES:
        value = getattr(settings, table)
        for entry in value if table in _LISTS else (value,):
            lines = [_heading(table)]
            for option in type(entry).model_fields:
                inner = getattr(entry, option)
                lines.append(f"# {option}: {_UNSET[option]}" if inner is None else f"{option} = {_toml(inner)}")
            blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case SecretStr():
            return '"****"' if value.get_secret_value() else '""'
        case _:
            # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
