"""Experiments on the wire: protobuf as values, and back."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from google.protobuf import duration_pb2, timestamp_pb2

from bosal.v1 import experiment_pb2 as pb
from bosal_decoding.recipe import INLINE, Recipe
from bosal_server.experiments.catalogue import AuditEvent, Change
from bosal_server.experiments.definition import check_counts
from bosal_server.experiments.enrolment import Assignment
from bosal_server.experiments.errors import InvalidExperiment
from bosal_server.experiments.experiment import Experiment, Namespace, Phase, Variant
from bosal_server.experiments.metric import Direction, Metric, MetricKind, MetricRole
from bosal_server.recipe_store import RecipeStore
from bosal_server.request_errors import located
from bosal_server.rpc.documents import recipe_document, recipe_message
from bosal_server.security.caller import acting_as
from bosal_server.statistics.effect import Method

Value = TypeVar("Value")

_KINDS: dict[int, MetricKind] = {
    pb.MetricKind.Value(f"METRIC_KIND_{kind}"): kind for kind in MetricKind
}
_ROLES: dict[int, MetricRole] = {
    pb.MetricRole.Value(f"METRIC_ROLE_{role}"): role for role in MetricRole
}
_DIRECTIONS: dict[int, Direction] = {
    pb.MetricDirection.Value(f"METRIC_DIRECTION_{one}"): one for one in Direction
}

_METHODS: dict[int, Method] = {
    pb.AnalysisMethod.Value(f"ANALYSIS_METHOD_{one}"): one for one in Method
}


def draft(message: pb.Experiment, recipes: RecipeStore) -> Experiment:
    """Read an experiment that is to be made; its recipes become the versions they are now."""
    # Before fifty thousand of them are read, which takes seconds.
    check_counts(len(message.variants), len(message.shadows), len(message.metrics))
    fields: dict[str, Any] = {}
    for name in ("alpha", "planned_units", "min_units", "coverage_ppm"):
        if message.HasField(name):
            fields[name] = getattr(message, name)
    if message.HasField("retention"):
        fields["retention"] = _span(message.retention)
    if message.HasField("text_retention"):
        fields["text_retention"] = _span(message.text_retention)
    if message.HasField("namespace"):
        space = message.namespace
        fields["namespace"] = Namespace(
            name=space.name, low_ppm=space.low_ppm, high_ppm=space.high_ppm
        )
    return Experiment(
        name=message.name,
        description=message.description,
        unit_kind=message.unit_kind or "unit",
        variants=_variants(message.variants, "variants", recipes),
        shadows=_variants(message.shadows, "shadows", recipes),
        shadow_share_ppm=message.shadow_share_ppm,
        compares_draws=message.compare_draws,
        metrics=tuple(_metric(one, f"metrics[{i}]") for i, one in enumerate(message.metrics)),
        is_fixed_horizon=method(message.method) is Method.FIXED,
        max_failures_per_minute=message.max_failures_per_minute,
        **fields,
    )


def _variants(
    messages: Iterable[pb.Variant], field: str, recipes: RecipeStore
) -> tuple[Variant, ...]:
    found = []
    for index, one in enumerate(messages):
        with located(f"{field}[{index}]"):
            found.append(_variant(one, recipes))
    return tuple(found)


def _variant(message: pb.Variant, recipes: RecipeStore) -> Variant:
    if message.HasField("inline_recipe"):
        with located("inline_recipe"):
            recipe, name = Recipe.parse(recipe_document(message.inline_recipe)), INLINE
    else:
        if not message.recipe:
            raise InvalidExperiment("recipe", "which recipe?")
        recipe = recipes.get(message.recipe)
        name = recipe.name
    return Variant(
        key=message.key,
        recipe_name=name,
        recipe_version=recipe.version,
        document=recipe.document(),
        weight_ppm=message.weight_ppm,
        is_control=message.is_control,
    )


def _metric(message: pb.Metric, field: str) -> Metric:
    return Metric(
        name=message.name,
        kind=_known(_KINDS, message.kind, f"{field}.kind"),
        outcome=message.outcome or message.name,
        denominator=message.denominator,
        level=message.level,
        threshold=message.threshold,
        direction=_known(_DIRECTIONS, message.direction, f"{field}.direction"),
        role=_known(_ROLES, message.role, f"{field}.role"),
        margin=message.margin,
        is_margin_relative=message.is_margin_relative,
        covariate=message.covariate,
    )


def method(number: int) -> Method | None:
    """Return when an experiment may be decided; None: it is not said."""
    return _known(_METHODS, number, "method") if number else None


def _known(values: Mapping[int, Value], number: int, field: str) -> Value:
    if number not in values:
        names = ", ".join(str(value) for value in values.values())
        raise InvalidExperiment(field, f"one of {names}")
    return values[number]


def experiment(value: Experiment) -> pb.Experiment:
    message = pb.Experiment(
        name=value.name,
        description=value.description,
        unit_kind=value.unit_kind,
        variants=[_variant_message(one) for one in value.variants],
        shadows=[_variant_message(one) for one in value.shadows],
        shadow_share_ppm=value.shadow_share_ppm,
        compare_draws=value.compares_draws,
        metrics=[metric(one) for one in value.metrics],
        alpha=value.alpha,
        planned_units=value.planned_units,
        min_units=value.min_units,
        method=(
            pb.ANALYSIS_METHOD_FIXED if value.is_fixed_horizon else pb.ANALYSIS_METHOD_SEQUENTIAL
        ),
        coverage_ppm=value.coverage_ppm,
        max_failures_per_minute=value.max_failures_per_minute,
        state=pb.ExperimentState.Value(f"EXPERIMENT_STATE_{value.state}"),
        etag=value.etag,
        phases=[_phase(value, one) for one in value.phases],
        promoted_variant=value.promoted_variant,
        state_reason=value.state_reason,
        acknowledged_guardrails=value.acknowledged_guardrails,
        create_time=timestamp(value.created),
    )
    message.retention.FromTimedelta(value.retention)
    if value.text_retention is not None:
        message.text_retention.FromTimedelta(value.text_retention)
    if value.namespace is not None:
        message.namespace.CopyFrom(pb.Namespace(**value.namespace.model_dump()))
    return message


def _variant_message(value: Variant) -> pb.Variant:
    message = pb.Variant(
        key=value.key,
        weight_ppm=value.weight_ppm,
        is_control=value.is_control,
        recipe_version=value.recipe_version,
    )
    if value.is_named:
        message.recipe = value.recipe_name
    else:
        message.inline_recipe.CopyFrom(recipe_message(value.document))
    return message


def metric(value: Metric) -> pb.Metric:
    return pb.Metric(
        name=value.name,
        kind=pb.MetricKind.Value(f"METRIC_KIND_{value.kind}"),
        outcome=value.outcome,
        denominator=value.denominator,
        level=value.level,
        threshold=value.threshold,
        direction=pb.MetricDirection.Value(f"METRIC_DIRECTION_{value.direction}"),
        role=pb.MetricRole.Value(f"METRIC_ROLE_{value.role}"),
        margin=value.margin,
        is_margin_relative=value.is_margin_relative,
        covariate=value.covariate,
    )


def _phase(value: Experiment, phase: Phase) -> pb.Phase:
    return pb.Phase(
        number=phase.number,
        weights_ppm=dict(zip((arm.key for arm in value.variants), phase.weights_ppm, strict=True)),
        start_time=None if phase.start is None else timestamp(phase.start),
        end_time=None if phase.end is None else timestamp(phase.end),
    )


def change(message: pb.Change, action: str) -> Change:
    if not message.name:
        raise InvalidExperiment("change.name", "which experiment?")
    return Change(
        action=action,
        actor=actor(message.actor, "change.actor"),
        reason=remark(message.reason, "change.reason"),
        etag=message.etag,
    )


def remark(text: str, field: str, most: int = 2000) -> str:
    """Return what somebody wants kept as they wrote it; refuse what not every database keeps."""
    if len(text) > most or "\0" in text:
        raise InvalidExperiment(field, f"must have at most {most} characters, none of them NUL")
    return text


def actor(claimed: str, field: str) -> str:
    """Return who does something, for the audit: the caller's key, and whom it says it is."""
    return acting_as(remark(claimed, field))


