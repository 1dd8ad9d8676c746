"""Two recipes on the same prompts: the difference, pair by pair."""

import itertools
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from bosal_server.statistics import intervals
from bosal_server.statistics.intervals import Interval, McNemar

__all__ = ["PairedDifference", "compare_pairs", "is_binary"]

# The values of one prompt's answers under the first recipe, and under the second.
ValuePair = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """The second recipe's mean less the first's."""

    pairs: int
    first: float
    second: float
    difference: Interval
    p: float
    method: str
    # None: not binary, or several answers to a prompt.
    mcnemar: McNemar | None = None


def is_binary(pair: ValuePair) -> bool:
    """Say whether there is one answer under each recipe, right or wrong."""
    first, second = pair
    return len(first) == 1 and {*first, *second} <= {0.0, 1.0}


def compare_pairs(
    pairs: Sequence[ValuePair], clusters: Sequence[Hashable], alpha: float = 0.05
) -> PairedDifference:
    """Compare by the test that suits the values: McNemar's, a bootstrap, or a clustered error.

    `clusters` says which pairs belong together, one entry a pair.
    """
    first = [statistics.fmean(pair[0]) for pair in pairs]
    second = [statistics.fmean(pair[1]) for pair in pairs]
    differences = [after - before for before, after in zip(first, second, strict=True)]
    mcnemar = None
    if all(map(is_binary, pairs)):
        counts = dict.fromkeys(itertools.product((0.0, 1.0), repeat=2), 0)
        for outcome in zip(first, second, strict=True):
            counts[outcome] += 1
        only_first, only_second = counts[1.0, 0.0], counts[0.0, 1.0]
        mcnemar = intervals.mcnemar_test(only_first, only_second)
        difference = intervals.newcombe(
            counts[1.0, 1.0], only_first, only_second, counts[0.0, 0.0], alpha
        )
        p, method = mcnemar.mid, "McNemar, mid-p"
    elif len(set(clusters)) == len(pairs):
        difference, p = intervals.bca(differences, alpha), intervals.swap_test(first, second)
        method = "BCa bootstrap, swap test"
    if len(set(clusters)) < len(pairs):
        difference, p = intervals.clustered_mean(differences, clusters, alpha)
        method = "clustered standard error"
        if mcnemar is not None:
            # Of few discordant pairs the clustered error is too sure.
            p = max(p, mcnemar.mid)
    return PairedDifference(
        pairs=len(pairs),
        first=statistics.fmean(first),
        second=statistics.fmean(second),
        difference=difference,
        p=p,
        method=method,
        mcnemar=mcnemar,
    )
