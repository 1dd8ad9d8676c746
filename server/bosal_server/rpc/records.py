"""What was recorded, on the wire: outcomes as they come in, rows as they go out."""

from collections.abc import Sequence

from bosal.v1 import experiment_pb2 as pb
from bosal_server.experiments.export import ExportPage, PairRow
from bosal_server.experiments.intake import OutcomeCommand, OutcomeResult, check_count
from bosal_server.rpc import experiments


def outcomes(messages: Sequence[pb.Outcome]) -> list[OutcomeCommand]:
    """Read outcomes, unless there are more than are taken at once: reading those takes seconds."""
    check_count(len(messages))
    return [_outcome(one) for one in messages]


def _outcome(message: pb.Outcome) -> OutcomeCommand:
    target = message.WhichOneof("target")
    value: float | None = None
    match message.WhichOneof("value"):
        case "number":
            value = message.number
        case "truth":
            value = float(message.truth)
    return OutcomeCommand(
        exposure_id=message.exposure_id if target == "exposure_id" else None,
        unit=message.unit_id if target == "unit_id" else None,
        name=message.name,
        value=value,
        key=message.idempotency_key,
        at=message.at.seconds + message.at.nanos / 1e9 if message.HasField("at") else None,
    )


def outcome_result(value: OutcomeResult) -> pb.OutcomeResult:
    status = "REJECTED" if value.status is None else value.status.value
    return pb.OutcomeResult(
        status=pb.OutcomeStatus.Value(f"OUTCOME_STATUS_{status}"),
        reason=value.reason,
        message=value.message,
    )


def export_page(value: ExportPage) -> pb.ExportRecordsResponse:
    return pb.ExportRecordsResponse(
        exposures=[
            pb.ExposureRecord(
                exposure_id=one.id.hex(),
                phase=one.phase,
                unit=one.unit.hex(),
                variant=one.variant,
                reason=(
                    pb.ASSIGNMENT_REASON_FORCED if one.is_forced else pb.ASSIGNMENT_REASON_ASSIGNED
                ),
                recipe_version=one.recipe_version,
                model_digest=one.model_digest,
                seed=one.seed,
                instruction_tokens=one.instruction_tokens,
                at=experiments.timestamp(one.at),
                outcomes=one.outcomes,
                finish_reason=one.finish_reason,
            )
            for one in value.exposures
        ],
        outcomes=[
            pb.OutcomeRecord(
                exposure_id=one.exposure.hex(),
                unit=one.unit.hex(),
                name=one.name,
                value=one.value,
                at=experiments.timestamp(one.at),
                is_orphan=one.is_orphan,
                phase=one.phase,
            )
            for one in value.outcomes
        ],
        pairs=[_pair(one) for one in value.pairs],
    )


def _pair(value: PairRow) -> pb.PairRecord:
    return pb.PairRecord(
        exposure_id=value.exposure.hex(),
        phase=value.phase,
        variant=value.variant,
        is_shadow=value.is_shadow,
        is_touched=value.is_touched,
        position=value.position,
        control_token=value.control_token,
        token=value.token,
        cause=value.cause,
        rules=value.rules,
        control_outcomes={name: before for name, (before, _) in value.outcomes.items()},
        outcomes={name: after for name, (_, after) in value.outcomes.items()},
        at=experiments.timestamp(value.at),
    )
