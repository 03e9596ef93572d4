"""Anthropic Messages as a wire format."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from router.errors import ChiasmError
from router.protocol.dialect import Reader, Writer
from router.protocol.messages import outline
from router.protocol.messages import request as messages_request
from router.protocol.messages.dialect import Messages
from router.protocol.messages.errors import error_body
from router.protocol.messages.reader import EventReader, MessageReader
from router.protocol.messages.writer import EventWriter, MessageWriter
from router.protocol.profiles import Profile
from router.protocol.wire_format import Envelope, MintId
from tools.definition import ToolDefinition

_VERSION = "2023-06-01"
"""Anthropic and some gateways refuse a request without any; all SDKs send this one at least."""

_PASSED_ON = ("anthropic-version", "anthropic-beta")


class AnthropicMessages:
    """`POST /v1/messages`."""

    name = "messages"
    path = "/messages"
    id_prefix = "msg_"
    call_prefix = "toolu_"
    flat_results = False

    def parse(self, body: bytes | bytearray) -> dict[str, Any]:
        return messages_request.parse(body)

    def outlined(self, request: dict[str, Any]) -> dict[str, Any]:
        return outline.outlined(request)

    def as_sent(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return outline.as_sent(request)

    def fit(self, request: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
        return messages_request.fit(request, profile)

    def with_settings(
        self, request: dict[str, Any], profile: Profile, *, thinking: bool | None, preset: bool
    ) -> dict[str, Any]:
        return messages_request.with_settings(request, profile, thinking=thinking, preset=preset)

    def loop_can_work(self, request: Mapping[str, Any]) -> bool:
        return messages_request.loop_can_work(request)

    def tool_names(self, request: Mapping[str, Any]) -> set[str]:
        return messages_request.tool_names(request)

    def tool(self, definition: ToolDefinition) -> dict[str, Any]:
        return {"name": definition.name, "description": definition.description, "input_schema": definition.parameters}

    def thoughts(self, profile: Profile) -> Collection[str]:
        return ()  # they are blocks

    def dialect(self, profile: Profile) -> Messages:
        return Messages()

    def answering(
        self, request: Mapping[str, Any], envelope: Envelope, *, mint_id: MintId, reasoning_fields: Sequence[str]
    ) -> MessagesAnswering:
        return MessagesAnswering(request, envelope, mint_id)

    def error_body(self, error: ChiasmError) -> dict[str, Any]:
        return error_body(error)

    def upstream_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        given = {name: value for name in _PASSED_ON if (value := headers.get(name))}
        return {"anthropic-version": _VERSION, **given}


class MessagesAnswering:
    ids: None = None

    def __init__(self, request: Mapping[str, Any], envelope: Envelope, mint_id: MintId) -> None:
        self._streams = bool(request.get("stream"))
        self._mint_id = mint_id
        self._whole: MessageReader | None = None
        """Of the last turn, when that did not stream."""
        self.writer: Writer = (
            EventWriter(fallback=envelope)
            if self._streams
            else MessageWriter(fallback=envelope, last_raw=self._last_raw)
        )

    def reader(self, content_type: str) -> Reader:
        if self._streams and "json" not in content_type:
            return EventReader(self._mint_id)
        self._whole = MessageReader(self._mint_id)
        return self._whole

    def _last_raw(self) -> Mapping[str, Any]:
        return self._whole.raw if self._whole else {}
