"""Experiments over the wire, from the draft to the promotion."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.live_server import LiveServer

from bosal.v1 import experiment_pb2 as pb
from bosal.v1 import experiment_pb2_grpc, generation_pb2, generation_pb2_grpc
from bosal_client.documents import recipe_message
from bosal_client.errors import from_rpc_error

# None of the contract's.
NO_METHOD: Any = 9
COLD = {"rule": "temperature", "value": 0.3}


@pytest.fixture(scope="module")
def channel(server: LiveServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def experiments(channel: grpc.Channel) -> experiment_pb2_grpc.ExperimentServiceStub:
    return experiment_pb2_grpc.ExperimentServiceStub(channel)


def draft(name: str, **fields: Any) -> pb.Experiment:
    defaults: dict[str, Any] = {
        "variants": [
            pb.Variant(key="control", recipe="plain", weight_ppm=500_000, is_control=True),
            pb.Variant(
                key="ruled",
                inline_recipe=recipe_message({"rules": [COLD]}, "inline_recipe"),
                weight_ppm=500_000,
            ),
        ],
        "metrics": [
            pb.Metric(
                name="liked",
                kind=pb.METRIC_KIND_PROPORTION,
                direction=pb.METRIC_DIRECTION_INCREASE,
                role=pb.METRIC_ROLE_PRIMARY,
            ),
            pb.Metric(
                name="kl_dose",
                kind=pb.METRIC_KIND_MEAN,
                direction=pb.METRIC_DIRECTION_DECREASE,
                role=pb.METRIC_ROLE_SECONDARY,
            ),
        ],
    }
    return pb.Experiment(name=name, **{**defaults, **fields})


def start(experiments: experiment_pb2_grpc.ExperimentServiceStub, name: str) -> pb.Experiment:
    made = experiments.CreateExperiment(
        pb.CreateExperimentRequest(experiment=draft(name), actor="me")
    ).experiment
    change = pb.Change(name=name, etag=made.etag, actor="me")
    return experiments.StartExperiment(pb.StartExperimentRequest(change=change)).experiment


def ask(channel: grpc.Channel, name: str, unit: str, **fields: Any) -> tuple[Any, dict[str, str]]:
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    experiment = generation_pb2.ExperimentRef(experiment=name, unit_id=unit)
    spec = generation_pb2.GenerationSpec(
        instruction="Name a river.", max_tokens=4, experiment=experiment, **fields
    )
    response, call = stub.Generate.with_call(generation_pb2.GenerateRequest(spec=spec))
    return response, {key: str(value) for key, value in call.trailing_metadata() or ()}


def test_an_experiment_lives_over_the_wire(
    channel: grpc.Channel,
    experiments: experiment_pb2_grpc.ExperimentServiceStub,
    server: LiveServer,
) -> None:
    running = start(experiments, "life")
    assert running.state == pb.EXPERIMENT_STATE_RUNNING
    assert all(variant.recipe_version for variant in running.variants)
    seen = set()
    lengths: dict[str, int] = {}
    for index in range(12):
        response, trailers = ask(channel, "life", f"u{index}", request_id=f"r{index}")
        told = response.started.assignment
        assert told.reason == pb.ASSIGNMENT_REASON_ASSIGNED
        assert trailers["bosal-variant"] == told.variant
        assert trailers["bosal-exposure-id"] == told.exposure_id
        lengths[told.exposure_id] = response.usage.output_tokens
        assert response.started.recipe_version == told.recipe_version
        dry = experiments.Assign(pb.AssignRequest(experiment="life", unit_id=f"u{index}"))
        assert dry.assignment.variant == told.variant
        seen.add(told.variant)
        again, _ = ask(channel, "life", f"u{index}", request_id=f"r{index}")
        assert again.started.assignment == told
        outcome = pb.Outcome(exposure_id=told.exposure_id, name="liked", truth=index % 2 == 0)
        for status in (pb.OUTCOME_STATUS_RECORDED, pb.OUTCOME_STATUS_DUPLICATE):
            request = pb.RecordOutcomesRequest(experiment="life", outcomes=[outcome])
            assert experiments.RecordOutcomes(request).results[0].status == status
    assert seen == {"control", "ruled"}
    report = experiments.GetReport(pb.GetReportRequest(name="life", with_distributions=True)).report
    assert sum(arm.units for arm in report.arms) == 12
    assert sum(arm.requests for arm in report.arms) == 12
    dose = {arm.variant: arm.value for arm in report.metrics[1].arms}
    # Held against itself the control has none; whatever the other's rules do moves some.
    assert dose["control"] == 0.0
    assert dose["ruled"] > 0.0
    (parted,) = report.divergences
    assert (parted.variant, parted.requests + parted.unknown) == ("ruled", 12)
    assert {one.outcome for one in report.distributions} >= {"ttft_ms", "total_ms"}
    finished = sum(
        value
        for (name, labels), value in server.metrics().items()
        if name == "bosal_finished_choices_total" and ("variant", "life/control") in labels
    )
    # Each was asked twice; how it ended is the random model's affair.
    assert finished == 2 * next(arm.requests for arm in report.arms if arm.variant == "control")
    rows = [
        row
        for page in experiments.ExportRecords(pb.ExportRecordsRequest(name="life"))
        for row in page.exposures
    ]
    assert len(rows) == 12
    # A reply may end before its four tokens.
    assert {row.exposure_id: row.outcomes["output_tokens"] for row in rows} == lengths
    # As text: the bytes of a number may be anything.
    assert not any("u1" in str(row) for row in rows)
    promoted = experiments.PromoteVariant(
        pb.PromoteVariantRequest(change=pb.Change(name="life"), variant="ruled")
    ).experiment
    assert promoted.promoted_variant == "ruled"
    for index in range(4):
        response, _ = ask(channel, "life", f"u{index}")
        told = response.started.assignment
        assert (told.variant, told.exposure_id) == ("ruled", "")
        assert told.reason == pb.ASSIGNMENT_REASON_PROMOTED
    events = experiments.ListAuditEvents(pb.ListAuditEventsRequest(experiment="life")).events
    assert [event.action for event in events] == ["PROMOTE", "START", "CREATE"]


def test_a_watched_report_comes_at_once_and_when_it_changes(
    channel: grpc.Channel, experiments: experiment_pb2_grpc.ExperimentServiceStub
) -> None:
    start(experiments, "watched")
    request = pb.StreamReportRequest(name="watched")
    request.min_interval.FromMilliseconds(200)
    stream = experiments.StreamReport(request, timeout=30)
    assert sum(arm.units for arm in next(stream).report.arms) == 0
    ask(channel, "watched", "u")
    while not sum(arm.units for arm in next(stream).report.arms):
        pass
    stream.cancel()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"recipe": "plain"}, "spec.recipe"),
        ({"inline_recipe": {"name": "x"}}, "spec.inline_recipe"),
        ({"overrides": [{"rule": "top_k"}]}, "spec.overrides"),
    ],
)
def test_nothing_else_may_change_the_recipe(
    channel: grpc.Channel,
    experiments: experiment_pb2_grpc.ExperimentServiceStub,
    fields: dict[str, Any],
    field: str,
) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        ask(channel, "any", "u", **fields)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field.removeprefix("spec.") in str(failure.value.details())


@pytest.mark.parametrize("field", ["variants", "shadows", "metrics"])
def test_the_parts_of_an_experiment_are_counted_before_they_are_read(
    experiments: experiment_pb2_grpc.ExperimentServiceStub, field: str
) -> None:
    kind = {"variants": pb.Variant, "shadows": pb.Variant, "metrics": pb.Metric}[field]
    # No single one of them could be read.
    asked = draft("crowded", **{field: [kind()] * 21})
    with pytest.raises(grpc.RpcError) as failure:
        experiments.CreateExperiment(pb.CreateExperimentRequest(experiment=asked))
    error = from_rpc_error(failure.value)
    assert (error.reason, error.field) == ("INVALID_EXPERIMENT", f"experiment.{field}")


@pytest.mark.parametrize(
    ("call", "request_", "code"),
    [
        ("GetExperiment", pb.GetExperimentRequest(name="no"), grpc.StatusCode.NOT_FOUND),
        ("StartExperiment", pb.StartExperimentRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        ("CreateExperiment", pb.CreateExperimentRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        ("CreateExperiment", pb.CreateExperimentRequest(experiment=draft("e", method=NO_METHOD)),
         grpc.StatusCode.INVALID_ARGUMENT),
        ("PlanExperiment", pb.PlanExperimentRequest(effect=1, deviation=1, method=NO_METHOD),
         grpc.StatusCode.INVALID_ARGUMENT),
        ("RecordOutcomes", pb.RecordOutcomesRequest(experiment="no"), grpc.StatusCode.NOT_FOUND),
        ("Assign", pb.AssignRequest(experiment="no"), grpc.StatusCode.NOT_FOUND),
        ("ListAuditEvents", pb.ListAuditEventsRequest(page_token="x"),
         grpc.StatusCode.INVALID_ARGUMENT),
        ("DeleteUnit", pb.DeleteUnitRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        # PostgreSQL would take neither.
        ("DeleteUnit", pb.DeleteUnitRequest(unit_id="u", actor="me\0"),
         grpc.StatusCode.INVALID_ARGUMENT),
        ("CreateExperiment", pb.CreateExperimentRequest(request_id="r" * 129),
         grpc.StatusCode.INVALID_ARGUMENT),
        ("PauseExperiment",
         pb.PauseExperimentRequest(change=pb.Change(name="no", reason="x" * 2001)),
         grpc.StatusCode.INVALID_ARGUMENT),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_has_a_status(
    experiments: experiment_pb2_grpc.ExperimentServiceStub,
    call: str,
    request_: Any,
    code: grpc.StatusCode,
) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        getattr(experiments, call)(request_)
    assert failure.value.code() is code