def assignment(value: Assignment) -> pb.Assignment:
    return pb.Assignment(
        experiment=value.experiment.name,
        phase=value.phase,
        variant=value.variant.key,
        recipe_version=value.variant.recipe_version,
        reason=pb.AssignmentReason.Value(f"ASSIGNMENT_REASON_{value.reason}"),
        exposure_id=value.exposure_id.hex(),
    )


def assignment_trailers(value: Assignment) -> tuple[tuple[str, str], ...]:
    """Say in trailing metadata what proxies and logs want to know."""
    return (
        ("bosal-experiment", value.experiment.name),
        ("bosal-phase", str(value.phase)),
        ("bosal-variant", value.variant.key),
        ("bosal-recipe-version", value.variant.recipe_version),
        ("bosal-assignment-reason", value.reason.value),
        ("bosal-exposure-id", value.exposure_id.hex()),
    )


def audit_event(value: AuditEvent) -> pb.AuditEvent:
    return pb.AuditEvent(
        experiment=value.experiment,
        at=timestamp(value.at),
        actor=value.actor,
        action=value.action,
        reason=value.reason,
        details=value.details,
    )


def timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def _span(message: duration_pb2.Duration) -> timedelta:
    try:
        return timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    except OverflowError:
        return timedelta.max
