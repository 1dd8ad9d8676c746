"""One metric of one arm, item by item, as summaries and comparisons read it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bosal_lab.evaluation_errors import ArmError
from bosal_lab.item import VERDICTS, Item, Split
from bosal_lab.record import Record
from bosal_lab.results import Results

__all__ = ["RECORD_METRICS", "Outcomes", "is_share", "outcomes", "selected"]

# Metrics that no scorer is needed for.
RECORD_METRICS: Mapping[str, Callable[[Record], float]] = {
    "tokens": lambda record: float(len(record.token_ids)),
    "seconds": lambda record: record.timings["total"],
    "ended": lambda record: float(record.has_stopped),
}


# Those of them that are no shares, however small.
_NUMBERS = frozenset({"tokens", "seconds"})


def is_share(metric: str) -> bool:
    """Whether a metric's means are shares, as of a scorer's verdicts; else they have a unit."""
    return metric not in _NUMBERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Values by item and sample. An error is a failure in every verdict, and has no number."""

    values: Mapping[str, Mapping[int, float]]
    num_answers: int
    num_errors: int
    # Answers on which the scorer gave no verdict.
    num_unscored: int


def selected(
    results: Results, split: Split | None = None, category: str | None = None
) -> dict[str, Item]:
    """Return the items of a split and a category by id."""
    return {
        name: item
        for name, item in results.items.items()
        if split in (None, item.split) and category in (None, item.category)
    }


def outcomes(results: Results, arm: str, metric: str, items: Mapping[str, Item]) -> Outcomes:
    """Read a metric of an arm over `items`."""
    results.arm(arm)
    known = {*results.metrics(), *RECORD_METRICS}
    if metric not in known:
        raise ArmError.unknown("metric", metric, known)
    scores = results.scores(arm, metric)
    values: dict[str, dict[int, float]] = {}
    num_answers = num_errors = num_unscored = 0
    for record in results.records(arm):
        if record.item not in items:
            continue
        num_answers += 1
        num_errors += bool(record.error)
        if record.error:
            value = 0.0 if metric in VERDICTS or metric == "ended" else None
        elif metric in RECORD_METRICS:
            value = RECORD_METRICS[metric](record)
        else:
            value = scores.get((record.item, record.sample))
            num_unscored += value is None
        if value is not None:
            values.setdefault(record.item, {})[record.sample] = value
    return Outcomes(
        values=values,
        num_answers=num_answers,
        num_errors=num_errors,
        num_unscored=num_unscored,
    )
