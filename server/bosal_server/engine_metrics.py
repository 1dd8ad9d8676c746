"""What the engine does, step by step, and what it holds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bosal_server.engine.observer import EngineStats, StepReport

_STEP: Final = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05,
    0.075, 0.1, 0.2, 0.5, 1, 2.5, 5,
)  # fmt: skip
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ModelMetrics:
    forward: Histogram
    control: Histogram
    rest: Histogram
    batch_rows: Histogram
    fill: Histogram


class EngineMetrics:
    """The series of the engine, by model; observed from its thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"bosal_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"bosal_{name}", text, labels, registry=registry)

        self._bound: dict[str, _ModelMetrics] = {}
        self._bound_rules: dict[tuple[str, str, str], Counter] = {}
        self._rule_seconds = counter(
            "rule_seconds_total",
            "Control, shared among the rules that acted.",
            "model",
            "recipe",
            "rule",
        )
        self._step = Histogram(
            "bosal_step_seconds",
            "One model's part in one engine step, split into forward, control and rest.",
            ("model", "part"),
            buckets=_STEP,
            registry=registry,
        )
        self._batch_rows = Histogram(
            "bosal_batch_rows",
            "Rows of logits in a step.",
            ("model",),
            buckets=_ROWS,
            registry=registry,
        )
        self._fill = Histogram(
            "bosal_constraint_fill_seconds",
            "What a step's constraints took to say which tokens are legal.",
            ("model",),
            buckets=_STEP,
            registry=registry,
        )
        self._queries = counter(
            "prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", "model"
        )
        self._hits = counter(
            "prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", "model"
        )
        # Read when scraped, so they are right also when no step runs.
        self._running = gauge("running_groups", "Choices being decoded.")
        self._waiting = gauge("waiting_groups", "Choices waiting for admission.")
        self._blocks_used = gauge(
            "kv_blocks_used", "Key-value blocks held by running choices.", "model"
        )
        self._blocks_total = gauge("kv_blocks", "Key-value blocks there are.", "model")

    def watch(self, stats: Callable[[], EngineStats], models: Iterable[str]) -> None:
        """Read the engine's state whenever it is scraped."""
        self._running.set_function(lambda: stats().running)
        self._waiting.set_function(lambda: stats().waiting)
        for model in models:
            self._blocks_used.labels(model).set_function(partial(_used, stats, model))
            self._blocks_total.labels(model).set_function(partial(_total, stats, model))

    def step(self, report: StepReport) -> None:
        bound = self._bound.get(report.model)
        if bound is None:
            bound = self._bound[report.model] = _ModelMetrics(
                forward=self._step.labels(report.model, "forward"),
                control=self._step.labels(report.model, "control"),
                rest=self._step.labels(report.model, "rest"),
                batch_rows=self._batch_rows.labels(report.model),
                fill=self._fill.labels(report.model),
            )
        bound.forward.observe(report.forward_s)
        bound.control.observe(report.control_s)
        bound.rest.observe(report.rest_s)
        bound.batch_rows.observe(report.rows)
        if report.fill_s:
            bound.fill.observe(report.fill_s)
        for (recipe, rule), seconds in report.rule_s.items():
            labels = (report.model, recipe, rule)
            counter = self._bound_rules.get(labels)
            if counter is None:
                counter = self._bound_rules[labels] = self._rule_seconds.labels(*labels)
            counter.inc(seconds)

    def prefix(self, model: str, queried_tokens: int, hit_tokens: int) -> None:
        self._queries.labels(model).inc(queried_tokens)
        self._hits.labels(model).inc(hit_tokens)


def _used(stats: Callable[[], EngineStats], model: str) -> int:
    return stats().blocks[model].used


def _total(stats: Callable[[], EngineStats], model: str) -> int:
    return stats().blocks[model].total
