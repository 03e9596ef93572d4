"""Spans of exchanges, turns and looks, as an exporter gets them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from router import app
from router.telemetry.otel import OtelTraces
from router.telemetry.traces import LAST_SPANS_SECONDS, NO_TRACES, open_traces
from tests.brain import looks, refuses, says
from tests.eyes import sees
from tests.live import becomes, live, picture, shown, soon, user
from tests.speakers.speaker import Speaker

pytestmark = [pytest.mark.anyio]

MARK = "Kumquat"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces = OtelTraces(provider.get_tracer("chiasm"), provider.shutdown)
    monkeypatch.setattr(app, "open_traces", lambda environ: traces)
    return exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


@pytest.mark.live
async def test_an_exchange_is_a_span_with_its_turns_and_looks_inside(
    speaker: Speaker, exported: InMemorySpanExporter
) -> None:
    async with live() as house:
        house.brain.will(says(MARK, looks(1, MARK), usage=(100, 10)), says(MARK, usage=(150, 4)))
        house.eyes.will(sees(MARK, usage=(70, 6)))
        await house.chat(user(MARK, shown(picture(1))), stream=True, headers={"x-request-id": "r-1"})
        spans = by_name(exported)
    assert {name: len(found) for name, found in spans.items()} == {"exchange": 1, "chat brain": 2, "look eyes": 1}
    (exchange,), (look,), turns = spans["exchange"], spans["look eyes"], spans["chat brain"]
    assert exchange.parent is None
    assert exchange.kind is SpanKind.SERVER
    for inner in (look, *turns):
        assert inner.parent is not None
        assert inner.parent.span_id == exchange.context.span_id
        assert inner.kind is SpanKind.CLIENT
    about, seen = dict(exchange.attributes or {}), dict(look.attributes or {})
    assert about["gen_ai.request.model"] == "brain"
    assert about["chiasm.request_id"] == "r-1"
    assert about["chiasm.format"] == speaker.name
    assert (about["chiasm.turns"], about["chiasm.looks"]) == (2, 1)
    assert (about["gen_ai.usage.input_tokens"], about["gen_ai.usage.output_tokens"]) == (250, 14)
    assert about["gen_ai.response.finish_reasons"] == ("stop",)
    assert [(turn.attributes or {})["gen_ai.usage.input_tokens"] for turn in turns] == [100, 150]
    assert (seen["gen_ai.usage.input_tokens"], seen["chiasm.look.outcome"]) == (70, "answered")
    assert not any(MARK in span.to_json() for span in exported.get_finished_spans())


@pytest.mark.live
async def test_what_fails_is_marked_as_failed_without_the_servers_words(exported: InMemorySpanExporter) -> None:
    async with live() as house:
        house.brain.will(says(looks(1, MARK)), refuses(400, MARK))
        house.eyes.answers = lambda _: refuses(400, MARK)
        await house.send({"messages": [user(MARK, shown(picture(1)))]})
        spans = exported.get_finished_spans()
    failed = {span.name: (span.attributes or {}).get("error.type") for span in spans if not span.status.is_ok}
    assert failed == {"exchange": "upstream_refused", "chat brain": "upstream_refused", "look eyes": "failed"}
    assert all(span.status.description is None for span in spans)
    assert {span.status.status_code for span in spans} == {StatusCode.ERROR, StatusCode.UNSET}
    assert not any(MARK in span.to_json() for span in spans)


@pytest.mark.live
async def test_a_clients_own_trace_goes_on(exported: InMemorySpanExporter) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    async with live() as house:
        house.brain.will(says("Hello."))
        await house.chat(user("Hi."), headers={"traceparent": f"00-{trace}-{parent}-01"})
        (exchange,) = by_name(exported)["exchange"]
    assert exchange.parent is not None
    assert f"{exchange.context.trace_id:032x}" == trace
    assert f"{exchange.parent.span_id:016x}" == parent


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_a_place_to_send_them_to_there_are_no_traces(environ: dict[str, str]) -> None:
    assert open_traces(environ) is NO_TRACES


async def test_with_one_there_are_and_nobody_waits_long_for_a_place_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    before = _threads()
    traces = open_traces(os.environ)
    assert isinstance(traces, OtelTraces)
    traces.span("exchange", "server", {}).end()
    await soon(asyncio.to_thread(traces.close), within=2 * LAST_SPANS_SECONDS)
    await becomes(lambda: _threads() <= before)  # what it still complains of is not another test's


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}


def test_without_traces_nothing_of_the_extra_is_imported() -> None:
    program = "import sys, router.app; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_where_the_extra_is_missing_the_service_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert open_traces({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}) is NO_TRACES
    assert ".[otel]" in caplog.text
