"""The recipes a server knows: those that are shipped, and those of the operator's folder."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

from bosal_decoding.recipe import Recipe, load_folder, load_shipped
from bosal_server.request_errors import UnknownRecipe, UnknownRecipeVersion


class RecipeStore:
    """Immutable recipes by name, each in one version."""

    def __init__(self, recipes: Mapping[str, Recipe]) -> None:
        self._recipes = MappingProxyType(dict(sorted(recipes.items())))

    @classmethod
    def load(cls, folder: Path | None = None) -> Self:
        """Read the shipped recipes; one of the folder takes the place of its namesake."""
        own = load_folder(folder) if folder is not None else {}
        return cls({**load_shipped(), **own})

    def __contains__(self, name: str) -> bool:
        return name in self._recipes

    def __iter__(self) -> Iterator[Recipe]:
        return iter(self._recipes.values())

    def get(self, reference: str, *, field: str = "recipe") -> Recipe:
        """Return the recipe called `name`, or `name@version` if it is in that version.

        `field` is where the request holds the reference.
        """
        name, _, version = reference.partition("@")
        recipe = self._recipes.get(name)
        if recipe is None:
            raise UnknownRecipe(name, self._recipes, field=field)
        if version and version != recipe.version:
            raise UnknownRecipeVersion(name, version, recipe.version, field=field)
        return recipe
