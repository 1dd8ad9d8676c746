"""Every metric this server exports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from bosal_server.configuration_metrics import ConfigurationMetrics
from bosal_server.engine.observer import StepReport
from bosal_server.engine.request import EngineRequest, FailedEvent, FinishedEvent
from bosal_server.engine_metrics import EngineMetrics
from bosal_server.request_metrics import BoundRequestMetrics, RequestMetrics
from bosal_server.store_metrics import StoreCounts, StoreMetrics

_LAG: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
_COMPILE: Final = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 2.5, 5, 10)

# When a series began: nobody here asks, and it makes every scrape a third longer.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredRequest(EngineRequest):
    """A request that carries the metrics its end is counted in."""

    metrics: BoundRequestMetrics


class Metrics:
    """Owns a registry; observes the engine, from its thread, and the service.

    Labels are bounded: models and recipes by the configuration (a recipe sent with a request is
    `inline`), variants by experiments, methods and codes by the contract.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry(auto_describe=True)
        self._requests = RequestMetrics(self.registry)
        self._engine = EngineMetrics(self.registry)
        self.configuration = ConfigurationMetrics(self.registry)
        self.bind = self._requests.bind
        self.watch = self._engine.watch
        self._model = self._gauge(
            "model_info",
            "1 for every served model and what runs it; fallback: `auto` would have had another.",
            "model", "runner", "dtype", "device", "fallback",
        )  # fmt: skip
        self._errors = self._counter(
            "errors_total", "Calls that ended with an error, by status code.", "method", "code"
        )
        self._refusals = self._counter(
            "refusals_total", "Requests refused for want of room or quota, by reason.", "reason"
        )
        # Looked up once each: their labels are words of the contract.
        self._error_children: dict[tuple[str, ...], Counter] = {}
        self._refusal_children: dict[tuple[str, ...], Counter] = {}
        self._refused_calls = self._counter(
            "auth_failures_total", "Calls refused for their key, by reason.", "reason"
        )
        self._stalled = self._counter(
            "stalled_calls_total", "Streams ended because their reader stopped reading."
        )
        self._held = self._counter(
            "held_refusals_total", "Refusals answered later because their key has had many."
        )
        self._compile = Histogram(
            "bosal_constraint_compile_seconds",
            "What a request waits for its constraint's program; next to nothing if it is cached.",
            buckets=_COMPILE,
            registry=self.registry,
        )
        self._lag = Histogram(
            "bosal_event_loop_lag_seconds",
            "How late the event loop woke who asked to be woken.",
            buckets=_LAG,
            registry=self.registry,
        )
        self._tasks = self._gauge("event_loop_tasks", "Tasks of the event loop.")
        self._store = StoreMetrics()
        self.registry.register(self._store)
        # Memory, processor time and open files, which connections are, under their usual names.
        ProcessCollector(registry=self.registry)

    def watch_store(self, read: Callable[[], StoreCounts]) -> None:
        """Read the state of the experiments' store whenever it is scraped."""
        self._store.read = read

    def describe(
        self, model: str, *, runner: str, dtype: str, device: str, is_fallback: bool
    ) -> None:
        """Say what runs a model; `auto` takes a fallback where its first choice refuses."""
        self._model.labels(model, runner, dtype, device, str(is_fallback).lower()).set(1)

    def count_error(self, method: str, code: str) -> None:
        """Count a call that ended with an error."""
        _child(self._errors, self._error_children, method, code).inc()

    def count_refusal(self, reason: str) -> None:
        """Count a request there was no room or no quota for."""
        _child(self._refusals, self._refusal_children, reason).inc()

    def count_refused_call(self, reason: str) -> None:
        """Count a call whose key was missing, wrong or not for its method."""
        self._refused_calls.labels(reason).inc()

    def count_stalled(self) -> None:
        """Count a stream that was ended because its reader stopped reading."""
        self._stalled.inc()

    def count_held(self) -> None:
        """Count a refusal that is held back because its key has had many."""
        self._held.inc()

    def observe_compile(self, seconds: float) -> None:
        """Note how long a request waited for its constraint."""
        self._compile.observe(seconds)

    def observe_lag(self, seconds: float) -> None:
        """Note how late the event loop was."""
        self._lag.observe(seconds)

    def count_tasks(self, number: int) -> None:
        """Note how many tasks the event loop has."""
        self._tasks.set(number)

    # The engine's observer; from here on everything is called from the engine's thread.

    def step(self, report: StepReport) -> None:
        self._engine.step(report)

    def prefix(self, model: str, queried_tokens: int, hit_tokens: int) -> None:
        self._engine.prefix(model, queried_tokens, hit_tokens)

    def finished(
        self,
        request: EngineRequest,
        event: FinishedEvent | FailedEvent,
        token_gaps: Sequence[float],
    ) -> None:
        if isinstance(request, MeteredRequest):
            request.metrics.observe(event, token_gaps, request.num_choices)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"bosal_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"bosal_{name}", text, labels, registry=self.registry)


def _child(counter: Counter, known: dict[tuple[str, ...], Counter], *labels: str) -> Counter:
    child = known.get(labels)
    if child is None:
        child = known[labels] = counter.labels(*labels)
    return child
