"""What a rule of another package is: Python that acts on a batch of rows.

Rule 1: rows are not requests. How many rows a call gets, and whose they are, changes from step to
step; row i belongs to `turns[i]`, and what is returned for it may depend on nothing else.
Rule 2: a state belongs to one choice. It is made by `begin` and follows the output by `advance`,
never by `act`: a step may be asked for twice, and after a rollback the state is made anew.
Rule 3: a rule returns weights to add, or tokens to forbid; it lifts no mask and draws nothing.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final, Self, TypeVar

from torch import Tensor

from bosal_decoding.errors import DecodingError, PluginFault
from bosal_decoding.rules.draft import Draft, PluginPart
from bosal_decoding.rules.rule import Rule
from bosal_decoding.vocabulary import Vocabulary
from bosal_decoding.watchdog import Overtime, Watchdog

# For reading parameters and for `prepare`.
_PREPARE_SECONDS: Final = 5.0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose row it is."""

    # An instance of the rule's class, with the choice's own parameters.
    rule: Any
    state: Any
    # The tokens of the choice so far.
    output: Sequence[int]


class PluginRule(Rule):
    """A rule in Python, found through the entry point group `bosal.rules`.

    Its `stage` is SHAPE or MASK. It runs once a step for all rows that want it, before the built-in
    rules of both stages, on rows as the model and `combine` gave them.
    """

    # The distribution it comes from; set where it is installed.
    package: ClassVar[str] = ""

    def prepare(self, vocabulary: Vocabulary) -> Any:
        """Return what the rule needs of a tokenizer; called once for a recipe.

        May raise a DecodingError to refuse the recipe.
        """
        return None

    def begin(self, prepared: Any, history: Sequence[int]) -> Any:
        """Return the state of a new choice, whose instruction has these tokens."""
        return prepared

    def advance(self, state: Any, tokens: Sequence[int]) -> Any:
        """Return the state behind more tokens of the output."""
        return state

    @classmethod
    @abstractmethod
    def act(cls, rows: Tensor, turns: Sequence[Turn]) -> Tensor:
        """Return what is to be done to logits [B, V], one row for each turn.

        In the shape stage: finite float32 weights [B, V], which are added. In the mask stage:
        bool [B, V], True where a token is forbidden. `rows` is a copy.
        """

    @classmethod
    def read(cls, data: Mapping[str, Any], field: str) -> Self:
        return cls.guarded(lambda: super(PluginRule, cls).read(data, field), field)

    def contribute(self, draft: Draft) -> None:
        prepared = self.guarded(lambda: self.prepare(draft.vocabulary), draft.path)
        draft.plugins.append(PluginPart(rule=self, prepared=prepared, scope=draft.scope))

    @classmethod
    def guarded(cls, work: Callable[[], Result], field: str) -> Result:
        """Run code of the plug-in that no step waits for.

        Raises:
            PluginFault: it failed, or took too long.
        """
        try:
            return _watchdog(cls).run(work, _PREPARE_SECONDS)
        except DecodingError as error:
            if error.field is None:
                error.field = field
            raise
        except (Exception, Overtime) as error:
            raise PluginFault(cls.name, cls.package, error, field=field) from error


@cache
def _watchdog(rule: type[PluginRule]) -> Watchdog:
    return Watchdog(f"bosal-rule-{rule.name}")
