"""What explained traffic says of the rules: the metrics of explanations."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from bosal_decoding.explanation import ExplanationSummary, Shift

_LABELS: Final = ("model", "recipe", "variant")
_DIVERGENCE: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)


class ExplanationMetrics:
    """The series of explained choices, whether their requests asked or were sampled."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"bosal_{name}", text, (*_LABELS, *labels), registry=registry)

        self._tokens = counter("explained_tokens_total", "Explained tokens, by shift.", "shift")
        self._changed = counter(
            "changed_tokens_total", "Explained tokens that the same draw would not have given."
        )
        self._activations = counter(
            "rule_activations_total", "Explained tokens where a rule did something.", "rule"
        )
        self._flips = counter(
            "rule_flips_total", "Explained tokens that a rule alone changed.", "rule"
        )
        self._divergence = Histogram(
            "bosal_divergence_nats",
            "Mean KL(controlled || raw) over the tokens of an explained choice.",
            _LABELS,
            buckets=_DIVERGENCE,
            registry=registry,
        )

    def bind(self, model: str, recipe: str, variant: str) -> "BoundExplanationMetrics":
        """Return the children of one label set."""
        labels = (model, recipe, variant)
        return BoundExplanationMetrics(
            {shift: self._tokens.labels(*labels, shift.value.lower()) for shift in Shift},
            self._changed.labels(*labels),
            self._divergence.labels(*labels),
            self._activations,
            self._flips,
            labels,
        )


class BoundExplanationMetrics:
    """The children of one (model, recipe, variant); a rule's are bound when it first acts."""

    def __init__(
        self,
        tokens: dict[Shift, Counter],
        changed: Counter,
        divergence: Histogram,
        activations: Counter,
        flips: Counter,
        labels: tuple[str, str, str],
    ) -> None:
        self._tokens = tokens
        self._changed = changed
        self._divergence = divergence
        self._activations = activations
        self._flips = flips
        self._labels = labels
        self._rules: dict[str, tuple[Counter, Counter]] = {}

    def observe(self, summary: ExplanationSummary) -> None:
        """Count one explained choice."""
        if not summary.num_tokens:
            return
        for shift, count in summary.shifts.items():
            self._tokens[shift].inc(count)
        self._changed.inc(summary.num_changed)
        self._divergence.observe(summary.mean_divergence)
        for rule, count in summary.activations.items():
            bound = self._rules.get(rule)
            if bound is None:
                bound = self._rules[rule] = (
                    self._activations.labels(*self._labels, rule),
                    self._flips.labels(*self._labels, rule),
                )
            activations, flips = bound
            activations.inc(count)
            flips.inc(summary.flips[rule])
