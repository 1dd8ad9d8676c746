"""Errors of recipes that are looked up, created and archived.

ServerError
├── UnknownRecipe
├── UnknownRecipeVersion
├── RecipeArchived
├── RecipeOutdated
├── RecipeNameTaken
├── RecipeReadOnly
├── RecipeInUse
└── TooManyRecipes
"""

from collections.abc import Iterable, Sequence

from bosal_decoding.errors import shorten, suggestion
from bosal_server.errors import ServerError


class UnknownRecipe(ServerError):
    """Raised when a request names a recipe this server does not have."""

    reason = "UNKNOWN_RECIPE"
    code = "NOT_FOUND"

    def __init__(self, name: str, known: Iterable[str], *, field: str) -> None:
        super().__init__(
            f"no recipe is called {shorten(name)}, {suggestion(name, known)}",
            field=field,
            metadata={"recipe": name[:200]},
        )


class UnknownRecipeVersion(ServerError):
    """Raised when a recipe exists, but not in the version asked for."""

    reason = "UNKNOWN_RECIPE_VERSION"
    code = "NOT_FOUND"

    def __init__(self, name: str, version: str, current: str, *, field: str) -> None:
        super().__init__(
            f"recipe '{name}' has no version {shorten(version)}; here it is '{name}@{current}'",
            field=field,
            metadata={"recipe": name, "version": version[:200], "current": current},
        )


class RecipeArchived(ServerError):
    """Raised when a request asks for a recipe that was taken out of service."""

    reason = "RECIPE_ARCHIVED"
    code = "FAILED_PRECONDITION"

    def __init__(self, reference: str, *, field: str) -> None:
        super().__init__(
            f"recipe '{reference}' is archived; creating it again puts it back",
            field=field,
            metadata={"recipe": reference},
        )


class RecipeOutdated(ServerError):
    """Raised when a stored recipe no longer means what it meant when it was created."""

    reason = "RECIPE_OUTDATED"
    code = "FAILED_PRECONDITION"

    def __init__(self, reference: str, cause: str) -> None:
        super().__init__(
            f"recipe '{reference}' was created by another version of bosal: {cause}",
            metadata={"recipe": reference},
        )


class RecipeNameTaken(ServerError):
    """Raised when a recipe cannot be created because a read-only one has its name."""

    reason = "RECIPE_NAME_TAKEN"
    code = "ALREADY_EXISTS"

    def __init__(self, name: str, source: str, *, field: str) -> None:
        super().__init__(
            f"'{name}' is a recipe {source}, which is read-only; take another name",
            field=field,
            metadata={"recipe": name},
        )


class RecipeReadOnly(ServerError):
    """Raised when a read-only recipe should be archived."""

    reason = "RECIPE_READ_ONLY"
    code = "FAILED_PRECONDITION"

    def __init__(self, name: str, source: str, *, field: str) -> None:
        super().__init__(
            f"'{name}' is a recipe {source}, which is read-only",
            field=field,
            metadata={"recipe": name},
        )


class RecipeInUse(ServerError):
    """Raised when a recipe cannot be archived because something needs it."""

    reason = "RECIPE_IN_USE"
    code = "FAILED_PRECONDITION"

    def __init__(self, reference: str, users: Sequence[str], *, field: str) -> None:
        super().__init__(
            f"recipe '{reference}' is used by {', '.join(users)}",
            field=field,
            metadata={"recipe": reference},
        )


class TooManyRecipes(ServerError):
    """Raised when the database holds as many recipes as it may."""

    reason = "TOO_MANY_RECIPES"
    code = "RESOURCE_EXHAUSTED"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the database holds {limit} versions of recipes, as many as it may",
            metadata={"limit": str(limit)},
        )
