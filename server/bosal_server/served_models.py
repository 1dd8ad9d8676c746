"""The models a server holds, as requests see them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.streams import StreamModel
from bosal_decoding.vocabulary import Vocabulary
from bosal_server.errors import UnknownModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model as requests see it."""

    name: str
    digest: str
    architecture: str
    num_parameters: int
    vocabulary: Vocabulary
    context_tokens: int
    runner: str
    runner_reason: str
    dtype: str
    device: str
    cache_tokens: int
    # Plans that all explained choices may be held against together; None is without end.
    max_shadows: int | None = None

    def can_explain(self, counterfactuals: Counterfactuals) -> bool:
        """Whether there is memory for what a choice is held against."""
        return self.max_shadows is None or counterfactuals.num_plans <= self.max_shadows


class ServedModels:
    """The models by name; the first is the default."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._by_name = {model.name: model for model in models}
        self.default = models[0].name
        # What the rules of a recipe may name.
        self.streams = tuple(
            StreamModel(
                name=model.name,
                vocabulary=model.vocabulary,
                context_tokens=model.context_tokens,
            )
            for model in models
        )

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_name.values())

    def find(self, name: str) -> ServedModel:
        """Return a model by name; "" is the default.

        Raises:
            UnknownModel: with the nearest known name.
        """
        name = name or self.default
        if name not in self._by_name:
            raise UnknownModel(name, self._by_name)
        return self._by_name[name]

    def compile(self, served: ServedModel, recipe: Recipe) -> Plan:
        """Compile a recipe for a model; its rules may name the others.

        Raises:
            DecodingError: the model cannot honour the recipe.
        """
        return compile_recipe(
            recipe,
            served.vocabulary,
            context_tokens=served.context_tokens,
            models=self.streams,
        )
