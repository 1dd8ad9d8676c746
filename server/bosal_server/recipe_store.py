"""The recipes a server knows: shipped ones, those of the operator's folder, and created ones."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Final, Self

from bosal_decoding.recipe import INLINE, Recipe, load_shipped
from bosal_server.database import Database
from bosal_server.errors import ServerError
from bosal_server.recipe_archive import ArchiveGuard, RecipeArchive, StoredRecipe
from bosal_server.recipe_entry import RecipeEntry, RecipeSource
from bosal_server.recipe_errors import (
    RecipeArchived,
    RecipeInUse,
    RecipeNameTaken,
    RecipeOutdated,
    RecipeReadOnly,
    UnknownRecipe,
    UnknownRecipeVersion,
)
from bosal_server.recipe_folder import RecipeFolder
from bosal_server.request_errors import InvalidRequest

# Names nobody knows may not become a query each.
_REFRESH_SECONDS: Final = 0.2


class RecipeStore:
    """Immutable recipes by name. Any thread may use it.

    A recipe of the folder or a shipped one hides a created one of its name. What a request was
    given stays as it was, whatever changes here afterwards.
    """

    def __init__(
        self, folder: RecipeFolder | None = None, archive: RecipeArchive | None = None
    ) -> None:
        self._folder = folder
        self._archive = archive
        self._shipped = load_shipped()
        self._fixed = self._read_only()
        # By name and version.
        self._created: Mapping[str, Mapping[str, StoredRecipe]] = {}
        self._revision = 0
        self._refreshed = 0.0
        self._lock = Lock()
        self._needed: set[str] = set()
        self.refresh()

    @classmethod
    def load(cls, folder: Path | None = None, database: Database | None = None) -> Self:
        """Read the shipped recipes, a folder's and a database's."""
        return cls(
            RecipeFolder(folder) if folder is not None else None,
            RecipeArchive(database) if database is not None else None,
        )

    def __contains__(self, name: str) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[Recipe]:
        """Yield the recipes in force, ordered by name, but for those this bosal cannot read."""
        for entry in self.in_force():
            with suppress(RecipeOutdated):
                yield entry.recipe

    def get(self, reference: str, *, field: str = "recipe") -> Recipe:
        """Return the recipe in force under `name`, or `name@version` if it is not archived.

        `field` is where the request holds the reference.
        """
        entry = self.find(reference, field=field)
        if entry.archived_at is not None:
            raise RecipeArchived(reference, field=field)
        try:
            return entry.recipe
        except RecipeOutdated as error:
            error.field = field
            raise

    def find(self, reference: str, *, field: str = "recipe") -> RecipeEntry:
        """Return the recipe in force under `name`, or any version of it, archived or not."""
        name, _, version = reference.partition("@")
        found = self._find(name, version)
        if found is None and self._archive is not None:
            # Another server may just have created it.
            if monotonic() - self._refreshed > _REFRESH_SECONDS:
                self.refresh()
            found = self._find(name, version)
        if found is None:
            raise self._unknown(name, version, field)
        return found

    def versions(self, name: str, *, field: str = "name") -> Sequence[RecipeEntry]:
        """Return every version of a recipe that is kept, the one in force first."""
        fixed = [self._fixed[name]] if name in self._fixed else []
        created = sorted(
            self._created.get(name, {}).values(),
            key=lambda stored: (stored.archived_at is None, stored.number),
            reverse=True,
        )
        if not fixed and not created:
            raise self._unknown(name, "", field)
        return fixed + [RecipeEntry(stored, RecipeSource.CREATED) for stored in created]

    def in_force(self, *, behind: str = "") -> Iterator[RecipeEntry]:
        """Yield the recipes in force, ordered by name, that follow the name `behind`."""
        for name in sorted(name for name in self._names() if name > behind):
            entry = self._find(name, "")
            if entry is not None:
                yield entry

    def create(self, recipe: Recipe) -> tuple[RecipeEntry, bool]:
        """Put a recipe in force under its name; the second value tells if that changed anything.

        Raises:
            InvalidRequest: it has no name, or one that means another thing.
            RecipeNameTaken: a read-only recipe has that name.
        """
        if self._archive is None:
            raise InvalidRequest("this server keeps no recipes: it has no database")
        if not recipe.name:
            raise InvalidRequest("a recipe that is kept needs a name", field="name")
        if recipe.name == INLINE:
            message = f"'{INLINE}' is what a recipe inside a request is called; take another name"
            raise InvalidRequest(message, field="name")
        if recipe.name in self._fixed:
            source = self._fixed[recipe.name].source
            raise RecipeNameTaken(recipe.name, source, field="name")
        has_changed = self._archive.create(recipe)
        self.refresh()
        return self.find(f"{recipe.name}@{recipe.version}"), has_changed

    def archive(self, reference: str, *, field: str = "name") -> Sequence[RecipeEntry]:
        """Take a created recipe, or one version of it, out of service; archiving twice is fine.

        Raises:
            RecipeReadOnly: it is not a created one.
            RecipeInUse: something needs it.
        """
        self.refresh()
        name, _, version = reference.partition("@")
        if name in self._fixed and version not in self._created.get(name, {}):
            raise RecipeReadOnly(name, self._fixed[name].source, field=field)
        found = self.find(reference, field=field)
        others = self._in_force(name) - {version} if version else ()
        if name in self._needed and name not in self._fixed and not others:
            raise RecipeInUse(reference, ["requests that name no recipe"], field=field)
        assert self._archive is not None
        versions = self._archive.archive(name, version, field=field)
        self.refresh()
        return [self.find(f"{name}@{one}") for one in versions or (found.version,)]

    def need(self, name: str) -> None:
        """Keep a recipe from going away: the one that serves requests naming none."""
        self.get(name)
        self._needed.add(name)

    def guard(self, guard: ArchiveGuard) -> None:
        """Ask `guard` before a created recipe is archived."""
        if self._archive is not None:
            self._archive.guard(guard)

    def refresh(self) -> bool:
        """Take in what this and other servers created and archived; tell if anything changed."""
        if self._archive is None:
            return False
        with self._lock:
            revision, changes = self._archive.changes(self._revision)
            self._refreshed = monotonic()
            self._revision = revision
            if not changes:
                return False
            created = {name: dict(versions) for name, versions in self._created.items()}
            for stored in changes:
                created.setdefault(stored.name, {})[stored.version] = stored
            self._created = created
            return True

    def reload(self, *, is_asked: bool = False) -> str | None:
        """Read the folder again if its files changed; return what changed, None if nothing did.

        Where somebody asked for it, files are read that may still be written.

        All of it takes effect at once, or, if any file is wrong, nothing does.

        Raises:
            InvalidRecipe: a file is wrong.
            RecipeInUse: a recipe that is needed is gone.
        """
        if self._folder is None or not (self._folder.has_changed() or is_asked):
            return None
        fixed = self._read_only()
        for name in self._needed:
            if name not in fixed and not self._in_force(name):
                raise RecipeInUse(name, ["requests that name no recipe"], field="")
        before, self._fixed = self._fixed, fixed
        return _difference(before, fixed)

    def _names(self) -> Collection[str]:
        return self._fixed.keys() | {name for name in self._created if self._in_force(name)}

    def _in_force(self, name: str) -> set[str]:
        """The versions of a created recipe that are not archived."""
        versions = self._created.get(name, {})
        return {version for version, stored in versions.items() if stored.archived_at is None}

    def _find(self, name: str, version: str) -> RecipeEntry | None:
        fixed = self._fixed.get(name)
        if fixed is not None and version in ("", fixed.recipe.version):
            return fixed
        versions = self._created.get(name, {})
        if version:
            return (
                RecipeEntry(versions[version], RecipeSource.CREATED)
                if version in versions
                else None
            )
        # The last that is in force, else the last there was.
        stored = max(
            versions.values(), key=lambda one: (one.archived_at is None, one.number), default=None
        )
        return RecipeEntry(stored, RecipeSource.CREATED) if stored is not None else None

    def _unknown(self, name: str, version: str, field: str) -> ServerError:
        current = self._find(name, "")
        if version and current is not None:
            return UnknownRecipeVersion(name, version, current.version, field=field)
        return UnknownRecipe(name, self._names(), field=field)

    def _read_only(self) -> Mapping[str, RecipeEntry]:
        own = self._folder.read() if self._folder is not None else {}
        return {
            name: RecipeEntry(recipe, source)
            for source, recipes in (
                (RecipeSource.SHIPPED, self._shipped),
                (RecipeSource.FOLDER, own),
            )
            for name, recipe in recipes.items()
        }


def _difference(before: Mapping[str, RecipeEntry], after: Mapping[str, RecipeEntry]) -> str:
    """Say which recipes are new, gone and changed."""
    changed = [
        name
        for name in before.keys() & after.keys()
        if before[name].document != after[name].document
    ]
    parts = (
        ("new", after.keys() - before.keys()),
        ("changed", changed),
        ("gone", before.keys() - after.keys()),
    )
    said = [f"{what}: {', '.join(sorted(names))}" for what, names in parts if names]
    return "; ".join(said) or "nothing new in it"
