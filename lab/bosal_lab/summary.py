"""Arms and floors in numbers: success overall and by category, stopping, length, token shift."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bosal_lab.item import Item, Split
from bosal_lab.outcomes import is_share, outcomes, selected
from bosal_lab.record import Arm
from bosal_lab.results import Results
from bosal_server.statistics import intervals
from bosal_server.statistics.intervals import Interval

__all__ = ["Floor", "Shift", "Summary", "floor_rows", "shift", "summaries"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How the base stream ranked the tokens that were emitted (Lin et al. 2023)."""

    tokens: int
    # Rank 1, ranks 2 and 3, the rest; shares that sum to 1.
    unshifted: float
    marginal: float
    shifted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What an arm achieved."""

    arm: Arm
    metric: str
    items: int
    # Items that have no answer yet.
    missing: int
    answers: int
    errors: int
    # Answers without a verdict.
    unscored: int
    value: Interval
    categories: Mapping[str, Interval]
    # Share of answers that ended of themselves.
    stopped: Interval
    # Mean length of an answer; None without any.
    tokens: float | None
    # Median seconds an answer took on the server.
    seconds: float | None
    # By rank after the recipe's own prompt; None if ranks were not asked for.
    shift: Shift | None
    # By rank of the plain base model; None if that was not measured.
    plain_shift: Shift | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What answers that took no work are worth."""

    name: str
    items: int
    value: Interval
    categories: Mapping[str, Interval]


def shift(ranks: Sequence[int]) -> Shift | None:
    """Return the shares of ranks; None of nothing."""
    if not ranks:
        return None
    first = sum(rank == 1 for rank in ranks)
    near = sum(rank in (2, 3) for rank in ranks)
    total = len(ranks)
    return Shift(
        tokens=total,
        unshifted=first / total,
        marginal=near / total,
        shifted=(total - first - near) / total,
    )


def summaries(
    results: Results, *, metric: str = "success", split: Split | None = None
) -> list[Summary]:
    """Sum up every arm that has an answer on the split."""
    items = selected(results, split)
    plain = results.plain_ranks()
    found = [_summary(results, arm, metric, items, plain) for arm in results.arms]
    return [one for one in found if one.answers]


def _summary(
    results: Results,
    arm: str,
    metric: str,
    items: Mapping[str, Item],
    plain: Mapping[tuple[str, str, int], tuple[int, ...]],
) -> Summary:
    found = outcomes(results, arm, metric, items)
    ended = outcomes(results, arm, "ended", items)
    records = [record for record in results.records(arm) if record.item in items]
    answered = [record for record in records if not record.error]
    return Summary(
        arm=results.arm(arm),
        metric=metric,
        items=len({record.item for record in records}),
        missing=len(items) - len({record.item for record in records}),
        answers=found.num_answers,
        errors=found.num_errors,
        unscored=found.num_unscored,
        value=_rate(found.values, items, metric),
        categories=_by_category(found.values, items, metric),
        stopped=_rate(ended.values, items),
        tokens=statistics.fmean(len(one.token_ids) for one in answered) if answered else None,
        seconds=statistics.median(one.timings["total"] for one in answered) if answered else None,
        shift=shift([rank for one in answered for rank in one.ranks]),
        plain_shift=shift(
            [rank for one in answered for rank in plain.get((arm, one.item, one.sample), ())]
        ),
    )


def floor_rows(results: Results, split: Split | None = None) -> list[Floor]:
    """Sum up the floors."""
    items = selected(results, split)
    rows = []
    for name, by_item in results.floors.items():
        values = {
            item: {0: value}
            for item, value in by_item.items()
            if item in items and value is not None
        }
        if values:
            rows.append(
                Floor(
                    name=name,
                    items=len(values),
                    value=_rate(values, items),
                    categories=_by_category(values, items),
                )
            )
    return rows


Values = Mapping[str, Mapping[int, float]]


def _rate(values: Values, items: Mapping[str, Item], metric: str = "success") -> Interval:
    """Wilson's interval if the metric is a share, else the bootstrap's."""
    names = [name for name in items if name in values]
    samples = [list(values[name].values()) for name in names]
    if is_share(metric) and all(0 <= value <= 1 for by_sample in samples for value in by_sample):
        return intervals.rate(samples, [items[name].cluster or name for name in names])
    return intervals.bca([statistics.fmean(by_sample) for by_sample in samples])


def _by_category(
    values: Values, items: Mapping[str, Item], metric: str = "success"
) -> dict[str, Interval]:
    categories = dict.fromkeys(item.category for name, item in items.items() if name in values)
    return {
        category: _rate(
            values,
            {name: item for name, item in items.items() if item.category == category},
            metric,
        )
        for category in categories
    }
