"""OpenAI Chat Completions, whose messages are the outline themselves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from router.errors import ChiasmError
from router.protocol.chat import request as chat_request
from router.protocol.chat.dialect import OpenAIChat
from router.protocol.chat.history import fit
from router.protocol.chat.reader import ChunkReader, CompletionReader
from router.protocol.chat.writer import ChunkWriter, CompletionWriter, error_body
from router.protocol.dialect import Reader, Writer
from router.protocol.profiles import Profile
from router.protocol.wire_format import Envelope, MintId
from tools.definition import ToolDefinition


class ChatCompletions:
    """`POST /v1/chat/completions`."""

    name = "chat"
    path = "/chat/completions"
    id_prefix = "chatcmpl-"
    call_prefix = "call_"
    flat_results = True  # Ollama loses the id of a tool message with a list in it

    def parse(self, body: bytes | bytearray) -> dict[str, Any]:
        return chat_request.parse(body)

    def outlined(self, request: dict[str, Any]) -> dict[str, Any]:
        return request

    def as_sent(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return request

    def fit(self, request: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
        return fit(request, profile)

    def with_settings(
        self, request: dict[str, Any], profile: Profile, *, thinking: bool | None, preset: bool
    ) -> dict[str, Any]:
        return chat_request.with_settings(request, profile, thinking=thinking, preset=preset)

    def loop_can_work(self, request: Mapping[str, Any]) -> bool:
        return chat_request.loop_can_work(request)

    def tool_names(self, request: Mapping[str, Any]) -> set[str]:
        return chat_request.tool_names(request)

    def tool(self, definition: ToolDefinition) -> dict[str, Any]:
        return tool_object(definition)

    def thoughts(self, profile: Profile) -> Collection[str]:
        return profile.history_reasoning

    def dialect(self, profile: Profile) -> OpenAIChat:
        return OpenAIChat(profile)

    def answering(
        self, request: Mapping[str, Any], envelope: Envelope, *, mint_id: MintId, reasoning_fields: Sequence[str]
    ) -> ChatAnswering:
        return ChatAnswering(request, envelope, mint_id, reasoning_fields)

    def error_body(self, error: ChiasmError) -> dict[str, Any]:
        return error_body(error)

    def upstream_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return {}


class ChatAnswering:
    ids: None = None

    def __init__(
        self, request: Mapping[str, Any], envelope: Envelope, mint_id: MintId, reasoning_fields: Sequence[str]
    ) -> None:
        self._streams = bool(request.get("stream"))
        self._mint_id = mint_id
        self._whole: CompletionReader | None = None
        """Of the last turn, when that did not stream."""
        wants_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        self.writer: Writer = (
            ChunkWriter(fallback=envelope, include_usage=wants_usage, reasoning_fields=reasoning_fields)
            if self._streams
            else CompletionWriter(fallback=envelope, last_raw=self._last_raw, reasoning_fields=reasoning_fields)
        )

    def reader(self, content_type: str) -> Reader:
        if self._streams and "json" not in content_type:
            return ChunkReader(self._mint_id)
        self._whole = CompletionReader(self._mint_id)
        return self._whole

    def _last_raw(self) -> Mapping[str, Any]:
        return self._whole.raw if self._whole else {}


def tool_object(tool: ToolDefinition) -> dict[str, Any]:
    """A tool as it stands in `tools`."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
