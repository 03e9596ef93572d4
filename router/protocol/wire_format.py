"""What differs between the addresses that complete conversations: each has a wire format, the same on both sides.

Everything between the two ends works on one *outline* of a request, whatever the format: the request's own fields, and
`messages`, a list of messages with the roles of Chat Completions.

*   A message of the user or the system has `content`, a string or a list of parts in the format's own form.
*   A message of the brain has `content`, and `tool_calls` as Chat Completions writes them (`id`, `function.name`,
    `function.arguments` as JSON text).  Where `content` is a list, thoughts are parts of it in the format's own form,
    and `parts.CALL` stands where a call was said, so that the server gets all in the order in which it said it.
*   A result of a call is a message of the role `tool` with `tool_call_id` and `content`.

Text that is ours is a string or a part `{"type": "text", "text"}`, a picture of ours a part `image_url`.  `as_sent`
gives them the format's own form, and is otherwise the exact inverse of `outlined`: nothing of the client's is
translated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from router.errors import ChiasmError
from router.protocol.dialect import Dialect, Reader, Writer
from router.protocol.profiles import Profile
from tools.definition import ToolDefinition


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every event of the answer says of itself, where the server does not say it."""

    id: str
    created: int
    model: str
    """The name the client asked for, not the server's."""


class Answering(Protocol):
    """How one request is answered."""

    @property
    def writer(self) -> Writer:
        """Writes the answer, streamed or whole."""

    @property
    def ids(self) -> tuple[str, str] | None:
        """Of the answer as the client knows it, and of what the server said last; `None` where servers keep no answers
        that a request could go on from by their ids."""

    def reader(self, content_type: str) -> Reader:
        """Reads the next turn, whose body has this type."""


class WireFormat(Protocol):
    name: str
    """Histories of different formats have no hidden turns in common."""

    path: str
    """Behind a server's base URL."""

    id_prefix: str
    """Of an answer's id, where the server gives none."""

    call_prefix: str
    """Of a call's id, likewise."""

    flat_results: bool
    """Whether a result that held an image is plain text afterwards."""

    def parse(self, body: bytes | bytearray) -> dict[str, Any]:
        """The body as an object of the right form.  Raises `BadRequest`."""

    def outlined(self, request: dict[str, Any]) -> dict[str, Any]:
        """What `parse` answered, in outline."""

    def as_sent(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The inverse."""

    def fit(self, request: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
        """An outline as this server takes it, changing the least; a function of the request alone."""

    def with_settings(
        self, request: dict[str, Any], profile: Profile, *, thinking: bool | None, preset: bool
    ) -> dict[str, Any]:
        """With what the configuration adds where the client is silent, each as `Added`.

        `thinking`: on, off, or as the client has it.  `preset`: whether the model card's sampling is wanted.
        """

    def loop_can_work(self, request: Mapping[str, Any]) -> bool:
        """Whether the brain could call our tool and be asked again."""

    def tool_names(self, request: Mapping[str, Any]) -> set[str]:
        """The names of the client's own tools."""

    def tool(self, definition: ToolDefinition) -> dict[str, Any]:
        """A tool as it stands in `tools`."""

    def thoughts(self, profile: Profile) -> Collection[str]:
        """The fields of a message in which this server takes a turn's thoughts back."""

    def dialect(self, profile: Profile) -> Dialect:
        """How a conversation with this server goes on."""

    def answering(
        self, request: Mapping[str, Any], envelope: Envelope, *, mint_id: MintId, reasoning_fields: Sequence[str]
    ) -> Answering:
        """For one request, as `parse` answered it.  `reasoning_fields`: where the client reads thoughts, if the format
        leaves that open."""

    def error_body(self, error: ChiasmError) -> dict[str, Any]:
        """The whole answer where there is nothing else to say."""

    def upstream_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Those of the client's headers that belong to the format and that the server has to see.  Names in lower
        case."""


class MintId(Protocol):
    """An id for a call that came without one."""

    def __call__(self) -> str: ...
