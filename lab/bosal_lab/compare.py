"""Compares arms on the same items, pair by pair, and says how much the pairing saved."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bosal_lab.divergence import Divergence, divergence
from bosal_lab.evaluation_errors import ArmError
from bosal_lab.item import Item, Split
from bosal_lab.outcomes import outcomes, selected
from bosal_lab.results import Results
from bosal_server.statistics import intervals
from bosal_server.statistics.intervals import Interval, McNemar
from bosal_server.statistics.paired import compare_pairs, is_binary

__all__ = ["Comparison", "Pair", "Saving", "Slice", "compare", "pairs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One item under both arms; sample k of one goes with sample k of the other."""

    item: Item
    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def difference(self) -> float:
        return statistics.fmean(self.second) - statistics.fmean(self.first)

    @property
    def is_binary(self) -> bool:
        """One answer under each arm, right or wrong."""
        return is_binary((self.first, self.second))

    @property
    def cluster(self) -> str:
        return self.item.cluster or self.item.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The second arm against the first on one category, or on all."""

    name: str
    items: int
    first: float
    second: float
    difference: Interval
    p: float
    # Adjusted: Holm's over arms for the whole, Benjamini and Hochberg's over categories.
    adjusted_p: float
    method: str
    # None: not binary, or several answers to an item.
    mcnemar: McNemar | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """How many times more items the same precision had taken without the pairing."""

    # Against other items for each arm.
    unpaired: float
    # Against the same items with noise of its own for each arm; needs several samples.
    uncoupled: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The second arm against the first."""

    first: str
    second: str
    metric: str
    whole: Slice
    slices: tuple[Slice, ...]
    samples: int
    # Items one of the two has no value for.
    left_out: int
    is_coupled: bool
    saving: Saving
    divergence: Divergence

    def is_worse(self, *, alpha: float, margin: float | None, lower_is_better: bool) -> bool:
        """Say whether the second is significantly worse, or not shown to be within `margin`.

        That every arm passes within the margin needs no correction for their number.
        """
        sign = -1 if lower_is_better else 1
        low = min(sign * self.whole.difference.low, sign * self.whole.difference.high)
        if margin is not None:
            return low < -margin
        return self.whole.adjusted_p < alpha and sign * self.whole.difference.value < 0


def compare(
    results: Results,
    first: str,
    others: Sequence[str],
    *,
    metric: str = "success",
    split: Split | None = None,
    alpha: float = 0.05,
) -> list[Comparison]:
    """Compare each of `others` with `first`; Holm's correction goes over the others."""
    items = selected(results, split)
    found = [_compare(results, first, other, metric, items, alpha) for other in others]
    adjusted = intervals.holm([one.whole.p for one in found])
    return [
        replace(one, whole=replace(one.whole, adjusted_p=p))
        for one, p in zip(found, adjusted, strict=True)
    ]


def _compare(
    results: Results, first: str, second: str, metric: str, items: Mapping[str, Item], alpha: float
) -> Comparison:
    if first == second:
        raise ArmError(f"{first} cannot be compared with itself")
    found, left_out = pairs(results, first, second, metric, items)
    if not found:
        raise ArmError(f"{first} and {second} share no item with a value of {metric}")
    by_category: dict[str, list[Pair]] = {}
    for pair in found:
        by_category.setdefault(pair.item.category, []).append(pair)
    slices = [_slice(name, some, alpha) for name, some in by_category.items()]
    adjusted = intervals.false_discovery([one.p for one in slices])
    return Comparison(
        first=first,
        second=second,
        metric=metric,
        whole=_slice("all", found, alpha),
        slices=tuple(replace(one, adjusted_p=p) for one, p in zip(slices, adjusted, strict=True)),
        samples=max(len(pair.first) for pair in found),
        left_out=left_out,
        is_coupled=results.arm(first).noise == results.arm(second).noise,
        saving=_saving(found),
        divergence=divergence(results, first, second, items),
    )


def pairs(
    results: Results, first: str, second: str, metric: str, items: Mapping[str, Item]
) -> tuple[list[Pair], int]:
    """Return the items both arms have a value for, and the number of those only one has."""
    left, right = (outcomes(results, arm, metric, items).values for arm in (first, second))
    found = []
    asked = left.keys() | right.keys()
    for name in filter(asked.__contains__, items):
        samples = sorted(left.get(name, {}).keys() & right.get(name, {}).keys())
        if samples:
            found.append(
                Pair(
                    item=items[name],
                    first=tuple(left[name][sample] for sample in samples),
                    second=tuple(right[name][sample] for sample in samples),
                )
            )
    return found, len(asked) - len(found)


def _slice(name: str, pairs: Sequence[Pair], alpha: float) -> Slice:
    found = compare_pairs(
        [(pair.first, pair.second) for pair in pairs], [pair.cluster for pair in pairs], alpha
    )
    return Slice(
        name=name,
        items=found.pairs,
        first=found.first,
        second=found.second,
        difference=found.difference,
        p=found.p,
        adjusted_p=found.p,
        method=found.method,
        mcnemar=found.mcnemar,
    )


def _saving(pairs: Sequence[Pair]) -> Saving:
    """Compare the variance of the mean difference with what other designs would have.

    With noise of its own, an arm's samples would vary with the other's no more: the covariance
    of samples within an item would be gone from the difference.
    """
    spread = float(np.var([pair.difference for pair in pairs]))
    apart = sum(
        float(np.var([statistics.fmean(getattr(pair, side)) for pair in pairs]))
        for side in ("first", "second")
    )
    several = [pair for pair in pairs if len(pair.first) > 1]
    uncoupled = None
    if several and len(several) == len(pairs):
        shared = statistics.fmean(
            2 * float(np.cov(pair.first, pair.second)[0, 1]) / len(pair.first) for pair in several
        )
        uncoupled = _ratio(spread + shared, spread)
    return Saving(unpaired=_ratio(apart, spread), uncoupled=uncoupled)


def _ratio(above: float, below: float) -> float:
    if below:
        return above / below
    return float("inf") if above else 1.0
