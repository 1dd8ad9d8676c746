"""Every metric this server exports."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bosal_server.engine.observer import EngineStats, StepReport
from bosal_server.engine.request import EngineRequest, FailedEvent, FinishedEvent, FinishReason
from bosal_server.explanation_metrics import BoundExplanationMetrics, ExplanationMetrics

_FIRST_TOKEN: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
_INTER_TOKEN: Final = (
    0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
_REQUEST: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50,
    60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip
_STEP: Final = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05,
    0.075, 0.1, 0.2, 0.5, 1, 2.5, 5,
)  # fmt: skip
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

_REQUEST_LABELS: Final = ("model", "recipe", "variant")
_MAX_LABEL_SETS: Final = 1000
# The label of recipes beyond the bound.
OTHER: Final = "other"
_RELOAD_OUTCOMES: Final = ("read", "refused")
# Status codes of requests the engine could not finish.
_FAILURES: Final = ("CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMetrics:
    """The children of one (model, recipe, variant), bound once."""

    time_to_first_token: Histogram
    inter_token: Histogram
    queue: Histogram
    prefill: Histogram
    decode: Histogram
    total: Histogram
    prompt_tokens: Counter
    generated_tokens: Counter
    interventions: Counter
    # By finish reason, or by status code.
    finished: dict[str, Counter]
    explanations: BoundExplanationMetrics
    # By the stream's role, a word of the catalogue.
    stream_forwards: Callable[[str], Counter]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ModelMetrics:
    forward: Histogram
    control: Histogram
    rest: Histogram
    batch_rows: Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredRequest(EngineRequest):
    """A request that carries the metrics its end is counted in."""

    metrics: RequestMetrics


class Metrics:
    """Owns a registry; observes the engine, from its thread, and the service's errors.

    Labels are bounded: models and recipes by the configuration (a recipe sent with a request is
    `inline`), variants by experiments, methods and codes by the contract.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry(auto_describe=True)
        self._bound: dict[tuple[str, str, str], RequestMetrics] = {}
        self._bound_models: dict[str, _ModelMetrics] = {}
        self._time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", _FIRST_TOKEN
        )
        self._inter_token = self._histogram(
            "inter_token_latency_seconds", "Between tokens of one choice.", _INTER_TOKEN
        )
        self._queue = self._histogram(
            "request_queue_seconds", "From arrival to admission.", _REQUEST
        )
        self._prefill = self._histogram(
            "request_prefill_seconds", "From admission to the first token.", _REQUEST
        )
        self._decode = self._histogram(
            "request_decode_seconds", "From the first token to the last.", _REQUEST
        )
        self._total = self._histogram("request_seconds", "From arrival to the end.", _REQUEST)
        self._prompt_tokens = self._counter(
            "prompt_tokens_total", "Prompt tokens of admitted requests, cached ones included."
        )
        self._generated_tokens = self._counter("generated_tokens_total", "Tokens generated.")
        self._stream_forwards = self._counter(
            "stream_forwards_total",
            "Tokens computed for finished requests, by what the stream is to the recipe.",
            (*_REQUEST_LABELS, "stream"),
        )
        self._interventions = self._counter(
            "interventions_total",
            "Tokens at which other streams than the base had a say, of finished requests.",
        )
        self._finished = self._counter(
            "finished_choices_total",
            "Choices by how they ended: a finish reason, or a status code.",
            (*_REQUEST_LABELS, "reason"),
        )
        self._explanations = ExplanationMetrics(self.registry)
        self._rule_seconds = self._counter(
            "rule_seconds_total", "Control, shared among the rules that acted.", ("model", "rule")
        )
        self._bound_rules: dict[tuple[str, str], Counter] = {}
        self._step = self._histogram(
            "step_seconds",
            "One model's part in one engine step, split into forward, control and rest.",
            _STEP,
            ("model", "part"),
        )
        self._batch_rows = self._histogram(
            "batch_rows", "Rows of logits in a step.", _ROWS, ("model",)
        )
        self._prefix_queries = self._counter(
            "prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", ("model",)
        )
        self._prefix_hits = self._counter(
            "prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", ("model",)
        )
        self._model = self._gauge(
            "model_info",
            "1 for every served model and what runs it; fallback: `auto` would have had another.",
            ("model", "runner", "dtype", "device", "fallback"),
        )
        self._errors = self._counter(
            "errors_total", "Calls that ended with an error, by status code.", ("method", "code")
        )
        self._refusals = self._counter(
            "refusals_total", "Requests refused for want of room or quota, by reason.", ("reason",)
        )
        self._refused_calls = self._counter(
            "auth_failures_total", "Calls refused for their key, by reason.", ("reason",)
        )
        self._reloads = self._counter(
            "recipe_reloads_total", "Times the folder of recipes was read again.", ("outcome",)
        )
        for outcome in _RELOAD_OUTCOMES:
            self._reloads.labels(outcome)
        self._folder = self._gauge(
            "recipe_folder_current",
            "1 if recipes are served as the folder holds them; 0 if a file in it is wrong.",
            (),
        )
        self._folder.set(1)
        # Read when scraped, so they are right also when no step runs.
        self._running = self._gauge("running_groups", "Choices being decoded.", ())
        self._waiting = self._gauge("waiting_groups", "Choices waiting for admission.", ())
        self._blocks_used = self._gauge(
            "kv_blocks_used", "Key-value blocks held by running choices.", ("model",)
        )
        self._blocks_total = self._gauge("kv_blocks", "Key-value blocks there are.", ("model",))

    def bind(self, model: str, recipe: str, variant: str = "") -> RequestMetrics:
        """Return the children of one label set; every later call returns the same.

        Clients can create recipes without end: those beyond a bound are counted as one.
        """
        labels = (model, recipe, variant)
        bound = self._bound.get(labels)
        if bound is None:
            if len(self._bound) >= _MAX_LABEL_SETS and recipe != OTHER:
                return self.bind(model, OTHER)
            bound = self._bound[labels] = RequestMetrics(
                time_to_first_token=self._time_to_first_token.labels(*labels),
                inter_token=self._inter_token.labels(*labels),
                queue=self._queue.labels(*labels),
                prefill=self._prefill.labels(*labels),
                decode=self._decode.labels(*labels),
                total=self._total.labels(*labels),
                prompt_tokens=self._prompt_tokens.labels(*labels),
                generated_tokens=self._generated_tokens.labels(*labels),
                interventions=self._interventions.labels(*labels),
                stream_forwards=partial(self._stream_forwards.labels, *labels),
                finished={
                    reason: self._finished.labels(*labels, reason)
                    for reason in (*FinishReason, *_FAILURES)
                },
                explanations=self._explanations.bind(*labels),
            )
        return bound

    def watch(self, stats: Callable[[], EngineStats], models: Iterable[str]) -> None:
        """Read the engine's state whenever it is scraped."""
        self._running.set_function(lambda: stats().running)
        self._waiting.set_function(lambda: stats().waiting)
        for model in models:
            self._blocks_used.labels(model).set_function(partial(_used, stats, model))
            self._blocks_total.labels(model).set_function(partial(_total, stats, model))

    def describe(
        self, model: str, *, runner: str, dtype: str, device: str, is_fallback: bool
    ) -> None:
        """Say what runs a model; `auto` takes a fallback where its first choice refuses."""
        self._model.labels(model, runner, dtype, device, str(is_fallback).lower()).set(1)

    def count_error(self, method: str, code: str) -> None:
        """Count a call that ended with an error."""
        self._errors.labels(method, code).inc()

    def count_refusal(self, reason: str) -> None:
        """Count a request there was no room or no quota for."""
        self._refusals.labels(reason).inc()

    def count_refused_call(self, reason: str) -> None:
        """Count a call whose key was missing, wrong or not for its method."""
        self._refused_calls.labels(reason).inc()

    def count_reload(self, is_read: bool) -> None:
        """Count that the folder of recipes was read again, or refused because a file is wrong."""
        self._reloads.labels(_RELOAD_OUTCOMES[not is_read]).inc()
        self._folder.set(is_read)

    # The engine's observer; from here on everything is called from the engine's thread.

    def step(self, report: StepReport) -> None:
        bound = self._bound_models.get(report.model)
        if bound is None:
            bound = self._bound_models[report.model] = _ModelMetrics(
                forward=self._step.labels(report.model, "forward"),
                control=self._step.labels(report.model, "control"),
                rest=self._step.labels(report.model, "rest"),
                batch_rows=self._batch_rows.labels(report.model),
            )
        bound.forward.observe(report.forward_s)
        bound.control.observe(report.control_s)
        bound.rest.observe(report.rest_s)
        bound.batch_rows.observe(report.rows)
        for rule, seconds in report.rule_s.items():
            counter = self._bound_rules.get((report.model, rule))
            if counter is None:
                counter = self._rule_seconds.labels(report.model, rule)
                self._bound_rules[report.model, rule] = counter
            counter.inc(seconds)

    def prefix(self, model: str, queried_tokens: int, hit_tokens: int) -> None:
        self._prefix_queries.labels(model).inc(queried_tokens)
        self._prefix_hits.labels(model).inc(hit_tokens)

    def finished(
        self,
        request: EngineRequest,
        event: FinishedEvent | FailedEvent,
        token_gaps: Sequence[float],
    ) -> None:
        if not isinstance(request, MeteredRequest):
            return
        metrics = request.metrics
        for gap in token_gaps:
            metrics.inter_token.observe(gap)
        if isinstance(event, FailedEvent):
            metrics.finished[event.error.code].inc(request.num_choices)
            return
        timings, usage = event.timings, event.usage
        metrics.time_to_first_token.observe(timings.time_to_first_token)
        metrics.queue.observe(timings.queue)
        metrics.prefill.observe(timings.prefill)
        metrics.decode.observe(timings.decode)
        metrics.total.observe(timings.total)
        metrics.prompt_tokens.inc(usage.prompt_tokens)
        metrics.generated_tokens.inc(usage.output_tokens)
        for ending in event.endings:
            metrics.finished[ending.reason].inc()
            if ending.explanation is not None:
                metrics.explanations.observe(ending.explanation)
            metrics.interventions.inc(ending.interventions or 0)
        for stream in usage.streams:
            metrics.stream_forwards(stream.role).inc(stream.forwards)

    def _histogram(
        self,
        name: str,
        text: str,
        buckets: tuple[float, ...],
        labels: tuple[str, ...] = _REQUEST_LABELS,
    ) -> Histogram:
        return Histogram(f"bosal_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = _REQUEST_LABELS) -> Counter:
        return Counter(f"bosal_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"bosal_{name}", text, labels, registry=self.registry)


def _used(stats: Callable[[], EngineStats], model: str) -> int:
    return stats().blocks[model].used


def _total(stats: Callable[[], EngineStats], model: str) -> int:
    return stats().blocks[model].total
