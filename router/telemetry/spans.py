"""What a trace is to whoever tells it something, whether anybody listens (`otel.py`) or not (`traces.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

Kind = Literal["server", "client"]
Value = str | int | float | bool | Sequence[str]


class Span(Protocol):
    def set(self, attributes: Mapping[str, Value]) -> None: ...

    def failed(self, error: str) -> None:
        """`error`: one of a few codes."""

    def end(self) -> None: ...


class Traces(Protocol):
    def span(
        self, name: str, kind: Kind, attributes: Mapping[str, Value], headers: Mapping[str, str] | None = None
    ) -> Span:
        """Begun now, under the one that is current here, or under the one that a client's `headers` name."""

    def current(self, span: Span) -> AbstractContextManager[object]:
        """Within it, others begin under `span`."""

    def close(self) -> None:
        """Send what is left; may take some seconds."""
