"""The plans a draw is held against: without any rule, without each in turn, other recipes.

They are compiled like any recipe, so whatever a rule comes to do is explained without a word here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.constraints import Constraint
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import Rule, RuleStage
from bosal_decoding.streams import StreamModel
from bosal_decoding.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counterfactual:
    """A plan that a choice's rows can also be given to."""

    plan: Plan
    # Places of its streams among the choice's.
    streams: tuple[int, ...]
    # Whether the choice's constraint holds here too.
    is_constrained: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Without(Counterfactual):
    """A plan less one rule; the constraint counts as one."""

    removed: Rule | Constraint

    @property
    def rule(self) -> str:
        return self.removed.name if isinstance(self.removed, Rule) else "constraint"

    @property
    def stage(self) -> RuleStage:
        return self.removed.stage if isinstance(self.removed, Rule) else RuleStage.MASK


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Other(Counterfactual):
    """Another recipe over the same prompt, held against this one on the same rows."""

    # Less each rule that this recipe lacks or has with other parameters.
    without: tuple[Without, ...]
    # Places among `Counterfactuals.without` of the rules that the other lacks or has differently.
    own: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counterfactuals:
    """What a plan's draws are held against."""

    plan: Plan
    # No rule at all, on the base stream alone.
    bare: Counterfactual
    # Of every rule that can change a row, in the recipe's order; then of the constraint.
    without: tuple[Without, ...]
    # Recipes it is compared with.
    others: tuple[Other, ...] = ()
    # Whether each rule is asked at every token what it did; if not, only what parts recipes.
    has_effects: bool = True

    @property
    def num_plans(self) -> int:
        """How many plans follow each choice, a shadow each."""
        others = sum(1 + len(other.without) for other in self.others)
        return 1 + len(self.without) + others

    @classmethod
    def of(cls, plan: Plan, models: tuple[StreamModel, ...] = ()) -> "Counterfactuals":
        """Compile them, or return those compiled before; `models` are what the plan's rules name.

        Raises:
            DecodingError: the recipe cannot do without one of its rules.
        """
        return _counterfactuals(plan.recipe, plan.vocabulary, plan.context_tokens, models)

    def can_stand_for(self, other: "Counterfactuals") -> bool:
        """Whether all that the other recipe reads is among what this one reads."""
        has_their_constraint = other.plan.recipe.constraint in (None, self.plan.recipe.constraint)
        return has_their_constraint and all(
            stream in self.plan.streams for stream in other.plan.streams
        )

    def against(self, others: Sequence["Counterfactuals"]) -> "Counterfactuals":
        """Return them with other recipes added, which it can stand for and whose prompt is its."""
        mine = [without.removed for without in self.without]
        found = []
        for other in others:
            theirs = [without.removed for without in other.without]
            found.append(
                Other(
                    plan=other.plan,
                    streams=_places(other.plan, self.plan),
                    is_constrained=other.plan.recipe.constraint is not None,
                    without=tuple(
                        replace(without, streams=_places(without.plan, self.plan))
                        for without in other.without
                        if without.removed not in mine
                    ),
                    own=tuple(place for place, rule in enumerate(mine) if rule not in theirs),
                )
            )
        return replace(self, others=tuple(found))


@lru_cache(maxsize=128)
def _counterfactuals(
    recipe: Recipe,
    vocabulary: Vocabulary,
    context_tokens: int,
    models: tuple[StreamModel, ...],
) -> Counterfactuals:
    def compiled(rules: Sequence[Rule], constraint: Constraint | None) -> Plan:
        fields = {name: getattr(recipe, name) for name in recipe.model_fields_set}
        fields |= {"rules": tuple(rules), "constraint": constraint}
        return compile_recipe(
            Recipe.read(fields, ""), vocabulary, context_tokens=context_tokens, models=models
        )

    whole = compile_recipe(recipe, vocabulary, context_tokens=context_tokens, models=models)

    def without(removed: Rule | Constraint, plan: Plan) -> Without:
        return Without(
            removed=removed,
            plan=plan,
            streams=_places(plan, whole),
            is_constrained=plan.recipe.constraint is not None,
        )

    rules, constraint = recipe.rules, recipe.constraint
    found = [
        without(rule, compiled([*rules[:place], *rules[place + 1 :]], constraint))
        for place, rule in enumerate(rules)
        if rule.stage not in (RuleStage.FORCE, RuleStage.STOP)
    ]
    if constraint is not None:
        found.append(without(constraint, compiled(rules, None)))
    return Counterfactuals(
        plan=whole,
        bare=Counterfactual(plan=compiled((), None), streams=(0,), is_constrained=False),
        without=tuple(found),
    )


def _places(plan: Plan, among: Plan) -> tuple[int, ...]:
    """Where the streams of a plan are among those of another, which has them all."""
    return tuple(among.streams.index(stream) for stream in plan.streams)
