"""What makes an experiment one that can be run: every check before it is kept."""

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta

from bosal_server.experiments.assignment import PPM
from bosal_server.experiments.errors import InvalidExperiment
from bosal_server.experiments.experiment import MIN_UNITS, NAME, Experiment, Namespace, Variant
from bosal_server.experiments.metric import (
    AGAINST_CONTROL,
    BUILT_IN,
    COVARIATE,
    REQUESTS,
    Metric,
    MetricKind,
    MetricRole,
)

__all__ = ["check_apart", "check_definition", "check_weights"]

_MAX_VARIANTS = 8
_MAX_METRICS = 20
_MAX_TEXT = 2000
_MAX_RETENTION = timedelta(days=3650)


def check_definition(experiment: Experiment) -> None:
    """Refuse an experiment that cannot be run as it stands.

    Raises:
        InvalidExperiment: with the field at fault.
    """
    _check_name("name", experiment.name)
    for field in ("description", "unit_kind"):
        if len(getattr(experiment, field)) > _MAX_TEXT:
            raise InvalidExperiment(field, f"must have at most {_MAX_TEXT} characters")
    check_counts(len(experiment.variants), len(experiment.shadows), len(experiment.metrics))
    _check_variants(experiment.variants, experiment.shadows)
    _check_shadows(experiment)
    _check_metrics(experiment.metrics)
    _check_doses(experiment)
    if experiment.namespace is not None:
        _check_namespace(experiment.namespace)
    _check_range("alpha", experiment.alpha, 0.0001, 0.2)
    _check_range("planned_units", experiment.planned_units, 2 * MIN_UNITS, 10**9)
    _check_range("min_units", experiment.min_units, MIN_UNITS, 10**9)
    _check_range("coverage_ppm", experiment.coverage_ppm, 0, PPM)
    for field in ("retention", "text_retention"):
        span = getattr(experiment, field)
        if span is not None and not timedelta() < span <= _MAX_RETENTION:
            raise InvalidExperiment(field, f"must be from above 0 to {_MAX_RETENTION.days} days")


def check_weights(weights: Sequence[int], field: str) -> None:
    """Refuse weights that are not shares of a whole."""
    for weight in weights:
        if weight <= 0:
            raise InvalidExperiment(field, "every variant needs a weight above 0")
    if (total := sum(weights)) != PPM:
        raise InvalidExperiment(field, f"weights make {total / PPM:g} ({total} millionths), not 1")


def check_apart(experiment: Experiment, others: Mapping[str, Experiment]) -> None:
    """Refuse a range of a namespace that another experiment holds."""
    mine = experiment.namespace
    if mine is None:
        return
    for other in others.values():
        theirs = other.namespace
        if theirs is None or other.is_over or other.name == experiment.name:
            continue
        if theirs.name == mine.name and theirs.low_ppm < mine.high_ppm:
            if mine.low_ppm >= theirs.high_ppm:
                continue
            raise InvalidExperiment(
                "namespace",
                f"range {mine.low_ppm} to {mine.high_ppm} of '{mine.name}' overlaps "
                f"{theirs.low_ppm} to {theirs.high_ppm}, which experiment '{other.name}' holds",
            )


def check_counts(variants: int, shadows: int, metrics: int) -> None:
    """Refuse an experiment of too few or too many parts."""
    # With a shadow the control may be alone: nobody is served anything else.
    fewest = 1 if shadows else 2
    if not fewest <= variants <= _MAX_VARIANTS:
        raise InvalidExperiment("variants", f"from {fewest} to {_MAX_VARIANTS}, not {variants}")
    if shadows > _MAX_VARIANTS:
        raise InvalidExperiment("shadows", f"at most {_MAX_VARIANTS}, not {shadows}")
    if not 1 <= metrics <= _MAX_METRICS:
        raise InvalidExperiment("metrics", f"from 1 to {_MAX_METRICS}, not {metrics}")


def _check_variants(variants: Sequence[Variant], shadows: Sequence[Variant]) -> None:
    fields = [f"variants[{index}]" for index in range(len(variants))]
    fields += [f"shadows[{index}]" for index in range(len(shadows))]
    keys = [variant.key for variant in (*variants, *shadows)]
    for index, (field, variant) in enumerate(zip(fields, (*variants, *shadows), strict=True)):
        _check_name(f"{field}.key", variant.key)
        if keys.index(variant.key) != index:
            raise InvalidExperiment(f"{field}.key", f"'{variant.key}' is given twice")
    controls = [variant.key for variant in variants if variant.is_control]
    if len(controls) != 1:
        raise InvalidExperiment(
            "variants", f"exactly one must be the control (is_control), not {len(controls)}"
        )
    check_weights([variant.weight_ppm for variant in variants], "variants")


