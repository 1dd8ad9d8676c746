"""Typical misses: the commonest ways an arm failed, one answer for each."""

from collections import Counter
from dataclasses import dataclass

from bosal_lab.item import VERDICTS, Item, Split
from bosal_lab.outcomes import outcomes, selected
from bosal_lab.record import Record
from bosal_lab.results import Results

__all__ = ["Miss", "misses"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """One answer that failed."""

    item: Item
    record: Record
    # The aspects that did not hold; empty for an error.
    failed: tuple[str, ...]
    # How many of the arm's misses are of this category and these aspects.
    alike: int


def misses(
    results: Results, arm: str, *, limit: int = 10, split: Split | None = None
) -> list[Miss]:
    """Return at most `limit` misses, the commonest kinds of failure first."""
    items = selected(results, split)
    success = outcomes(results, arm, "success", items).values
    aspects = {name: results.scores(arm, name) for name in results.metrics() if name in VERDICTS}
    found = []
    for record in results.records(arm):
        if record.item in items and success.get(record.item, {}).get(record.sample) == 0:
            key = (record.item, record.sample)
            failed = tuple(
                name
                for name, values in aspects.items()
                if name != "success" and values.get(key) == 0
            )
            found.append((items[record.item].category, failed, record))
    kinds = Counter((category, failed) for category, failed, _ in found)
    order = [kind for kind, _ in kinds.most_common()]
    # One of each kind, then a second of each, …
    turns: Counter[tuple[str, tuple[str, ...]]] = Counter()
    ranked = []
    for category, failed, record in found:
        kind = (category, failed)
        ranked.append((turns[kind], order.index(kind), record, failed))
        turns[kind] += 1
    ranked.sort(key=lambda one: one[:2])
    return [
        Miss(
            item=items[record.item],
            record=record,
            failed=failed,
            alike=kinds[items[record.item].category, failed],
        )
        for _, _, record, failed in ranked[:limit]
    ]
