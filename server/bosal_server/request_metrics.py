"""What the requests of one model, recipe and variant took and gave."""

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from bosal_server.engine.request import FailedEvent, FinishedEvent
from bosal_server.explanation_metrics import BoundExplanationMetrics, ExplanationMetrics

FIRST_TOKEN: Final = (
    0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40, 160,
)  # fmt: skip
INTER_TOKEN: Final = (
    0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 10,
)  # fmt: skip
REQUEST: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50,
    60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip
LABELS: Final = ("model", "recipe", "variant")
_MAX_LABEL_SETS: Final = 1000
# The label of recipes beyond the bound.
OTHER: Final = "other"


class RequestMetrics:
    """The series of requests.

    Recipe and variant are labels of what compares them: the two latencies that readers feel, and
    counters. Every label costs each scrape, so the other histograms are by model alone, and what
    has not happened has no series yet.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(
            name: str, text: str, edges: Sequence[float], labels: Sequence[str]
        ) -> Histogram:
            return Histogram(f"bosal_{name}", text, labels, buckets=edges, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"bosal_{name}", text, (*LABELS, *labels), registry=registry)

        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", FIRST_TOKEN, LABELS
        )
        self.inter_token = histogram(
            "inter_token_latency_seconds", "Between tokens of one choice.", INTER_TOKEN, LABELS
        )
        by_model = ("model",)
        self.queue = histogram(
            "request_queue_seconds", "From arrival to admission.", REQUEST, by_model
        )
        self.prefill = histogram(
            "request_prefill_seconds", "From admission to the first token.", REQUEST, by_model
        )
        self.decode = histogram(
            "request_decode_seconds", "From the first token to the last.", REQUEST, by_model
        )
        self.total = histogram("request_seconds", "From arrival to the end.", REQUEST, by_model)
        self.prompt_tokens = counter(
            "prompt_tokens_total", "Prompt tokens of admitted requests, cached ones included."
        )
        self.generated_tokens = counter("generated_tokens_total", "Tokens generated.")
        self.stream_forwards = counter(
            "stream_forwards_total",
            "Tokens computed for finished requests, by what the stream is to the recipe.",
            "stream",
        )
        self.interventions = counter(
            "interventions_total",
            "Tokens at which other streams than the base had a say, of finished requests.",
        )
        self.finished = counter(
            "finished_choices_total",
            "Choices by how they ended: a finish reason, or a status code.",
            "reason",
        )
        self.explanations = ExplanationMetrics(registry)
        self._bound: dict[tuple[str, str, str], BoundRequestMetrics] = {}

    def bind(self, model: str, recipe: str, variant: str = "") -> "BoundRequestMetrics":
        """Return the children of one label set; every later call returns the same.

        Clients can create recipes without end: those beyond a bound are counted as one.
        """
        labels = (model, recipe, variant)
        bound = self._bound.get(labels)
        if bound is None:
            if len(self._bound) >= _MAX_LABEL_SETS and recipe != OTHER:
                return self.bind(model, OTHER)
            bound = self._bound[labels] = BoundRequestMetrics(self, labels)
        return bound


class BoundRequestMetrics:
    """The children of one (model, recipe, variant), looked up once."""

    def __init__(self, metrics: RequestMetrics, labels: tuple[str, str, str]) -> None:
        self._metrics = metrics
        self._labels = labels
        model = labels[0]
        self._time_to_first_token = metrics.time_to_first_token.labels(*labels)
        self._inter_token = metrics.inter_token.labels(*labels)
        self._queue = metrics.queue.labels(model)
        self._prefill = metrics.prefill.labels(model)
        self._decode = metrics.decode.labels(model)
        self._total = metrics.total.labels(model)
        self._prompt_tokens = metrics.prompt_tokens.labels(*labels)
        self._generated_tokens = metrics.generated_tokens.labels(*labels)
        # By finish reason or status code, and by the stream's role: words of the contract.
        self._finished: dict[str, Counter] = {}
        self._forwards: dict[str, Counter] = {}
        self._explanations: BoundExplanationMetrics | None = None

    @property
    def recipe(self) -> str:
        """The label of its recipe, which is one of a bounded number."""
        return self._labels[1]

    @property
    def explanations(self) -> BoundExplanationMetrics:
        if self._explanations is None:
            self._explanations = self._metrics.explanations.bind(*self._labels)
        return self._explanations

    def observe(
        self, event: FinishedEvent | FailedEvent, token_gaps: Sequence[float], num_choices: int
    ) -> None:
        """Count a request that is over."""
        for gap in token_gaps:
            self._inter_token.observe(gap)
        if isinstance(event, FailedEvent):
            self.count_ended(event.error.code, num_choices)
            return
        timings, usage = event.timings, event.usage
        self._time_to_first_token.observe(timings.time_to_first_token)
        self._queue.observe(timings.queue)
        self._prefill.observe(timings.prefill)
        self._decode.observe(timings.decode)
        self._total.observe(timings.total)
        self._prompt_tokens.inc(usage.prompt_tokens)
        self._generated_tokens.inc(usage.output_tokens)
        for ending in event.endings:
            self.count_ended(ending.reason)
            if ending.explanation is not None:
                self.explanations.observe(ending.explanation)
            if ending.interventions is not None:
                self.count_interventions(ending.interventions)
        for stream in usage.streams:
            self.count_forwards(stream.role, stream.forwards)

    def count_ended(self, reason: str, num_choices: int = 1) -> None:
        counter = self._finished.get(reason)
        if counter is None:
            counter = self._metrics.finished.labels(*self._labels, reason)
            self._finished[reason] = counter
        counter.inc(num_choices)

    def count_interventions(self, num_tokens: int) -> None:
        self._metrics.interventions.labels(*self._labels).inc(num_tokens)

    def count_forwards(self, role: str, num_tokens: int) -> None:
        counter = self._forwards.get(role)
        if counter is None:
            counter = self._metrics.stream_forwards.labels(*self._labels, role)
            self._forwards[role] = counter
        counter.inc(num_tokens)
