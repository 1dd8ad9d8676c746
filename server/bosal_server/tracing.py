"""OpenTelemetry traces of requests; needs `bosal[otel]`."""

from time import monotonic, time_ns
from typing import Final

from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from bosal_decoding.errors import DecodingError
from bosal_server.call import Call
from bosal_server.engine.request import FinishedEvent, Timings
from bosal_server.errors import ServerError
from bosal_server.started import Started
from bosal_server.trace_context import current_trace

_NANOSECONDS: Final = 1e9

Outcome = FinishedEvent | BaseException | None


class Tracing:
    """Makes a span of every request, and of the queue, prefill and decode of one that ran.

    Spans are made when a request is over, of the times the engine took anyway, so a request costs
    nothing before. Their parent is the span that the call's W3C headers name. No text is in them.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("bosal")

    @classmethod
    def to(cls, endpoint: str) -> "Tracing":
        """Send spans to a collector by OTLP over gRPC, from a thread, in batches."""
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        provider = TracerProvider(resource=Resource.create({"service.name": "bosal"}))
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()

    def record_refusal(self, method: str, call: Call, error: BaseException) -> None:
        """Make the span of a call that failed before its request ran."""
        now = time_ns()
        span = self._tracer.start_span(
            "request",
            context=extract(current_trace.get()),
            kind=SpanKind.SERVER,
            start_time=now - int((monotonic() - call.arrival) * _NANOSECONDS),
            attributes={
                "bosal.request_id": call.request_id,
                "bosal.method": method,
                "bosal.refusal": getattr(error, "reason", "INTERNAL"),
            },
        )
        span.set_status(Status(StatusCode.ERROR, _code(error)))
        span.end(now)

    def record(self, started: Started, outcome: Outcome) -> None:
        """Make the spans of a request that is over; None: its caller cancelled it."""
        now = time_ns()
        begin = now - int((monotonic() - started.arrival) * _NANOSECONDS)
        span = self._tracer.start_span(
            "request",
            context=extract(current_trace.get()),
            kind=SpanKind.SERVER,
            start_time=begin,
            attributes={
                "bosal.request_id": started.request_id,
                "bosal.model": started.model.name,
                "bosal.recipe": started.recipe_name,
                "bosal.recipe_version": started.plan.recipe.version,
                "bosal.variant": started.variant_label,
                "bosal.prompt_tokens": sum(len(one.token_ids) for one in started.prompts),
                "bosal.choices": started.num_choices,
            },
        )
        if isinstance(outcome, FinishedEvent):
            span.set_attribute("bosal.output_tokens", outcome.usage.output_tokens)
            reasons = [str(ending.reason) for ending in outcome.endings]
            span.set_attribute("bosal.finish_reasons", reasons)
            parent = set_span_in_context(span)
            for name, start, end in _phases(outcome.timings):
                child = self._tracer.start_span(
                    name, context=parent, start_time=begin + int(start * _NANOSECONDS)
                )
                child.end(begin + int(end * _NANOSECONDS))
        else:
            span.set_status(Status(StatusCode.ERROR, _code(outcome)))
        span.end(now)


def _phases(timings: Timings) -> list[tuple[str, float, float]]:
    """Return a request's phases with the seconds after its arrival they began and ended at."""
    first = timings.time_to_first_token
    return [
        ("queue", 0.0, timings.queue),
        ("prefill", timings.queue, timings.queue + timings.prefill),
        ("decode", first, first + timings.decode),
    ]


def _code(outcome: BaseException | None) -> str:
    if isinstance(outcome, ServerError | DecodingError):
        return outcome.code
    return "CANCELLED" if outcome is None else "INTERNAL"
