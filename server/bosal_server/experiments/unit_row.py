"""One unit in one phase: what is kept of it, and what it adds to the totals."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from bosal_server.experiments.experiment import Experiment
from bosal_server.experiments.metric import FAILED, Tally, contribution
from bosal_server.experiments.records import Pair, PairKind

__all__ = ["PAIRED_PREFIX", "TOUCHED_PREFIX", "Sums", "UnitRow"]

# Names that no metric has: tallies of pairs, and the totals they become.
TOUCHED_PREFIX = "~"
PAIRED_PREFIX = "="
_CONTROL_PREFIX = "-"

Sums = dict[tuple[int, str], tuple[float, ...]]


@dataclass(slots=True)
class UnitRow:
    """What is known of a unit in its variant."""

    variant: int
    covariate: float
    requests: int = 0
    is_mixed: bool = False
    tallies: dict[str, Tally] = field(default_factory=dict)
    # Whether a tally has changed: the totals need not have.
    is_changed: bool = False

    def add(self, experiment: Experiment, outcome: str, value: float) -> None:
        """Take in a value of an outcome."""
        for name, threshold in experiment.tallies.get(outcome, ()):
            self._tally(name, value if threshold is None else float(value > threshold))

    def hold(self, pair: Pair) -> None:
        """Take in what a request of the unit was held against."""
        if pair.kind is PairKind.HELD:
            self._tally(f"{TOUCHED_PREFIX}{pair.variant}", float(pair.is_touched))
        for outcome, (control, variant) in pair.outcomes.items():
            self._tally(f"{_CONTROL_PREFIX}{pair.variant} {outcome}", control)
            self._tally(f"{PAIRED_PREFIX}{pair.variant} {outcome}", variant)

    def sums(self, experiment: Experiment) -> Sums:
        """Return what this unit adds to the totals."""
        if self.is_mixed:
            return {(self.variant, ""): (0, 0, 0, 0, 1)}
        completed, failed = self.tallies.get(FAILED, (0, 0.0))
        found: Sums = {(self.variant, ""): (1, self.requests, completed, failed, 0)}
        for metric in experiment.metrics:
            numbers = contribution(metric, self.tallies, self.requests, self.covariate)
            if numbers is not None:
                found[self.variant, metric.name] = numbers
        found.update(self._held(experiment))
        return found

    def _held(self, experiment: Experiment) -> Iterator[tuple[tuple[int, str], tuple[float, ...]]]:
        """Yield the primary metric of a touched unit, and the two sides of its shadows."""
        for name, (count, total) in self.tallies.items():
            if name.startswith(TOUCHED_PREFIX) and total:
                numbers = contribution(
                    experiment.primary, self.tallies, self.requests, self.covariate
                )
                if numbers is not None:
                    yield (self.variant, name), numbers
            elif name.startswith(PAIRED_PREFIX):
                variant, _, outcome = name.removeprefix(PAIRED_PREFIX).partition(" ")
                y = total / count
                x = self.tallies[f"{_CONTROL_PREFIX}{variant} {outcome}"][1] / count
                numbers = (1.0, y, y * y, 1.0, 1.0, y, x, x * x, x * y)
                yield (int(variant), f"{PAIRED_PREFIX}{outcome}"), numbers

    def _tally(self, name: str, amount: float) -> None:
        count, total = self.tallies.get(name, (0, 0.0))
        self.tallies[name] = (count + 1, total + amount)
        self.is_changed = True
