"""Traces: a request's phases under its span, in its caller's context, without its text."""

import asyncio
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from bosal_server.call import Call
from bosal_server.engine.request import ChoiceEnding, FinishedEvent, FinishReason, Timings, Usage
from bosal_server.errors import InternalFault, UnknownModel
from bosal_server.trace_context import current_trace, trace_headers
from bosal_server.tracing import Tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ENDING = ChoiceEnding(0, FinishReason.MAX_TOKENS, "", 7, ())
END = FinishedEvent((ENDING,), Usage(3, 0, 7), Timings(0.25, 0.5, 0.75, 1.0, 1.75))


def started() -> Any:
    return SimpleNamespace(
        request_id="r1",
        arrival=monotonic() - 2.0,
        model=SimpleNamespace(name="base"),
        recipe_name="steered",
        plan=SimpleNamespace(recipe=SimpleNamespace(version="abc")),
        variant_label="",
        prompts=(SimpleNamespace(token_ids=(1, 2, 3), text="a secret"),),
        num_choices=1,
    )


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_phases_lie_within_their_request(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    metadata = [("authorization", "Bearer x"), ("traceparent", f"00-{TRACE}-{PARENT}-01")]

    async def call() -> None:
        current_trace.set(trace_headers(metadata))
        tracing.record(started(), END)

    asyncio.run(call())
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"request", "queue", "prefill", "decode"}
    request = spans["request"]
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    for name, length in (("queue", 0.25), ("prefill", 0.5), ("decode", 1.0)):
        span = spans[name]
        assert seconds(span) == pytest.approx(length, abs=1e-6)
        assert span.context is not None
        assert f"{span.context.trace_id:032x}" == TRACE
        assert span.parent == request.context
    assert seconds(request) == pytest.approx(2.0, abs=0.5)
    assert request.attributes is not None
    assert request.attributes["bosal.output_tokens"] == 7
    assert all("secret" not in span.to_json() for span in spans.values())


@pytest.mark.parametrize(("outcome", "code"), [(InternalFault(), "INTERNAL"), (None, "CANCELLED")])
def test_a_request_that_failed_says_how(
    tracing: Tracing, exporter: InMemorySpanExporter, outcome: Any, code: str
) -> None:
    tracing.record(started(), outcome)
    (span,) = exporter.get_finished_spans()
    assert span.parent is None
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == code


def test_a_refusal_says_why(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    tracing.record_refusal("Generate", Call("r1", monotonic() - 2.0), UnknownModel("a", ["b"]))
    (span,) = exporter.get_finished_spans()
    assert seconds(span) == pytest.approx(2.0, abs=0.5)
    assert span.attributes == {
        "bosal.request_id": "r1",
        "bosal.method": "Generate",
        "bosal.refusal": "UNKNOWN_MODEL",
    }
    assert span.status.description == "NOT_FOUND"


def test_only_the_headers_of_traces_are_taken() -> None:
    metadata: list[tuple[str, str | bytes]] = [
        ("traceparent", "a"),
        ("tracestate", "b"),
        ("x", "c"),
        ("traceparent-bin", b"d"),
    ]
    assert trace_headers(metadata) == {"traceparent": "a", "tracestate": "b"}
