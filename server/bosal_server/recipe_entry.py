"""One recipe a server knows, in one version, and where it comes from."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bosal_decoding.recipe import Recipe
from bosal_server.recipe_archive import StoredRecipe


class RecipeSource(StrEnum):
    """Where a recipe comes from; all but created ones are read-only."""

    SHIPPED = "that comes with bosal"
    FOLDER = "of the server's folder"
    CREATED = "created through the service"


@dataclass(frozen=True, slots=True)
class RecipeEntry:
    """A recipe in one version, and where it comes from."""

    _kept: Recipe | StoredRecipe
    source: RecipeSource

    @property
    def name(self) -> str:
        return self._kept.name

    @property
    def version(self) -> str:
        return self._kept.version

    @property
    def recipe(self) -> Recipe:
        """The recipe, ready to be compiled.

        Raises:
            RecipeOutdated: it was created by another version of bosal, which read it differently.
        """
        return self._kept if isinstance(self._kept, Recipe) else self._kept.recipe

    @property
    def document(self) -> dict[str, Any]:
        """What its author wrote, as plain JSON data."""
        if isinstance(self._kept, Recipe):
            return self._kept.document()
        document: dict[str, Any] = json.loads(self._kept.document)
        return document

    @property
    def created_at(self) -> int | None:
        """Microseconds since 1970; None for read-only recipes."""
        return None if isinstance(self._kept, Recipe) else self._kept.created_at

    @property
    def archived_at(self) -> int | None:
        """Microseconds since 1970; None while it is in service."""
        return None if isinstance(self._kept, Recipe) else self._kept.archived_at
