"""What is no experiment, and which field says so."""

from datetime import timedelta
from typing import Any

import pytest
from tests.server.experiments.drafts import METRICS, draft, metric, space, variant

from bosal_server.experiments.definition import check_apart, check_definition
from bosal_server.experiments.errors import InvalidExperiment
from bosal_server.experiments.experiment import State
from bosal_server.experiments.metric import Direction, MetricKind, MetricRole

CONTROL = variant("a", "plain", is_control=True)
PRIMARY = metric("score", role=MetricRole.PRIMARY)


def arms(*others: Any) -> dict[str, Any]:
    return {"variants": (CONTROL, *others)}


def metrics(*others: Any) -> dict[str, Any]:
    return {"metrics": (PRIMARY, *others)}


def guardrail(**fields: Any) -> Any:
    return metric("total_ms", role=MetricRole.GUARDRAIL, **fields)


def test_a_good_one_is_taken() -> None:
    check_definition(draft(namespace=space(0, 10)))
    check_definition(draft(**arms(variant("b", "rules"))))


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"name": "a b"}, "name", "letters"),
        ({"description": "x" * 3000}, "description", "2000"),
        (arms(), "variants", "from 2 to 8"),
        (arms(variant("b", "rules", 400_000)), "variants", "make 0.9 (900000 millionths), not 1"),
        (arms(variant("b", "rules", 0)), "variants", "above 0"),
        (arms(variant("a", "rules")), "variants[1].key", "given twice"),
        (arms(variant("b", "rules", is_control=True)), "variants", "exactly one"),
        ({"metrics": ()}, "metrics", "from 1 to 20"),
        ({"metrics": METRICS[1:]}, "metrics", "exactly one must be primary, not 0"),
        (metrics(PRIMARY), "metrics[1].name", "given twice"),
        (metrics(metric("r", MetricKind.RATIO)), "metrics[1].denominator", "requests"),
        (metrics(metric("m", denominator="score")), "metrics[1].denominator", "only a ratio"),
        (metrics(metric("q", MetricKind.QUANTILE)), "metrics[1].level", "between 0 and 1"),
        (
            metrics(metric("q", MetricKind.QUANTILE, MetricRole.GUARDRAIL, level=0.9)),
            "metrics[1].role",
            "METRIC_KIND_ABOVE",
        ),
        (metrics(metric("m", margin=0.1)), "metrics[1].margin", "only a guardrail"),
        (metrics(guardrail(margin=-1.0)), "metrics[1].margin", "below 0"),
        (metrics(guardrail(margin=float("nan"))), "metrics[1].margin", "finite"),
        (metrics(metric("m", covariate="length")), "metrics[1].covariate", "instruction_tokens"),
        (metrics(metric("ttft_ms", MetricKind.PROPORTION)), "metrics[1].kind", "other than 0 and"),
        ({"namespace": space(10, 10)}, "namespace", "range"),
        ({"namespace": space(0, 1_000_001)}, "namespace", "range"),
        ({"alpha": 0.5}, "alpha", "from 0.0001 to 0.2"),
        ({"alpha": float("nan")}, "alpha", "must be"),
        ({"planned_units": 10}, "planned_units", "from 100"),
        ({"min_units": 5}, "min_units", "from 50"),
        ({"coverage_ppm": 2_000_000}, "coverage_ppm", "from 0 to 1000000"),
        ({"retention": timedelta()}, "retention", "above 0"),
        ({"text_retention": timedelta(days=9999)}, "text_retention", "3650"),
    ],
)
def test_what_cannot_be_run_names_its_field(fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidExperiment) as failure:
        check_definition(draft(**fields))
    assert failure.value.field == field
    assert words in str(failure.value)


def test_ranges_of_a_namespace_do_not_overlap() -> None:
    held = draft("held", namespace=space(200, 500))
    others = {"held": held}
    for low, high in ((0, 200), (500, 900)):
        check_apart(draft(namespace=space(low, high)), others)
    for low, high in ((0, 201), (499, 900), (300, 310), (0, 1000)):
        with pytest.raises(InvalidExperiment, match="'held' holds"):
            check_apart(draft(namespace=space(low, high)), others)
    check_apart(draft(namespace=space(0, 1000, "other")), others)
    check_apart(held, others)
    over = held.model_copy(update={"state": State.STOPPED})
    check_apart(draft(namespace=space(0, 1000)), {"held": over})


def test_a_direction_has_a_sign() -> None:
    assert metric("m").sign == 1
    assert metric("m", direction=Direction.DECREASE).sign == -1
