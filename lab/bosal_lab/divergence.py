"""Where the answers of two arms part: how many are equal, and at which token the others differ."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bosal_lab.item import Item, Split
from bosal_lab.outcomes import outcomes, selected
from bosal_lab.record import Record
from bosal_lab.results import Results

__all__ = ["Divergence", "disagreements", "divergence", "first_difference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where the two arms' answers part."""

    pairs: int
    identical: int
    # The first token that differs, counted from 0: the median over answers that differ.
    median_token: float | None


def divergence(results: Results, first: str, second: str, items: Mapping[str, Item]) -> Divergence:
    """Say how many answers of two arms are the same, token by token."""
    differing = []
    num_pairs = 0
    for one, other in _answers(results, first, second, items):
        num_pairs += 1
        position = first_difference(one.token_ids, other.token_ids)
        if position is not None:
            differing.append(position)
    return Divergence(
        pairs=num_pairs,
        identical=num_pairs - len(differing),
        median_token=statistics.median(differing) if differing else None,
    )


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Return where two sequences part; None if they are equal."""
    for position, (left, right) in enumerate(itertools.zip_longest(one, other)):
        if left != right:
            return position
    return None


def disagreements(
    results: Results,
    first: str,
    second: str,
    *,
    metric: str = "success",
    split: Split | None = None,
) -> list[tuple[Record, Record]]:
    """Return the pairs of answers whose values of the metric differ."""
    items = selected(results, split)
    left, right = (outcomes(results, arm, metric, items).values for arm in (first, second))
    return [
        (one, other)
        for one, other in _answers(results, first, second, items)
        if left.get(one.item, {}).get(one.sample) != right.get(one.item, {}).get(one.sample)
    ]


def _answers(
    results: Results, first: str, second: str, items: Mapping[str, Item]
) -> list[tuple[Record, Record]]:
    others = {(record.item, record.sample): record for record in results.records(second)}
    return [
        (record, others[record.item, record.sample])
        for record in results.records(first)
        if record.item in items
        and (record.item, record.sample) in others
        and not record.error
        and not others[record.item, record.sample].error
    ]
