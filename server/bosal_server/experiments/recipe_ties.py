"""What ties experiments to the server's recipes."""

from collections.abc import Sequence

from sqlalchemy import Connection

from bosal_server.experiments.catalogue import Catalogue
from bosal_server.experiments.experiment import Experiment
from bosal_server.recipe_store import RecipeStore

__all__ = ["RecipeTies"]


class RecipeTies:
    """Knows which experiments serve a recipe, and which recipes have changed under them."""

    def __init__(self, recipes: RecipeStore, catalogue: Catalogue) -> None:
        self._recipes = recipes
        self._catalogue = catalogue

    def users(self, connection: Connection, recipe: str, versions: Sequence[str]) -> Sequence[str]:
        """Name the experiments that serve a recipe, those of other servers on the database too."""
        return [
            f"experiment '{experiment.name}'"
            for experiment in self._catalogue.read(connection)
            if experiment.serves(recipe)
        ]

    def changed(self, experiment: Experiment) -> Sequence[str]:
        """Say which recipes have another version now than the one that is served."""
        found = []
        for variant in experiment.sides:
            if variant.recipe_name not in self._recipes:
                if variant.is_named:
                    found.append(
                        f"recipe '{variant.recipe_name}' of variant '{variant.key}' is gone"
                    )
                continue
            current = self._recipes.get(variant.recipe_name).version
            if current != variant.recipe_version:
                found.append(
                    f"recipe '{variant.recipe_name}' is now @{current}, variant "
                    f"'{variant.key}' was measured with @{variant.recipe_version}"
                )
        return found
