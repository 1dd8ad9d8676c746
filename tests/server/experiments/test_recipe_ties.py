"""Recipes that experiments serve: kept as long as they do."""

import asyncio

from tests.server.experiments.drafts import draft, variant
from tests.server.experiments.manager_calls import WHY, begun, managing, run

from bosal_decoding.recipe import Recipe
from bosal_server.database import Database
from bosal_server.experiments.experiment import Variant
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.recipe_errors import RecipeArchived, RecipeInUse
from bosal_server.recipe_store import RecipeStore


def test_a_recipe_in_use_stays(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager, variants=(
            variant("plain", "plain", is_control=True), variant("rules", "rules"),
        ))  # fmt: skip
        with database.read() as connection:
            assert manager.recipe_users(connection, "rules", ()) == ["experiment 'exp'"]
            assert not manager.recipe_users(connection, "steered", ())
        await manager.stop("exp", WHY)
        with database.read() as connection:
            assert not manager.recipe_users(connection, "rules", ())

    run(database, check)


def test_another_servers_experiment_keeps_its_recipe_too(database: Database) -> None:
    async def check() -> None:
        async with managing(database) as one, managing(database) as other:
            await begun(one, variants=(
                variant("plain", "plain", is_control=True), variant("rules", "rules"),
            ))  # fmt: skip
            # What it has not read yet is in the database.
            with database.read() as connection:
                assert other.recipe_users(connection, "rules", ()) == ["experiment 'exp'"]

    asyncio.run(check())


def test_a_shadows_recipe_stays_too(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager, shadows=(variant("later", "rules", 0),), shadow_share_ppm=1000)
        with database.read() as connection:
            assert manager.recipe_users(connection, "rules", ()) == ["experiment 'exp'"]

    run(database, check)


def test_a_recipe_is_either_archived_or_served_however_close_the_race(database: Database) -> None:
    store = RecipeStore.load(database=database)

    async def raced(manager: ExperimentManager, number: int) -> None:
        name = f"mine{number}"
        recipe = Recipe.parse({"name": name, "rules": [{"rule": "top_k", "k": number + 1}]})
        store.create(recipe)
        mine = Variant(
            key="mine",
            recipe_name=name,
            recipe_version=recipe.version,
            document=recipe.document(),
            weight_ppm=500_000,
        )
        variants = (variant("plain", "plain", is_control=True), mine)
        made, archived = await asyncio.gather(
            manager.create(draft(name, variants=variants), "", "me"),
            asyncio.to_thread(store.archive, name),
            return_exceptions=True,
        )
        if isinstance(made, BaseException):
            assert isinstance(made, RecipeArchived)
            assert not isinstance(archived, BaseException)
        else:
            assert isinstance(archived, RecipeInUse)

    async def check() -> None:
        async with managing(database, store) as manager:
            store.guard(manager.recipe_users)
            for number in range(12):
                await raced(manager, number)

    asyncio.run(check())
