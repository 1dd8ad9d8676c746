"""Reports on the wire."""

from bosal.v1 import experiment_pb2 as pb
from bosal_server.experiments.planning import Plan, PlanCommand
from bosal_server.experiments.report import (
    ArmReport,
    ArmValue,
    Distribution,
    DivergenceReport,
    DoseReport,
    EffectPoint,
    EffectReport,
    MetricReport,
    Report,
    ShadowReport,
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
        divergences=[_divergence(one) for one in value.divergences],
        shadows=[_shadow(one) for one in value.shadows],
        doses=[_dose(one) for one in value.doses],
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


def _divergence(value: DivergenceReport) -> pb.DivergenceReport:
    return pb.DivergenceReport(
        variant=value.variant,
        is_shadow=value.is_shadow,
        requests=value.requests,
        equal=value.equal,
        unknown=value.unknown,
        causes=value.causes,
        rules=value.rules,
        mean_position=value.mean_position,
        examples=[
            pb.DivergenceExample(
                position=one.position,
                control_token=one.control_token,
                token=one.token,
                cause=one.cause,
                rules=one.rules,
            )
            for one in value.examples
        ],
    )


def _shadow(value: ShadowReport) -> pb.ShadowReport:
    return pb.ShadowReport(
        variant=value.variant,
        pairs=value.pairs,
        given_up=value.given_up,
        effects=[
            pb.PairedEffect(
                outcome=one.outcome,
                units=one.units,
                control=one.control,
                variant=one.variant,
                difference=one.difference,
                low=one.low,
                high=one.high,
                p_value=one.p_value,
                saving=one.saving,
                method=one.method,
            )
            for one in value.effects
        ],
    )


def _dose(value: DoseReport) -> pb.DoseReport:
    return pb.DoseReport(
        variant=value.variant,
        requests=value.requests,
        touched=value.touched,
        control_units=value.control_units,
        units=value.units,
        touched_share=value.touched_share,
        effect=_effect(value.effect),
        diluted=None if value.diluted is None else _effect(value.diluted),
    )


def plan_command(message: pb.PlanExperimentRequest) -> PlanCommand:
    given = {
        name: getattr(message, name)
        for name in ("deviation", "rate", "alpha", "power")
        if message.HasField(name)
    }
    return PlanCommand(effect=message.effect, method=experiments.method(message.method), **given)


def plan(value: Plan) -> pb.PlanExperimentResponse:
    return pb.PlanExperimentResponse(
        units=value.units,
        effect=value.effect,
        deviation=value.deviation,
        alpha=value.alpha,
        power=value.power,
        method=pb.AnalysisMethod.Value(f"ANALYSIS_METHOD_{value.method}"),
    )
