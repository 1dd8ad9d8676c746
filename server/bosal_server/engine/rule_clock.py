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

# What a choice is counted under, and a rule of it.
RuleOf = tuple[str, str]


class RuleClock:
    """Shares the time of each call among the rules that act in it, evenly over the choices.

    Rules of one stage run fused, so none has a time of its own; their sum is exact. Rules of other
    packages are called, and timed, one by one.
    """

    def __init__(self) -> None:
        self._seconds: Counter[RuleOf] = Counter()

    def add(
        self,
        choices: Iterable[tuple[str, Sequence[CompiledRule]]],
        seconds: Sequence[float],
        measured: Mapping[str, float],
    ) -> None:
        """Note a batch: label and rules of each of its choices, and the seconds of each call.

        `measured` is what some rules took of the second call by themselves.
        """
        combining, shaping, drawing = seconds
        shared = (combining, shaping - sum(measured.values()), drawing)
        counts: tuple[Counter[RuleOf], ...] = tuple(Counter() for _ in _CALLS)
        own: dict[str, Counter[RuleOf]] = {name: Counter() for name in measured}
        # Choices of one plan share its rules: they are counted together.
        choices = list(choices)
        rules_of = {id(rules): rules for _, rules in choices}
        kinds = Counter((label, id(rules)) for label, rules in choices)
        for (label, which), number in kinds.items():
            for rule in rules_of[which]:
                if rule.rule in own:
                    own[rule.rule][label, rule.rule] += number
                    continue
                for stages, count in zip(_CALLS, counts, strict=True):
                    if rule.stage in stages:
                        count[label, rule.rule] += number
        for name, count in own.items():
            self._share(count, measured[name])
        for count, spent in zip(counts, shared, strict=True):
            self._share(count, spent)

    def take(self) -> Mapping[RuleOf, float]:
        """Return the seconds by label and rule since the last call."""
        seconds, self._seconds = self._seconds, Counter()
        return seconds

    def _share(self, count: Counter[RuleOf], seconds: float) -> None:
        share = seconds / max(count.total(), 1)
        for key, number in count.items():
            self._seconds[key] += share * number  # type: ignore[assignment]  # counts may be floats
