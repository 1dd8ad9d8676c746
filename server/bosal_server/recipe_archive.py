"""The recipes users created, kept in the database in immutable versions."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import time_ns
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    String,
    Table,
    Text,
    func,
    insert,
    select,
    update,
)

from bosal_decoding.errors import DecodingError
from bosal_decoding.recipe import Recipe
from bosal_server.database import METADATA, Database, advance, revision
from bosal_server.recipe_errors import RecipeArchived, RecipeInUse, RecipeOutdated, TooManyRecipes

TOPIC: Final = "recipes"
MAX_VERSIONS: Final = 10_000

RECIPES = Table(
    "recipes",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("version", String(64), primary_key=True),
    # JSON, name and description included.
    Column("document", Text, nullable=False),
    # Of a name's versions that are not archived, the one with the highest number is in force.
    Column("number", BigInteger, nullable=False),
    # The topic's revision when this row last changed.
    Column("revision", BigInteger, nullable=False),
    # Microseconds since 1970.
    Column("created_at", BigInteger, nullable=False),
    Column("archived_at", BigInteger),
)

# Says what needs a recipe (name, versions) and must keep it from being archived, in words such as
# "experiment 'greeting'". Called inside the transaction that would archive it.
ArchiveGuard = Callable[[Connection, str, Sequence[str]], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class StoredRecipe:
    """One version of a created recipe."""

    name: str
    version: str
    document: str = field(repr=False)
    number: int
    # Microseconds since 1970.
    created_at: int
    archived_at: int | None

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe itself.

        Raises:
            RecipeOutdated: this version of bosal reads the document differently, or not at all.
        """
        try:
            recipe = Recipe.parse(json.loads(self.document))
        except DecodingError as error:
            raise RecipeOutdated(f"{self.name}@{self.version}", str(error)) from None
        if recipe.version != self.version:
            cause = f"its content is now version {recipe.version}"
            raise RecipeOutdated(f"{self.name}@{self.version}", cause)
        return recipe


class RecipeArchive:
    """Created recipes in a database. Any thread may use it; every call is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._guards: list[ArchiveGuard] = []

    def guard(self, guard: ArchiveGuard) -> None:
        """Ask `guard` before a recipe is archived."""
        self._guards.append(guard)

    def changes(self, since: int) -> tuple[int, Sequence[StoredRecipe]]:
        """Return the current revision, and every version that changed after revision `since`."""
        with self._database.read() as connection:
            number = revision(connection, TOPIC)
            if number == since:
                return number, ()
            rows = connection.execute(
                select(RECIPES).where(RECIPES.c.revision > since).order_by(RECIPES.c.number)
            )
            return number, [_stored(row._asdict()) for row in rows]

    def create(self, recipe: Recipe) -> bool:
        """Put a recipe in force under its name; False if it was already.

        A version that is there already is put in force again, out of the archive if need be, with
        the description it comes with now.
        """
        document = json.dumps(recipe.document(), separators=(",", ":"))
        with self._database.write() as connection:
            number = advance(connection, TOPIC)
            latest = connection.execute(
                select(RECIPES)
                .where(RECIPES.c.name == recipe.name, RECIPES.c.archived_at.is_(None))
                .order_by(RECIPES.c.number.desc())
                .limit(1)
            ).one_or_none()
            if latest is not None and latest.version == recipe.version:
                if latest.document == document:
                    return False
                number_in_force = latest.number
            else:
                number_in_force = number
            values = {"document": document, "number": number_in_force, "revision": number}
            changed = connection.execute(
                update(RECIPES)
                .where(RECIPES.c.name == recipe.name, RECIPES.c.version == recipe.version)
                .values(archived_at=None, **values)
            )
            if changed.rowcount:
                return latest is None or latest.version != recipe.version
            if connection.execute(select(func.count()).select_from(RECIPES)).scalar_one() >= (
                MAX_VERSIONS
            ):
                raise TooManyRecipes(MAX_VERSIONS)
            connection.execute(
                insert(RECIPES).values(
                    name=recipe.name, version=recipe.version, created_at=_now(), **values
                )
            )
            return True

    def archive(self, name: str, version: str = "", *, field: str) -> Sequence[str]:
        """Take a recipe, or one version of it, out of service; return the versions that went.

        Raises:
            RecipeInUse: a guard says that something needs it.
        """
        which = [RECIPES.c.name == name, RECIPES.c.archived_at.is_(None)]
        if version:
            which.append(RECIPES.c.version == version)
        with self._database.write() as connection:
            number = advance(connection, TOPIC)
            versions = connection.execute(select(RECIPES.c.version).where(*which)).scalars().all()
            if not versions:
                return ()
            users = [user for guard in self._guards for user in guard(connection, name, versions)]
            if users:
                raise RecipeInUse(f"{name}@{version}" if version else name, users, field=field)
            connection.execute(
                update(RECIPES).where(*which).values(archived_at=_now(), revision=number)
            )
            return versions


def require(connection: Connection, name: str, version: str, *, field: str) -> None:
    """Make sure that a created version is in service, and stays so until the transaction ends.

    For whoever begins to need a recipe that its guard will then report.

    Raises:
        RecipeArchived: it was taken out of service.
    """
    advance(connection, TOPIC)
    row = (RECIPES.c.name == name) & (RECIPES.c.version == version)
    if connection.execute(select(RECIPES.c.archived_at).where(row)).scalar() is not None:
        raise RecipeArchived(f"{name}@{version}", field=field)


def _stored(row: Mapping[str, Any]) -> StoredRecipe:
    return StoredRecipe(**{name: value for name, value in row.items() if name != "revision"})


def _now() -> int:
    return time_ns() // 1000
