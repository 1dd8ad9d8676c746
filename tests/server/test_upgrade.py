"""A server opens what an older one left behind."""

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text

from bosal_decoding.recipe import Recipe
from bosal_server.database import Database
from bosal_server.recipe_store import RecipeStore

# A folder written for schema 1, and what its recipes are called since: neither may change.
FOLDER = Path(__file__).with_name("recipes_of_schema_1")
VERSIONS = {
    "old-contrastive": "66befeb10c349ba6",
    "old-guided": "0b858214de598b54",
    "old-in-context": "bb8f121aaec09a4e",
    "old-nudged": "7911b250c6d4cb1e",
    "old-proxy": "ff8ee08ac4f99d62",
    "old-rules": "526b2e8afc878574",
    "old-steered": "d49533ae8ccbea01",
    "old-every-sampler": "d855ac1a5e3f236d",
}


def test_a_folder_of_recipes_of_the_first_schema_means_what_it_meant(database: Database) -> None:
    store = RecipeStore.load(FOLDER, database)
    assert {one.name: one.version for one in store if one.name.startswith("old-")} == VERSIONS
    for name, version in VERSIONS.items():
        found = store.get(f"{name}@{version}")
        # What is told of it reads as the same recipe again.
        assert Recipe.parse(found.document()) == found


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
