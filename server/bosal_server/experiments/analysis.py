"""From sums to effects: what each metric says, how sure that is, and what was harmed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bosal_server.experiments.experiment import Experiment, Phase
from bosal_server.experiments.metric import Metric, MetricKind, MetricRole
from bosal_server.experiments.quantiles import finite, quantile_report
from bosal_server.experiments.report import ArmValue, EffectReport, MetricReport, ShareCheck
from bosal_server.experiments.totals import Snapshot, Totals
from bosal_server.statistics import sequential
from bosal_server.statistics.effect import Effect, Method, adjusted, difference, relative
from bosal_server.statistics.intervals import false_discovery, holm
from bosal_server.statistics.moments import Estimate, Moments
from bosal_server.statistics.sample_ratio import bayes_p, chi_square_p

__all__ = [
    "Harm",
    "check_shares",
    "effect_report",
    "estimates_of",
    "harms",
    "metric_reports",
    "primary_effects",
    "share_history",
]

# Alarm level of the check of shares.
SHARE_ALPHA = 0.01


@dataclass(frozen=True, slots=True)
class Harm:
    """A guardrail that a variant is shown to have broken."""

    variant: str
    metric: str
    # The least it is worse by, and what would have been borne.
    bound: float
    margin: float

    def __str__(self) -> str:
        return (
            f"variant '{self.variant}' is worse by at least {self.bound:.4g} in '{self.metric}', "
            f"where {self.margin:.4g} is borne"
        )


def check_shares(phase: Phase, totals: Totals, history: Sequence[Snapshot]) -> ShareCheck:
    """Compare the arms' units with their weights, now and at every look before."""
    counts = [arm.units for arm in totals.arms]
    looks = [counts, *([arm.units for arm in one.totals.arms] for one in history)]
    p = float(bayes_p(looks, phase.weights_ppm).min())
    return ShareCheck(
        p_value=p,
        chi_square_p=chi_square_p(counts, phase.weights_ppm),
        is_alarm=p < SHARE_ALPHA,
    )


def share_history(phase: Phase, history: Sequence[Snapshot]) -> list[float]:
    """Return the always-valid p-value of the shares as it was at each look."""
    if not history:
        return []
    looks = [[arm.units for arm in one.totals.arms] for one in history]
    return [float(p) for p in np.minimum.accumulate(bayes_p(looks, phase.weights_ppm))]


def primary_effects(experiment: Experiment, totals: Totals) -> tuple[EffectReport, ...]:
    """Return what the primary metric says of every variant, without words."""
    return _report(experiment, experiment.primary, totals).effects


def estimates(experiment: Experiment, metric: Metric, totals: Totals) -> list[Estimate]:
    """Return every arm's value of a metric."""
    arms = [totals.arm(index, metric.name) for index in range(len(experiment.variants))]
    return estimates_of(metric, arms)


def estimates_of(metric: Metric, arms: Sequence[Moments]) -> list[Estimate]:
    """Return a metric's value of each of some arms' sums."""
    if metric.covariate:
        return adjusted(arms)
    match metric.kind:
        case MetricKind.RATIO:
            return [arm.ratio() for arm in arms]
        case MetricKind.PROPORTION:
            return [arm.proportion() for arm in arms]
        case _:
            return [arm.mean() for arm in arms]


def effect_of(
    experiment: Experiment, metric: Metric, totals: Totals, variant: int
) -> tuple[Effect, Effect]:
    """Return a variant's effect, absolute and as a share of the control."""
    found = estimates(experiment, metric, totals)
    control = experiment.variants.index(experiment.control)
    effect = difference(found[control], found[variant])
    base = None
    if metric.covariate:
        base = totals.arm(control, metric.name).mean().value
    return effect, relative(effect, base)


def metric_reports(
    experiment: Experiment, totals: Totals, quantiles: Mapping[str, Sequence[Estimate | None]]
) -> tuple[MetricReport, ...]:
    """Return what every metric says, p-values adjusted within each role.

    `quantiles` gives the arms' estimates of quantile metrics, where they are known.
    """
    reports = [
        quantile_report(experiment, metric, quantiles.get(metric.name, ()))
        if metric.kind is MetricKind.QUANTILE
        else _report(experiment, metric, totals)
        for metric in experiment.metrics
    ]
    for role, adjust in ((MetricRole.PRIMARY, holm), (MetricRole.SECONDARY, false_discovery)):
        places = [
            (row, column)
            for row, one in enumerate(reports)
            if one.metric.role is role
            for column in range(len(one.effects))
        ]
        p_values = adjust([reports[row].effects[column].p_value for row, column in places])
        for (row, column), p in zip(places, p_values, strict=True):
            effects = list(reports[row].effects)
            effects[column] = replace(effects[column], adjusted_p=p)
            reports[row] = replace(reports[row], effects=tuple(effects))
    return tuple(replace(one, effects=_worded(experiment, one, totals)) for one in reports)


