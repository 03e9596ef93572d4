"""The tables of the configuration, with their options and defaults, and what must agree between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, SecretStr, field_validator, model_validator

from router.config.options import (
    Amount,
    AmountOrZero,
    BaseUrl,
    BaseUrlOrEmpty,
    Count,
    Currency,
    Engine,
    Host,
    ListenHost,
    Network,
    OptionalName,
    Port,
    Price,
    Secret,
    Turns,
    is_at,
    is_loopback,
)
from router.config.spelling import nearest

NO_SECRET = SecretStr("")


class _Table(BaseModel):
    # hide_input: a ValidationError that escapes to a log must not carry the key that it complains about.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ServerSettings(_Table):
    """`[server]`: how clients reach Chiasm."""

    host: ListenHost = "127.0.0.1"
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
    reasoning_field: Literal["reasoning_content", "reasoning", "both"] = "reasoning_content"
    """The field of the answer in which clients look for the model's thoughts."""
    late_reasoning: Literal["send", "drop"] = "send"
    """Thoughts that come after visible words (a follow-up turn has some); `drop` for clients that mix the two up."""
    drain_seconds: AmountOrZero = 30
    """How long running answers may go on after SIGTERM; 0: they are cut at once."""
    log_format: Literal["text", "json"] = "text"
    """How lines of the log are written: words with `name=value`, or an object each."""
    currency: Currency = "USD"
    """Of all prices; a name, nothing is converted."""

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
    """Default: `model`.  Where both are empty: the first model that the server lists, asked on first use."""
    base_url: BaseUrl
    """`http://…/v1`, kept without a slash at its end."""
    model: OptionalName = None
    """Id sent upstream; default: `name`."""
    api_key: Secret = NO_SECRET
    """Sent upstream as a bearer token; empty: none is sent."""
    engine: Engine = "auto"
    """The profile of wire facts to go by; `auto`: found out from the server."""
    price_input: Price = 0
    """Of a million tokens of prompts, in `server.currency`."""
    price_output: Price = 0
    """Of a million tokens of answers."""

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
    """The `name` of the eyes to use; empty: the first."""
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

    base_url: BaseUrlOrEmpty = ""
    """As for a brain; may be empty only where `kind` is `ocr`."""
    thinking: bool = False
    """Let the eyes think before they answer: slower, better at puzzles."""
    max_tokens: Count = 2048
    """Longest answer to one look."""
    max_concurrency: Count = 8
    """Looks at once; further ones wait."""
    timeout_seconds: Amount = 120
    """For one look, waiting for its place and retries counted."""
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
    """Whether images are fetched from http(s) addresses that clients send."""
    allowed_hosts: tuple[Host, ...] = ()
    """With `allow`: the only hosts that image addresses may name; `*.example.org` means every name below it."""
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
    """Redis (or Valkey) is what several machines can share."""
    path: Path = Path("~/.local/share/chiasm")
    """Folder for `disk`; `~` is the home folder, and what does not begin at the root begins at the working folder."""
    url: SecretStr = NO_SECRET
    """`redis://…`, `rediss://…` or `unix://…` for `redis`; a secret as a whole, since a password may stand anywhere in
    it."""
    max_gib: Amount = 10
    """Space for images, in GiB; the longest unused go first.  Not for `redis`, whose server has a limit of its own."""
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
                near = nearest(text.vision, names)
                raise ValueError(
                    f"[[text]] #{number} vision names {text.vision!r}, but no [[vision]] has that name; "
                    + (f"did you mean {near!r}?" if near else "leave it out to use the first")
                )
            if not self.vision and text.images in {"tool", "caption"}:
                raise ValueError(
                    f"[[text]] #{number} has images = {text.images!r}, but there is no [[vision]]: add one or give "
                    "--vision URL (kind = 'ocr' needs no server), or set images to 'off'"
                )
        return self

    @model_validator(mode="after")
    def _nobody_asks_himself(self) -> Self:
        for table, entries in (("text", self.text), ("vision", self.vision)):
            for number, entry in enumerate(entries, 1):
                if entry.base_url and is_at(entry.base_url, self.server.host, self.server.port):
                    raise ValueError(
                        f"[[{table}]] #{number} base_url {entry.base_url} is where Chiasm itself will listen: give the "
                        "address of the model's server, or another [server] port"
                    )
        return self


TABLES: Mapping[str, type[BaseModel]] = {
    "server": ServerSettings,
    "text": TextSettings,
    "vision": VisionSettings,
    "images": ImagesSettings,
    "store": StoreSettings,
}
LISTS = frozenset({"text", "vision"})
"""The tables that there may be several of, written with double brackets."""
