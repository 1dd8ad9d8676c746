"""Managers of experiments to build cores with."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from bosal_server.database import Database
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.privacy import Pseudonyms
from bosal_server.recipe_store import RecipeStore


@contextmanager
def idle_manager(recipes: RecipeStore) -> Iterator[ExperimentManager]:
    """Yield a manager over an empty database, not started."""
    with closing(Database.open("temporary")) as database:
        yield ExperimentManager(database, recipes, Pseudonyms.open(database, None))
