"""A server opens what an older one left behind."""

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text

from bosal_decoding.recipe import Recipe
from bosal_server.database import Database
from bosal_server.recipe_store import RecipeStore


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_recipes_of_an_older_schema_are_served(
    revision: str, sqlite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.parse({"name": "mine", "rules": [{"rule": "top_k", "k": 3}]})
    upgrade: Any = command.upgrade
    with monkeypatch.context() as older:
        older.setattr(command, "upgrade", lambda config, _: upgrade(config, revision))
        database = Database.open(str(sqlite_file))
        RecipeStore.load(database=database).create(recipe)
        with database.read() as connection:
            found = connection.execute(text("SELECT version_num FROM alembic_version"))
            assert found.scalar_one() == revision
        database.close()
    database = Database.open(str(sqlite_file))
    assert RecipeStore.load(database=database).get("mine") == recipe
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM experiments")).scalar_one() == 0
        found = connection.execute(text("SELECT version_num FROM alembic_version"))
        assert found.scalar_one() > revision
    database.close()