def harms(experiment: Experiment, totals: Totals) -> list[Harm]:
    """Return the guardrails that are broken; may be asked at every look.

    A guardrail is one-sided and not corrected for the number of guardrails: it errs to safety.
    """
    found = []
    for metric in experiment.metrics:
        if metric.role is not MetricRole.GUARDRAIL:
            continue
        for index, variant in enumerate(experiment.variants):
            if variant.is_control:
                continue
            bound = harm_bound(experiment, metric, totals, index)
            if bound is not None and bound > metric.margin:
                found.append(Harm(variant.key, metric.name, bound, metric.margin))
    return found


def harm_bound(
    experiment: Experiment, metric: Metric, totals: Totals, variant: int
) -> float | None:
    """Return the least by which a variant is worse, with what sureness alpha gives."""
    absolute, share = effect_of(experiment, metric, totals, variant)
    effect = share if metric.is_margin_relative else absolute
    if not effect.is_known or not _is_enough(experiment, effect):
        return None
    reach = sequential.one_sided_reach(
        effect.error,
        effect.units,
        planned_units=experiment.planned_units,
        alpha=experiment.alpha,
    )
    return -metric.sign * effect.value - float(reach)


def _is_enough(experiment: Experiment, effect: Effect) -> bool:
    return min(effect.control.units, effect.variant.units) >= experiment.min_units


def _report(experiment: Experiment, metric: Metric, totals: Totals) -> MetricReport:
    values, effects = [], []
    for index, (variant, estimate) in enumerate(
        zip(experiment.variants, estimates(experiment, metric, totals), strict=True)
    ):
        values.append(
            ArmValue(variant=variant.key, count=estimate.units, value=finite(estimate.value))
        )
        if not variant.is_control:
            pair = effect_of(experiment, metric, totals, index)
            effects.append(effect_report(experiment, metric, variant.key, pair, totals))
    return MetricReport(metric=metric, arms=tuple(values), effects=tuple(effects))


def effect_report(
    experiment: Experiment,
    metric: Metric,
    variant: str,
    effects: tuple[Effect, Effect],
    totals: Totals,
) -> EffectReport:
    """Put an effect, absolute and as a share of the control, into figures, without words."""
    absolute, share = effects
    if not absolute.is_known or not _is_enough(experiment, absolute):
        return EffectReport(variant=variant, difference=finite(absolute.value))
    is_fixed = experiment.is_fixed_horizon and metric.role is not MetricRole.GUARDRAIL
    if is_fixed and totals.units < experiment.planned_units:
        return EffectReport(
            variant=variant, difference=absolute.value, relative=finite(share.value)
        )
    method = Method.FIXED if is_fixed else Method.SEQUENTIAL
    alpha = experiment.alpha
    if metric.role is MetricRole.PRIMARY:
        # So that all variants' intervals hold together.
        alpha /= len(experiment.variants) - 1
    name = "Welch" if is_fixed else "confidence sequence"
    interval = absolute.interval(method, alpha=alpha, planned_units=experiment.planned_units)
    if is_fixed and metric.kind is MetricKind.PROPORTION and not metric.covariate:
        interval, name = absolute.newcombe(alpha), "Newcombe"
    if metric.kind is MetricKind.RATIO:
        name += ", delta method"
    if metric.covariate:
        name += ", adjusted for instruction length"
    of_control = share.interval(method, alpha=alpha, planned_units=experiment.planned_units)
    p = absolute.p_value(method, alpha=experiment.alpha, planned_units=experiment.planned_units)
    return EffectReport(
        variant=variant,
        difference=absolute.value,
        low=interval.low,
        high=interval.high,
        relative=finite(of_control.value),
        relative_low=finite(of_control.low),
        relative_high=finite(of_control.high),
        p_value=p,
        adjusted_p=p,
        method=f"{name}, {1 - alpha:.4g}",
    )


def _worded(
    experiment: Experiment, report: MetricReport, totals: Totals
) -> tuple[EffectReport, ...]:
    return tuple(
        replace(one, verdict=_verdict(experiment, report, one, totals)) for one in report.effects
    )


def _verdict(
    experiment: Experiment, report: MetricReport, effect: EffectReport, totals: Totals
) -> str:
    metric = report.metric
    counts = {arm.variant: arm.count for arm in report.arms}
    if effect.low is None or effect.high is None or effect.difference is None:
        if metric.kind is MetricKind.QUANTILE:
            return "not computed"
        fewest = min(counts[experiment.control.key], counts[effect.variant])
        if fewest < experiment.min_units:
            return f"too few units: {fewest} of {experiment.min_units}"
        if experiment.is_fixed_horizon and totals.units < experiment.planned_units:
            return f"planned for {experiment.planned_units} units, {totals.units} are there"
        return "no variance yet"
    if metric.role is MetricRole.GUARDRAIL:
        low, high = effect.low, effect.high
        if metric.is_margin_relative:
            if effect.relative_low is None or effect.relative_high is None:
                return "no share of nothing"
            low, high = effect.relative_low, effect.relative_high
        most, least = (-low, -high) if metric.sign > 0 else (high, low)
        if least > metric.margin:
            return "beyond the margin"
        return "within the margin" if most <= metric.margin else "margin not excluded"
    if effect.adjusted_p >= experiment.alpha:
        return "no decision" if metric.role is MetricRole.PRIMARY else "not shown"
    better = "better" if metric.sign * effect.difference > 0 else "worse"
    return better if metric.role is MetricRole.PRIMARY else f"{better}, exploratory"