def _check_shadows(experiment: Experiment) -> None:
    for index, shadow in enumerate(experiment.shadows):
        if shadow.weight_ppm or shadow.is_control:
            name = "is_control" if shadow.is_control else "weight_ppm"
            raise InvalidExperiment(f"shadows[{index}].{name}", "nobody is served a shadow")
    _check_range("shadow_share_ppm", experiment.shadow_share_ppm, 0, PPM)
    if bool(experiment.shadows) != bool(experiment.shadow_share_ppm):
        raise InvalidExperiment(
            "shadow_share_ppm",
            "say which share of the control's requests the shadows run again"
            if experiment.shadows
            else "there are no shadows to run again under",
        )


def _check_doses(experiment: Experiment) -> None:
    """Refuse a dose against the control where a variant reads other prompts."""
    for index, metric in enumerate(experiment.metrics):
        if AGAINST_CONTROL.isdisjoint(metric.outcomes):
            continue
        for variant in experiment.variants:
            if variant.recipe.scaffold != experiment.control.recipe.scaffold:
                raise InvalidExperiment(
                    f"metrics[{index}].outcome",
                    f"'{metric.outcome}' holds each draw against the control's from the same row; "
                    f"variant '{variant.key}' has another scaffold, so its rows are others",
                )


def _check_metrics(metrics: Sequence[Metric]) -> None:
    names = [metric.name for metric in metrics]
    for index, metric in enumerate(metrics):
        field = f"metrics[{index}]"
        _check_name(f"{field}.name", metric.name)
        if names.index(metric.name) != index:
            raise InvalidExperiment(f"{field}.name", f"'{metric.name}' is given twice")
        _check_metric(metric, field)
    primaries = [metric.name for metric in metrics if metric.role is MetricRole.PRIMARY]
    if len(primaries) != 1:
        raise InvalidExperiment("metrics", f"exactly one must be primary, not {len(primaries)}")
    _check_values_agree(metrics)


def _check_metric(metric: Metric, field: str) -> None:
    if metric.kind is MetricKind.RATIO and not metric.denominator:
        raise InvalidExperiment(f"{field}.denominator", f"an outcome, or '{REQUESTS}'")
    if metric.kind is not MetricKind.RATIO and metric.denominator:
        raise InvalidExperiment(f"{field}.denominator", "only a ratio has one")
    for name, outcome in zip(("outcome", "denominator"), metric.outcomes, strict=False):
        _check_name(f"{field}.{name}", outcome)
    if metric.kind is MetricKind.QUANTILE:
        if not 0 < metric.level < 1:
            raise InvalidExperiment(f"{field}.level", f"between 0 and 1, not {metric.level}")
        if metric.role is not MetricRole.SECONDARY:
            raise InvalidExperiment(
                f"{field}.role",
                "a quantile holds for one look alone, so it is secondary; for a decision or a "
                "guardrail use METRIC_KIND_ABOVE",
            )
    for name in ("level", "threshold", "margin"):
        if not math.isfinite(getattr(metric, name)):
            raise InvalidExperiment(f"{field}.{name}", "must be a finite number")
    if metric.margin < 0:
        raise InvalidExperiment(f"{field}.margin", "must not be below 0")
    if metric.margin and metric.role is not MetricRole.GUARDRAIL:
        raise InvalidExperiment(f"{field}.margin", "only a guardrail has one")
    if metric.covariate:
        if metric.covariate != COVARIATE:
            raise InvalidExperiment.unknown(
                f"{field}.covariate", "covariate", metric.covariate, [COVARIATE]
            )
        if metric.kind not in (MetricKind.MEAN, MetricKind.PROPORTION, MetricKind.ABOVE):
            raise InvalidExperiment(f"{field}.covariate", "only for means and proportions")


def _check_values_agree(metrics: Sequence[Metric]) -> None:
    """Refuse a built-in outcome as a proportion where its values are not 0 or 1."""
    for index, metric in enumerate(metrics):
        if metric.kind is MetricKind.PROPORTION and metric.outcome in BUILT_IN:
            if metric.outcome == "failed":
                continue
            raise InvalidExperiment(
                f"metrics[{index}].kind",
                f"'{metric.outcome}' has values other than 0 and 1: use METRIC_KIND_MEAN",
            )


def _check_namespace(namespace: Namespace) -> None:
    _check_name("namespace.name", namespace.name)
    if not 0 <= namespace.low_ppm < namespace.high_ppm <= PPM:
        raise InvalidExperiment(
            "namespace",
            f"a range within 0 to {PPM}, not {namespace.low_ppm} to {namespace.high_ppm}",
        )


def _check_name(field: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidExperiment(
            field, "letters, digits, '-', '_' and '.', beginning with a letter or digit, at most 64"
        )


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidExperiment(field, f"is {value}; it must be from {low} to {high}")
