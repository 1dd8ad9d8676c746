"""What a quantile metric says: for one look alone, from rows."""

import math
from collections.abc import Sequence

from bosal_server.experiments.experiment import Experiment
from bosal_server.experiments.metric import Metric
from bosal_server.experiments.report import ArmValue, EffectReport, MetricReport
from bosal_server.statistics.effect import Method, difference, relative
from bosal_server.statistics.intervals import Interval
from bosal_server.statistics.moments import Estimate

__all__ = ["finite", "quantile_report"]


def quantile_report(
    experiment: Experiment, metric: Metric, found: Sequence[Estimate | None]
) -> MetricReport:
    """Compare the arms' estimates; none: they were not computed."""
    known: Sequence[Estimate | None] = found or [None] * len(experiment.variants)
    control = known[experiment.variants.index(experiment.control)]
    values, effects = [], []
    for variant, estimate in zip(experiment.variants, known, strict=True):
        values.append(
            ArmValue(
                variant=variant.key,
                count=0 if estimate is None else estimate.units,
                value=None if estimate is None else estimate.value,
            )
        )
        if variant.is_control:
            continue
        if estimate is None or control is None:
            effects.append(EffectReport(variant=variant.key))
            continue
        absolute = difference(control, estimate)
        interval: Interval = absolute.interval(
            Method.FIXED, alpha=experiment.alpha, planned_units=experiment.planned_units
        )
        p = absolute.p_value(
            Method.FIXED, alpha=experiment.alpha, planned_units=experiment.planned_units
        )
        effects.append(
            EffectReport(
                variant=variant.key,
                difference=absolute.value,
                low=finite(interval.low),
                high=finite(interval.high),
                relative=finite(relative(absolute).value),
                p_value=p,
                adjusted_p=p,
                method=f"quantile {metric.level:g} clustered by unit, for one look alone, "
                f"{1 - experiment.alpha:.4g}",
            )
        )
    return MetricReport(metric=metric, arms=tuple(values), effects=tuple(effects))


def finite(value: float) -> float | None:
    """Return a number, or None where there is none to tell."""
    return value if math.isfinite(value) else None
