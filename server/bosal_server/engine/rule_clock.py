"""How long each rule takes, as far as a batched stage can tell."""

from collections import Counter, defaultdict
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
# A choice's label and its rules.
Choice = tuple[str, Sequence[CompiledRule]]


class RuleClock:
    """Shares the time of each call among the rules that act in it, evenly over the choices.

    Rules of one stage run fused, so none has a time of its own; their sum is exact. Rules of other
    packages are called, and timed, one by one.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[RuleOf, float] = defaultdict(float)
        # Of the last batch: its choices, for how many of them each rule acts in each call, and the
        # same of the rules that are timed by themselves. The next batch's are mostly those again.
        self._choices: list[Choice] = []
        self._counts: tuple[Counter[RuleOf], ...] = tuple(Counter() for _ in _CALLS)
        self._own: dict[str, Counter[RuleOf]] = {}

    def add(
        self,
        choices: Iterable[Choice],
        seconds: Sequence[float],
        measured: Mapping[str, float],
    ) -> None:
        """Note a batch: its choices, and the seconds of each call.

        `measured` is what some rules took of the second call by themselves.
        """
        combining, shaping, drawing = seconds
        shared = (combining, shaping - sum(measured.values()), drawing)
        choices = list(choices)
        if choices != self._choices or measured.keys() != self._own.keys():
            self._count(choices, measured)
        for name, count in self._own.items():
            self._share(count, measured[name])
        for count, spent in zip(self._counts, shared, strict=True):
            self._share(count, spent)

    def take(self) -> Mapping[RuleOf, float]:
        """Return the seconds by label and rule since the last call."""
        seconds, self._seconds = self._seconds, defaultdict(float)
        return seconds

    def _count(self, choices: list[Choice], measured: Iterable[str]) -> None:
        self._choices = choices
        self._counts = tuple(Counter() for _ in _CALLS)
        self._own = {name: Counter() for name in measured}
        # Choices of one plan share its rules: they are counted together.
        rules_of = {id(rules): rules for _, rules in choices}
        kinds = Counter((label, id(rules)) for label, rules in choices)
        for (label, which), number in kinds.items():
            for rule in rules_of[which]:
                if rule.rule in self._own:
                    self._own[rule.rule][label, rule.rule] += number
                    continue
                for stages, count in zip(_CALLS, self._counts, strict=True):
                    if rule.stage in stages:
                        count[label, rule.rule] += number

    def _share(self, count: Counter[RuleOf], seconds: float) -> None:
        if count:
            share = seconds / count.total()
            for key, number in count.items():
                self._seconds[key] += share * number
