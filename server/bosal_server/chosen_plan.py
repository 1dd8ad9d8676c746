"""What a request chose, before its prompt is looked at: a model, a recipe and their plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bosal_decoding.constraints import read_constraint
from bosal_decoding.constraints.constraint import Constraint
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import INLINE, Recipe
from bosal_decoding.scaffolds import Message
from bosal_server.experiments.enrolment import Assignment
from bosal_server.generate_command import GenerateCommand
from bosal_server.recipe_store import RecipeStore
from bosal_server.request_errors import located
from bosal_server.served_models import ServedModel, ServedModels


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenPlan:
    """A request's model, recipe and plan, and what its user said."""

    served: ServedModel
    # The bounded name the recipe is counted under.
    name: str
    # Before overrides and the request's own constraint.
    base_version: str
    # The request's own.
    constraint: Constraint | None
    plan: Plan
    messages: Sequence[Message]
    # The request's field that holds them.
    field: str

    @property
    def is_held_early(self) -> bool:
        """Whether there is a constraint, and which language it is does not hang on the prompt."""
        return self.plan.recipe.constraint is not None and not self.plan.opener.is_used


class PlanDesk:
    """Where recipes become plans; safe to share between threads."""

    def __init__(self, models: ServedModels, recipes: RecipeStore, default_recipe: str) -> None:
        self._models = models
        self._recipes = recipes
        self._default_recipe = default_recipe

    def choose(
        self,
        command: GenerateCommand,
        messages: Sequence[Message],
        field: str,
        assignment: Assignment | None,
    ) -> ChosenPlan:
        """Find what a request or its variant names, and compile it but for the constraint."""
        served = self._models.find(command.model)
        if assignment is None:
            name, recipe = self.recipe(command.prompt.recipe)
        else:
            name, recipe = assignment.variant.recipe_name, assignment.variant.recipe
        base_version = recipe.version
        if command.overrides:
            recipe = recipe.with_overrides(command.overrides)
        constraint = None
        if command.constraint is not None:
            constraint = read_constraint(command.constraint, "constraint")
            recipe = recipe.with_constraint(constraint)
        return ChosenPlan(
            served=served,
            name=name,
            base_version=base_version,
            constraint=constraint,
            plan=self.plan(served, recipe, command.prompt.recipe),
            messages=messages,
            field=field,
        )

    def recipe(self, reference: str | Mapping[str, Any]) -> tuple[str, Recipe]:
        """Return a recipe and the bounded name it is counted under."""
        if isinstance(reference, str):
            recipe = self._recipes.get(reference or self._default_recipe)
            return recipe.name, recipe
        with located("inline_recipe"):
            return INLINE, Recipe.parse(reference)

    def plan(self, served: ServedModel, recipe: Recipe, reference: str | Mapping[str, Any]) -> Plan:
        with located(recipe_field(reference)):
            return self._models.compile(served, recipe)


def recipe_field(reference: str | Mapping[str, Any]) -> str:
    """Return the request's field that names or holds a recipe."""
    return "recipe" if isinstance(reference, str) else "inline_recipe"
