"""Reports on the wire."""

from bosal.v1 import experiment_pb2 as pb
from bosal_server.experiments.report import (
    ArmReport,
    ArmValue,
    Distribution,
    EffectPoint,
    EffectReport,
    MetricReport,
    Report,
)
from bosal_server.rpc import experiments


def report(value: Report) -> pb.Report:
    return pb.Report(
        experiment=experiments.experiment(value.experiment),
        phase=value.phase,
        as_of=experiments.timestamp(value.as_of),
        arms=[_arm(one) for one in value.arms],
        shares=pb.ShareCheck(
            p_value=value.shares.p_value,
            chi_square_p=value.shares.chi_square_p,
            is_alarm=value.shares.is_alarm,
        ),
        metrics=[_metric(one) for one in value.metrics],
        conclusion=value.conclusion,
        warnings=value.warnings,
        orphans=value.orphans,
        skewed_outcomes=value.skewed_outcomes,
        history=[_point(one) for one in value.history],
        distributions=[_distribution(one) for one in value.distributions],
    )


def _arm(value: ArmReport) -> pb.ArmReport:
    return pb.ArmReport(
        variant=value.variant,
        units=value.units,
        requests=value.requests,
        completed=value.completed,
        failed=value.failed,
        share=value.share,
        expected_share=value.expected_share,
        mixed_units=value.mixed_units,
    )


def _metric(value: MetricReport) -> pb.MetricReport:
    return pb.MetricReport(
        metric=experiments.metric(value.metric),
        arms=[_arm_value(one) for one in value.arms],
        effects=[_effect(one) for one in value.effects],
    )


def _arm_value(value: ArmValue) -> pb.ArmValue:
    return pb.ArmValue(variant=value.variant, count=value.count, value=value.value)


def _effect(value: EffectReport) -> pb.Effect:
    return pb.Effect(
        variant=value.variant,
        difference=value.difference,
        low=value.low,
        high=value.high,
        relative=value.relative,
        relative_low=value.relative_low,
        relative_high=value.relative_high,
        p_value=value.p_value,
        adjusted_p=value.adjusted_p,
        method=value.method,
        verdict=value.verdict,
    )


def _point(value: EffectPoint) -> pb.EffectPoint:
    return pb.EffectPoint(
        at=experiments.timestamp(value.at),
        units=value.units,
        variant=value.variant,
        difference=value.difference,
        low=value.low,
        high=value.high,
        share_p=value.share_p,
    )


def _distribution(value: Distribution) -> pb.Distribution:
    return pb.Distribution(
        outcome=value.outcome,
        variant=value.variant,
        count=value.count,
        percentiles=value.percentiles,
    )
