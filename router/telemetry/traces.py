"""Spans for OpenTelemetry: one for each exchange, in it one for each turn of the brain and each look.

Only with the extra `otel`, and only where the standard variables name a place to send them to
(`OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`); otherwise nothing of it is imported.  Names are
those of the conventions for generative AI.  Nothing that was said goes into a span.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from threading import Thread
from types import TracebackType

from router.telemetry.spans import Kind, Span, Traces, Value

log = logging.getLogger("chiasm.traces")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

LAST_SPANS_SECONDS = 2.0
"""For what has not been sent yet when the process ends.  The exporter by itself tries for ten."""


class _Nothing:
    """No traces, no span, and no context of one."""

    def span(
        self, name: str, kind: Kind, attributes: Mapping[str, Value], headers: Mapping[str, str] | None = None
    ) -> _Nothing:
        return self

    def current(self, span: Span) -> _Nothing:
        return self

    def set(self, attributes: Mapping[str, Value]) -> None: ...

    def failed(self, error: str) -> None: ...

    def end(self) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


NO_TRACES: Traces = _Nothing()


def open_traces(environ: Mapping[str, str]) -> Traces:
    """What the standard variables ask for."""
    wanted = any(environ.get(name) for name in _ENDPOINTS) and environ.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp"
    if not wanted or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NO_TRACES
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("no traces: a place to send them to is set, but the extra is missing (pip install '.[otel]')")
        return NO_TRACES
    named = "OTEL_SERVICE_NAME" in environ or "service.name" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {SERVICE_NAME: "chiasm"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))

    def close() -> None:
        ending = Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(LAST_SPANS_SECONDS)

    from router.telemetry.otel import OtelTraces

    return OtelTraces(provider.get_tracer("chiasm"), close)
