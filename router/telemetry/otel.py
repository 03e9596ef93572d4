"""`router.telemetry.traces` by OpenTelemetry; imported only where it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from router.telemetry.spans import Kind, Span, Value

_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT}


class OtelSpan:
    def __init__(self, span: trace.Span) -> None:
        self.span = span

    def set(self, attributes: Mapping[str, Value]) -> None:
        self.span.set_attributes(attributes)

    def failed(self, error: str) -> None:
        self.span.set_attribute("error.type", error)
        self.span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        self.span.end()


class OtelTraces:
    def __init__(self, tracer: Tracer, close: Callable[[], None]) -> None:
        self._tracer = tracer
        self._close = close
        self._propagator = TraceContextTextMapPropagator()

    def span(
        self, name: str, kind: Kind, attributes: Mapping[str, Value], headers: Mapping[str, str] | None = None
    ) -> Span:
        context = None if headers is None else self._propagator.extract(headers)
        return OtelSpan(self._tracer.start_span(name, context, _KINDS[kind], attributes))

    def current(self, span: Span) -> AbstractContextManager[object]:
        assert isinstance(span, OtelSpan)
        return trace.use_span(span.span, record_exception=False, set_status_on_exception=False)

    def close(self) -> None:
        self._close()
