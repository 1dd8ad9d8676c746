"""What a report says in words: what may be concluded, what not, and what to beware of."""

import math
from collections.abc import Sequence

from scipy import stats

from bosal_server.experiments.experiment import Experiment, Phase
from bosal_server.experiments.metric import MetricRole
from bosal_server.experiments.report import EffectReport, MetricReport, ShadowReport, ShareCheck
from bosal_server.experiments.totals import Totals

__all__ = ["conclusion", "warnings"]

_MIXED_SHARE = 0.01
_MISSING_ALPHA = 0.001
_GIVEN_UP_SHARE = 0.01


def warnings(
    experiment: Experiment,
    phase: Phase,
    totals: Totals,
    shares: ShareCheck,
    changed_recipes: Sequence[str],
    shadows: Sequence[ShadowReport] = (),
) -> list[str]:
    """Return what to beware of, the gravest first."""
    found = []
    if shares.is_alarm:
        found.append(
            "units do not have the shares they were given "
            f"(always-valid p {shares.p_value:.2g}): some were lost or counted wrongly, and "
            "whatever did that may have made the effects too"
        )
    found += changed_recipes
    mixed = sum(arm.mixed for arm in totals.arms)
    if mixed:
        share = mixed / (totals.units + mixed)
        alarm = ", more than 1 %: something assigns them otherwise" * (share > _MIXED_SHARE)
        found.append(f"{mixed} units were seen in two variants and are left out{alarm}")
    if experiment.acknowledged_guardrails and phase.number == experiment.phase.number:
        names = ", ".join(experiment.acknowledged_guardrails)
        found.append(f"it was started in spite of its guardrails: {names} pause this phase no more")
    missing = _missing_p(experiment, totals)
    if missing < _MISSING_ALPHA:
        found.append(
            f"variants differ in how many units have a value of '{experiment.primary.name}' "
            f"(p {missing:.2g}): those that have one may not be alike"
        )
    if totals.orphans:
        found.append(f"{totals.orphans} outcomes are of exposures that are not known")
    if totals.skewed:
        found.append(
            f"{totals.skewed} outcomes came with a clock more than five minutes off; the "
            "server's was taken"
        )
    if experiment.is_fixed_horizon and totals.units > experiment.planned_units:
        found.append(
            f"planned for one look at {experiment.planned_units} units, {totals.units} are there: "
            "every look since is another chance of a false alarm; stop a fixed plan at its number"
        )
    found += [
        f"{one.given_up} of {one.given_up + one.pairs} requests were not run again under shadow "
        f"'{one.variant}': long answers make way for live requests more often than short ones, "
        "so its pairs may not be those of all requests"
        for one in shadows
        if one.given_up > _GIVEN_UP_SHARE * (one.given_up + one.pairs)
    ]
    if len(experiment.phases) > 1:
        found.append(f"phase {phase.number} alone; phases are never pooled")
    return found


def blocking(totals_shares: ShareCheck, changed_recipes: Sequence[str]) -> list[str]:
    """Return what forbids a promotion without a reason."""
    found = []
    if totals_shares.is_alarm:
        found.append("units do not have the shares they were given")
    return [*found, *changed_recipes]


def conclusion(
    experiment: Experiment, reports: Sequence[MetricReport], totals: Totals, shares: ShareCheck
) -> str:
    """Say what may be concluded and what not."""
    if shares.is_alarm:
        return (
            "Nothing may be concluded: units do not have the shares they were given. Find what "
            "is lost first."
        )
    primary = next(one for one in reports if one.metric.role is MetricRole.PRIMARY)
    sentences = [_primary(experiment, primary, effect) for effect in primary.effects]
    if not sentences:
        sentences.append("Nobody is served a variant: shadows tell of programs' scores alone.")
    for one in reports:
        if one.metric.role is MetricRole.GUARDRAIL:
            sentences += [
                f"Guardrail {one.metric.name}, {effect.variant}: {effect.verdict}."
                for effect in one.effects
            ]
    if any(one.metric.role is MetricRole.SECONDARY for one in reports):
        sentences.append("Secondary metrics are for looking around: they decide nothing.")
    return " ".join(sentences)


def _primary(experiment: Experiment, report: MetricReport, effect: EffectReport) -> str:
    name, control, variant = report.metric.name, experiment.control.key, effect.variant
    if effect.low is None or effect.high is None or effect.difference is None:
        return f"{variant} against {control} in {name}: no conclusion, {effect.verdict}."
    interval = f"{effect.difference:+.4g} [{effect.low:+.4g}, {effect.high:+.4g}]"
    if effect.adjusted_p < experiment.alpha:
        when = (
            "the planned number of units is reached"
            if experiment.is_fixed_horizon
            else "this holds however often one has looked"
        )
        return (
            f"{variant} is {effect.verdict} than {control} in {name}: {interval}, "
            f"p {_p(effect.adjusted_p)}; {when}."
        )
    bound = max(abs(effect.low), abs(effect.high))
    return (
        f"{variant} against {control} in {name}: no decision, {interval}, "
        f"p {_p(effect.adjusted_p)}. That does not show that they are equal: a difference of "
        f"{bound:.3g} is not excluded."
    )


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1g}"


def _missing_p(experiment: Experiment, totals: Totals) -> float:
    """Return p of arms having a value of the primary metric equally often."""
    with_value = [
        totals.arm(index, experiment.primary.name).units for index in range(len(totals.arms))
    ]
    without = [arm.units - n for arm, n in zip(totals.arms, with_value, strict=True)]
    if min(sum(with_value), sum(without)) == 0 or any(n < 0 for n in without):
        return 1.0
    if min(arm.units for arm in totals.arms) == 0:
        return 1.0
    p = float(stats.chi2_contingency([with_value, without]).pvalue)
    return p if math.isfinite(p) else 1.0
