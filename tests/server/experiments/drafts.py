"""Experiments to test with."""

from collections.abc import Mapping
from typing import Any

from bosal_decoding.recipe import Recipe, load_shipped
from bosal_server.experiments.experiment import Experiment, Namespace, Variant
from bosal_server.experiments.metric import Direction, Metric, MetricKind, MetricRole

RECIPES = load_shipped()


def variant(key: str, recipe: str, weight: int = 500_000, **fields: Any) -> Variant:
    found: Recipe = RECIPES[recipe]
    return Variant(
        key=key,
        recipe_name=recipe,
        recipe_version=found.version,
        document=found.document(),
        weight_ppm=weight,
        **fields,
    )


def metric(
    name: str,
    kind: MetricKind = MetricKind.MEAN,
    role: MetricRole = MetricRole.SECONDARY,
    **fields: Any,
) -> Metric:
    fields = {"outcome": name, "direction": Direction.INCREASE, **fields}
    return Metric(name=name, kind=kind, role=role, **fields)


METRICS = (
    metric("score", role=MetricRole.PRIMARY),
    metric("liked", MetricKind.PROPORTION),
    metric("per_request", MetricKind.RATIO, outcome="score", denominator="requests"),
    metric(
        "slow",
        MetricKind.ABOVE,
        MetricRole.GUARDRAIL,
        outcome="total_ms",
        threshold=100.0,
        margin=0.05,
        direction=Direction.DECREASE,
    ),
)


def draft(name: str = "exp", **fields: Any) -> Experiment:
    defaults: Mapping[str, Any] = {
        "variants": (
            variant("plain", "plain", is_control=True),
            variant("steered", "steered"),
        ),
        "metrics": METRICS,
        "planned_units": 1000,
    }
    return Experiment(name=name, **{**defaults, **fields})


def space(low: int, high: int, name: str = "layer") -> Namespace:
    return Namespace(name=name, low_ppm=low, high_ppm=high)
