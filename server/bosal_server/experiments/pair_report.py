"""What exposures held against other variants say: where texts part, doses, shadows."""

import json
import math
from dataclasses import replace

from sqlalchemy import Connection, select

from bosal_server.experiments.analysis import effect_report, estimates_of
from bosal_server.experiments.experiment import Experiment
from bosal_server.experiments.metric import MetricKind
from bosal_server.experiments.records import Entry
from bosal_server.experiments.report import (
    DivergenceExample,
    DivergenceReport,
    DoseReport,
    EffectReport,
    PairedEffect,
    ShadowReport,
)
from bosal_server.experiments.tables import PAIRS
from bosal_server.experiments.totals import Totals
from bosal_server.experiments.unit_row import PAIRED_PREFIX, TOUCHED_PREFIX
from bosal_server.statistics import sequential
from bosal_server.statistics.effect import Effect, difference, relative
from bosal_server.statistics.moments import Estimate, Moments

__all__ = ["dose_reports", "divergence_reports", "read_examples", "shadow_reports"]

_EXAMPLES = 12
_CAUSES = ("RULE", "PROMPT", "NUMERICS", "ENDING")


def divergence_reports(
    experiment: Experiment, totals: Totals, examples: dict[int, tuple[DivergenceExample, ...]]
) -> tuple[DivergenceReport, ...]:
    """Say of each variant that was held against the control where the two part."""
    found = []
    for index, variant in enumerate(experiment.sides):
        counts = totals.pairs.get(index)
        if counts is None or not counts["pairs"] + counts["unknown"]:
            continue
        parted = counts["pairs"] - counts["equal"]
        rules = totals.rules.get(index, {})
        found.append(
            DivergenceReport(
                variant=variant.key,
                is_shadow=index >= len(experiment.variants),
                requests=counts["pairs"],
                equal=counts["equal"],
                unknown=counts["unknown"],
                causes={cause: counts[cause] for cause in _CAUSES if counts[cause]},
                rules=dict(sorted(rules.items(), key=lambda item: (-item[1], item[0]))),
                mean_position=counts["positions"] / parted if parted else None,
                examples=examples.get(index, ()),
            )
        )
    return tuple(found)


def read_examples(
    connection: Connection, entry: Entry, phase: int
) -> dict[int, tuple[DivergenceExample, ...]]:
    """Read the newest requests that parted, by variant."""
    columns = PAIRS.c
    found = {}
    for index in range(len(entry.experiment.sides)):
        query = (
            select(
                columns.position, columns.control_token, columns.token, columns.cause, columns.rules
            )
            .where(
                columns.experiment == entry.id,
                columns.phase == phase,
                columns.variant == index,
                columns.position.is_not(None),
            )
            .order_by(columns.at.desc())
            .limit(_EXAMPLES)
        )
        found[index] = tuple(
            DivergenceExample(
                position=position,
                control_token=bytes(control),
                token=bytes(token),
                cause=cause,
                rules=tuple(json.loads(rules)),
            )
            for position, control, token, cause, rules in connection.execute(query)
        )
    return found


def dose_reports(experiment: Experiment, totals: Totals) -> tuple[DoseReport, ...]:
    """Say how much each variant touches, and what it does where it does.

    Up to its first touched request a unit is served the same in both arms, so whether it comes to
    be touched depends on no assignment: touched units of both arms compare fairly.
    """
    control = experiment.variants.index(experiment.control)
    metric = experiment.primary
    found = []
    for index, variant in enumerate(experiment.variants):
        counts = totals.pairs.get(index)
        if variant.is_control or counts is None or not counts["pairs"] + counts["unknown"]:
            continue
        name = f"{TOUCHED_PREFIX}{index}"
        arms = [totals.arm(arm, name) for arm in (control, index)]
        everyone = sum(totals.arm(arm, metric.name).units for arm in (control, index))
        touched = sum(arm.units for arm in arms)
        absolute = difference(*estimates_of(metric, arms))
        base = arms[0].mean().value if metric.covariate else None
        share = touched / everyone if everyone else None
        diluted = None
        if share is not None and metric.kind is not MetricKind.RATIO:
            diluted = _diluted(experiment, variant.key, absolute, share, everyone)
        effects = absolute, relative(absolute, base)
        effect = effect_report(experiment, metric, variant.key, effects, totals)
        found.append(
            DoseReport(
                variant=variant.key,
                requests=counts["pairs"] + counts["unknown"],
                touched=counts["touched"],
                control_units=arms[0].units,
                units=arms[1].units,
                touched_share=share,
                effect=effect,
                diluted=diluted,
            )
        )
    return tuple(found)


def _diluted(
    experiment: Experiment, variant: str, among: Effect, share: float, everyone: int
) -> EffectReport | None:
    """Spread the effect among touched units over all: those untouched have none."""
    if not among.is_known or min(among.control.units, among.variant.units) < experiment.min_units:
        return None
    value = share * among.value
    # By the delta method: the share is estimated too.
    error = math.sqrt(share**2 * among.error**2 + among.value**2 * share * (1 - share) / everyone)
    reach = float(
        sequential.half_width(
            error, among.units, planned_units=experiment.planned_units, alpha=experiment.alpha
        )
    )
    return EffectReport(
        variant=variant,
        difference=value,
        low=value - reach,
        high=value + reach,
        method=f"confidence sequence among touched units, diluted, {1 - experiment.alpha:.4g}",
    )


def shadow_reports(experiment: Experiment, totals: Totals) -> tuple[ShadowReport, ...]:
    """Compare each shadow with the control's answers to the same requests."""
    found = []
    for index, shadow in enumerate(experiment.shadows, len(experiment.variants)):
        counts = totals.pairs.get(index, {})
        names = sorted(
            name for arm, name in totals.moments if arm == index and name.startswith(PAIRED_PREFIX)
        )
        effects = [
            _paired(experiment, name.removeprefix(PAIRED_PREFIX), totals.arm(index, name))
            for name in names
            if totals.arm(index, name).units
        ]
        found.append(
            ShadowReport(
                variant=shadow.key,
                pairs=counts.get("pairs", 0),
                given_up=counts.get("unknown", 0),
                effects=tuple(effects),
            )
        )
    return tuple(found)


def _paired(experiment: Experiment, outcome: str, sums: Moments) -> PairedEffect:
    """Test the mean difference over units; the covariate is the control's side."""
    units = sums.units
    control, variant = sums.x / units, sums.y / units
    found = PairedEffect(
        outcome=outcome,
        units=units,
        control=control,
        variant=variant,
        difference=variant - control,
    )
    apart = sums.value_variance + sums.covariate_variance
    together = max(apart - 2 * sums.covariate_covariance, 0.0)
    if units < experiment.min_units or not together > 1e-12 * apart:
        return found
    effect = Estimate(units, found.difference, together)
    error = math.sqrt(effect.squared_error)
    planned, alpha = experiment.planned_units, experiment.alpha
    reach = float(sequential.half_width(error, units, planned_units=planned, alpha=alpha))
    p = sequential.p_value(found.difference, error, units, planned_units=planned, alpha=alpha)
    return replace(
        found,
        low=found.difference - reach,
        high=found.difference + reach,
        p_value=float(p),
        # Two arms of n units each against n pairs.
        saving=apart / together,
        method=f"confidence sequence over units' paired differences, {1 - alpha:.4g}",
    )
