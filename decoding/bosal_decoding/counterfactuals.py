"""The plans a draw is held against: without any rule, and without each of them in turn.

They are compiled like any recipe, so whatever a rule comes to do is explained without a word here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import Rule, RuleStage
from bosal_decoding.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Without:
    """A plan less one rule."""

    rule: str
    stage: RuleStage
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counterfactuals:
    """What a plan's draws are held against."""

    # No rule at all, on the base stream alone.
    bare: Plan
    # Of every rule that can change a row, in the recipe's order.
    without: tuple[Without, ...]

    @classmethod
    def of(cls, plan: Plan) -> "Counterfactuals":
        """Compile them, or return those compiled before.

        Raises:
            DecodingError: the recipe cannot do without one of its rules.
        """
        return _counterfactuals(plan.recipe, plan.vocabulary, plan.context_tokens)


@lru_cache(maxsize=128)
def _counterfactuals(
    recipe: Recipe, vocabulary: Vocabulary, context_tokens: int
) -> Counterfactuals:
    def compiled(rules: Sequence[Rule]) -> Plan:
        fields = {name: getattr(recipe, name) for name in recipe.model_fields_set}
        return compile_recipe(
            Recipe.read(fields | {"rules": tuple(rules)}, ""),
            vocabulary,
            context_tokens=context_tokens,
        )

    return Counterfactuals(
        bare=compiled(()),
        without=tuple(
            Without(
                rule=rule.name,
                stage=rule.stage,
                plan=compiled([*recipe.rules[:place], *recipe.rules[place + 1 :]]),
            )
            for place, rule in enumerate(recipe.rules)
            if rule.stage is not RuleStage.STOP
        ),
    )
