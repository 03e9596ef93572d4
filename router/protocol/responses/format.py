"""OpenAI Responses as a wire format."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from router.errors import ChiasmError
from router.protocol.chat.writer import error_body
from router.protocol.dialect import Reader, Writer
from router.protocol.profiles import Profile
from router.protocol.responses import outline
from router.protocol.responses import request as responses_request
from router.protocol.responses.dialect import OpenAIResponses
from router.protocol.responses.history import fit
from router.protocol.responses.reader import EventReader, ResponseReader
from router.protocol.responses.writer import EventWriter, ResponseWriter
from router.protocol.wire_format import Envelope, MintId
from tools.definition import ToolDefinition


class Responses:
    """`POST /v1/responses`."""

    name = "responses"
    path = "/responses"
    id_prefix = "resp_"
    call_prefix = "call_"
    flat_results = False  # a result's output may be a list of parts

    def parse(self, body: bytes | bytearray) -> dict[str, Any]:
        return responses_request.parse(body)

    def outlined(self, request: dict[str, Any]) -> dict[str, Any]:
        return outline.outlined(request)

    def as_sent(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return outline.as_sent(request)

    def fit(self, request: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
        return fit(request, profile)

    def with_settings(
        self, request: dict[str, Any], profile: Profile, *, thinking: bool | None, preset: bool
    ) -> dict[str, Any]:
        return responses_request.with_settings(request, profile, thinking=thinking, preset=preset)

    def loop_can_work(self, request: Mapping[str, Any]) -> bool:
        return responses_request.loop_can_work(request)

    def tool_names(self, request: Mapping[str, Any]) -> set[str]:
        return responses_request.tool_names(request)

    def tool(self, definition: ToolDefinition) -> dict[str, Any]:
        return {
            "type": "function",
            "name": definition.name,
            "description": definition.description,
            "parameters": definition.parameters,
            "strict": False,  # OpenAI's default here would refuse our optional parameters
        }

    def thoughts(self, profile: Profile) -> Collection[str]:
        return ()  # they are items, and every server takes its own back

    def dialect(self, profile: Profile) -> OpenAIResponses:
        return OpenAIResponses()

    def answering(
        self, request: Mapping[str, Any], envelope: Envelope, *, mint_id: MintId, reasoning_fields: Sequence[str]
    ) -> ResponsesAnswering:
        return ResponsesAnswering(request, envelope, mint_id)

    def error_body(self, error: ChiasmError) -> dict[str, Any]:
        return error_body(error)

    def upstream_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return {}


class ResponsesAnswering:
    def __init__(self, request: Mapping[str, Any], envelope: Envelope, mint_id: MintId) -> None:
        self._streams = bool(request.get("stream"))
        self._mint_id = mint_id
        self._reader: EventReader | ResponseReader | None = None
        writer = EventWriter if self._streams else ResponseWriter
        self._writer = writer(request, envelope, last=self._last)

    @property
    def writer(self) -> Writer:
        return self._writer

    def reader(self, content_type: str) -> Reader:
        # `transformers serve` streams to whoever does not say that he wants no stream.
        if "event-stream" in content_type or (self._streams and "json" not in content_type):
            self._reader = EventReader(self._mint_id)
        else:
            self._reader = ResponseReader(self._mint_id)
        return self._reader

    @property
    def ids(self) -> tuple[str, str]:
        """Of the answer as the client knows it, and of what the server said last."""
        last = self._last().get("id")
        return self._writer.id, last if isinstance(last, str) else ""

    def _last(self) -> Mapping[str, Any]:
        """What the server said of its last answer, as late as it said so."""
        return self._reader.last if self._reader else {}
