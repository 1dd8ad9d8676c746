"""Recipes beside an event loop: compiled on trial for the served models, then kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bosal_decoding.errors import DecodingError
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_server.config import InvalidConfig
from bosal_server.constraint_desk import ConstraintDesk
from bosal_server.errors import ServerError
from bosal_server.preparation import Preparation
from bosal_server.recipe_entry import RecipeEntry
from bosal_server.recipe_store import RecipeStore
from bosal_server.request_errors import named
from bosal_server.rule_cost import control_seconds
from bosal_server.security.caller import ANYBODY, Caller
from bosal_server.security.quota import QuotaLedger
from bosal_server.served_models import ServedModel, ServedModels

# Of a key's quota: what compiling a recipe counts for beside the tokens of its scaffold.
COMPILE_TOKENS: Final = 64


@dataclass(frozen=True, slots=True)
class Validation:
    """What a recipe became for a model."""

    plan: Plan
    # What its rules take per token of one choice; None where it cannot be measured.
    control_seconds: float | None


class RecipeDesk:
    """Where recipes come in, are tried and are looked up; belongs to one event loop."""

    def __init__(
        self,
        *,
        models: ServedModels,
        recipes: RecipeStore,
        default_recipe: str,
        constraints: ConstraintDesk,
        preparation: Preparation,
        quotas: QuotaLedger,
    ) -> None:
        self._models = models
        self._recipes = recipes
        self._default_recipe = default_recipe
        self._constraints = constraints
        self._preparation = preparation
        self._quotas = quotas

    async def create(
        self, document: Mapping[str, Any] | str, *, caller: Caller = ANYBODY
    ) -> tuple[RecipeEntry, bool]:
        """Keep a recipe; the second value tells if that changed what its name stands for.

        One that no served model could run is refused as that model refuses it.
        """

        def create() -> tuple[tuple[RecipeEntry, bool], Plan]:
            recipe = _parsed(document)
            plan = self._usable(recipe)
            return self._recipes.create(recipe), plan

        self._charge(caller)
        created, plan = await self._preparation.run(create)
        self._quotas.spend(caller, plan.scaffold_tokens)
        return created

    async def validate(
        self, document: Mapping[str, Any] | str, model: ServedModel, *, caller: Caller = ANYBODY
    ) -> Validation:
        """Compile a recipe document for a model, and measure what its rules cost there.

        Keys take turns.
        """
        self._charge(caller)
        plan = await self._preparation.run(lambda: self._models.compile(model, _parsed(document)))
        self._quotas.spend(caller, plan.scaffold_tokens)
        program = await self._constraints.program(plan, "constraint", owner=caller.key_id)
        if not model.device.startswith("cpu"):
            return Validation(plan, None)
        seconds = await self._preparation.run(lambda: control_seconds(plan, program))
        return Validation(plan, seconds)

    async def find(self, name: str) -> RecipeEntry:
        """Return a recipe by `name` or `name@version`."""
        return await self._preparation.run(lambda: self._recipes.find(name, field="name"))

    async def archive(self, name: str) -> Sequence[RecipeEntry]:
        """Archive a recipe, or one version of it; return what was archived."""
        return await self._preparation.run(lambda: self._recipes.archive(name))

    @property
    def default_version(self) -> tuple[str, str]:
        """Name and version of the recipe that serves requests naming none."""
        return self._default_recipe, self._recipes.find(self._default_recipe).version

    def check_capacity(self) -> None:
        """Refuse to serve a model whose cache holds not even the default recipe's scaffold.

        Raises:
            InvalidConfig: every request would be refused; says what is needed.
        """
        recipe = self._recipes.get(self._default_recipe)
        for served in self._models:
            try:
                plan = self._models.compile(served, recipe)
            except (DecodingError, ServerError):
                continue  # This model is asked with other recipes.
            # One token of an instruction and one of an answer, in every stream.
            needed = plan.scaffold_tokens + 2 * plan.num_streams
            if served.cache_tokens < needed:
                raise InvalidConfig(
                    f"model '{served.name}': a cache of {served.cache_tokens} tokens cannot hold "
                    f"one request of recipe '{recipe.name}', which takes at least {needed}; "
                    "raise cache_tokens"
                )

    def _charge(self, caller: Caller) -> None:
        """Count a recipe that is compiled, right or wrong, for so many tokens.

        Raises:
            QuotaExceeded: the key has none left.
        """
        self._quotas.check(caller)
        self._quotas.spend(caller, COMPILE_TOKENS)

    def _usable(self, recipe: Recipe) -> Plan:
        """Compile a recipe for the first model that can run it.

        Raises:
            DecodingError: none can; what the default model says.
        """
        failures: list[DecodingError] = []
        for served in self._models:
            try:
                return self._models.compile(served, recipe)
            except DecodingError as error:
                failures.append(error)
        raise failures[0]


def _parsed(document: Mapping[str, Any] | str) -> Recipe:
    """Read a recipe; a text that is no document at all is wrong as a whole."""
    with named(""):
        return Recipe.parse(document)
