"""How long each rule takes, as far as a batched stage can tell."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bosal_decoding.plan import CompiledRule
from bosal_decoding.rules import RuleStage

# Stages that are one call: combining, shaping with masking, truncating with drawing.
_CALLS: Final = (
    frozenset({RuleStage.COMBINE.value}),
    frozenset({RuleStage.SHAPE.value, RuleStage.MASK.value}),
    frozenset({RuleStage.TRUNCATE.value}),
)


class RuleClock:
    """Shares the time of each call among the rules that act in it, evenly over the choices.

    Rules of one stage run fused, so none has a time of its own; their sum is exact. Rules of other
    packages are called, and timed, one by one.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def add(
        self,
        choices: Iterable[Sequence[CompiledRule]],
        seconds: Sequence[float],
        measured: Mapping[str, float],
    ) -> None:
        """Note a batch: the rules of each of its choices, and the seconds of each call.

        `measured` is what some rules took of the second call by themselves.
        """
        for name, spent in measured.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + spent
        combining, shaping, drawing = seconds
        seconds = (combining, shaping - sum(measured.values()), drawing)
        counts: tuple[Counter[str], ...] = tuple(Counter() for _ in _CALLS)
        for rules in choices:
            for rule in rules:
                if rule.rule in measured:
                    continue
                for stages, count in zip(_CALLS, counts, strict=True):
                    if rule.stage in stages:
                        count[rule.rule] += 1
        for count, spent in zip(counts, seconds, strict=True):
            share = spent / max(count.total(), 1)
            for name, number in count.items():
                self._seconds[name] = self._seconds.get(name, 0.0) + share * number

    def take(self) -> dict[str, float]:
        """Return the seconds by rule since the last call."""
        seconds, self._seconds = self._seconds, {}
        return seconds
