"""Created recipes: immutable versions in a database that several servers may share."""

import threading
from collections.abc import Sequence

import pytest
from sqlalchemy import Connection, text

from bosal_decoding.recipe import Recipe
from bosal_server.database import Database
from bosal_server.recipe_archive import require
from bosal_server.recipe_entry import RecipeSource
from bosal_server.recipe_errors import (
    RecipeArchived,
    RecipeInUse,
    RecipeNameTaken,
    RecipeOutdated,
    RecipeReadOnly,
    TooManyRecipes,
    UnknownRecipe,
    UnknownRecipeVersion,
)
from bosal_server.recipe_store import RecipeStore
from bosal_server.request_errors import InvalidRequest


def recipe(k: int, name: str = "mine", **fields: object) -> Recipe:
    return Recipe.parse({"name": name, "rules": [{"rule": "top_k", "k": k}], **fields})


@pytest.fixture
def store(database: Database) -> RecipeStore:
    return RecipeStore.load(database=database)


def test_a_created_recipe_is_found_by_name_and_by_version(store: RecipeStore) -> None:
    entry, has_changed = store.create(recipe(1))
    assert has_changed
    assert entry.source is RecipeSource.CREATED
    assert entry.created_at is not None
    assert store.get("mine") == store.get(f"mine@{entry.version}") == recipe(1)
    assert "mine" in {one.name for one in store}


def test_creating_twice_is_creating_once(store: RecipeStore) -> None:
    first, _ = store.create(recipe(1))
    again, has_changed = store.create(recipe(1))
    assert not has_changed
    assert (again.version, again.created_at) == (first.version, first.created_at)
    assert len(store.versions("mine")) == 1


def test_the_name_is_the_version_created_last_and_the_others_stay(store: RecipeStore) -> None:
    first, _ = store.create(recipe(1))
    second, _ = store.create(recipe(2))
    assert store.get("mine") == recipe(2)
    assert store.get(f"mine@{first.version}") == recipe(1)
    assert [one.version for one in store.versions("mine")] == [second.version, first.version]
    _, has_changed = store.create(recipe(1))
    assert has_changed
    assert store.get("mine") == recipe(1)
    assert [one.version for one in store.versions("mine")] == [first.version, second.version]


def test_a_new_description_is_no_new_version(store: RecipeStore) -> None:
    store.create(recipe(1))
    entry, has_changed = store.create(recipe(1, description="Takes the best token."))
    assert not has_changed
    assert entry.recipe.description == "Takes the best token."
    assert len(store.versions("mine")) == 1


def test_recipes_survive_the_server(database_url: str) -> None:
    for k in (1, 2):
        database = Database.open(database_url)
        RecipeStore.load(database=database).create(recipe(k))
        database.close()
    database = Database.open(database_url)
    store = RecipeStore.load(database=database)
    assert store.get("mine") == recipe(2)
    assert len(store.versions("mine")) == 2
    database.close()


def test_two_servers_on_one_database_see_each_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bosal_server.recipe_store._REFRESH_SECONDS", 0)
    here, there = (RecipeStore.load(database=database) for _ in range(2))
    here.create(recipe(1))
    assert there.get("mine") == recipe(1)  # Asked for by a new name: seen at once.
    here.create(recipe(2))
    assert there.refresh()
    assert there.get("mine") == recipe(2)
    there.archive("mine")
    assert here.refresh()
    with pytest.raises(RecipeArchived):
        here.get("mine")
    assert not here.refresh()


def test_servers_that_create_at_once_agree(database: Database) -> None:
    stores = [RecipeStore.load(database=database) for _ in range(4)]

    def create(store: RecipeStore, first: int) -> None:
        for i in range(3):
            store.create(recipe(1 + (first + i) % 3))

    threads = [
        threading.Thread(target=create, args=(one, first)) for first, one in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in stores:
        one.refresh()
    assert len(stores[0].versions("mine")) == 3
    assert len({one.get("mine").version for one in stores}) == 1


def test_an_archived_recipe_no_longer_serves_but_can_be_read(store: RecipeStore) -> None:
    entry, _ = store.create(recipe(1))
    (archived,) = store.archive("mine")
    assert archived.archived_at is not None
    for reference in ("mine", f"mine@{entry.version}"):
        with pytest.raises(RecipeArchived) as error:
            store.get(reference)
        assert error.value.field == "recipe"
    assert store.find(f"mine@{entry.version}").recipe == recipe(1)
    assert "mine" not in {one.name for one in store}
    assert "mine" not in store
    # Twice is as good as once.
    (again,) = store.archive("mine")
    assert again.archived_at == archived.archived_at


def test_archiving_one_version_puts_the_one_before_in_force(store: RecipeStore) -> None:
    store.create(recipe(1))
    second, _ = store.create(recipe(2))
    store.archive(f"mine@{second.version}")
    assert store.get("mine") == recipe(1)
    assert [one.archived_at is None for one in store.versions("mine")] == [True, False]


def test_creating_brings_back_what_was_archived(store: RecipeStore) -> None:
    store.create(recipe(1))
    store.archive("mine")
    _, has_changed = store.create(recipe(1))
    assert has_changed
    assert store.get("mine") == recipe(1)


def test_read_only_recipes_are_neither_created_nor_archived(store: RecipeStore) -> None:
    with pytest.raises(RecipeNameTaken, match="comes with bosal") as taken:
        store.create(recipe(1, "plain"))
    assert (taken.value.code, taken.value.field) == ("ALREADY_EXISTS", "name")
    with pytest.raises(RecipeReadOnly) as read_only:
        store.archive("plain")
    assert read_only.value.code == "FAILED_PRECONDITION"


def test_no_recipe_takes_the_name_of_those_inside_requests(store: RecipeStore) -> None:
    with pytest.raises(InvalidRequest, match="inside a request is called") as refused:
        store.create(recipe(1, "inline"))
    assert refused.value.field == "name"


def test_unknown_recipes_are_not_archived(store: RecipeStore) -> None:
    store.create(recipe(1))
    with pytest.raises(UnknownRecipe, match="did you mean 'mine'"):
        store.archive("mines")
    with pytest.raises(UnknownRecipeVersion):
        store.archive("mine@0000")


def test_a_recipe_that_something_uses_is_not_archived(store: RecipeStore) -> None:
    entry, _ = store.create(recipe(1))
    asked = []

    def guard(connection: Connection, name: str, versions: Sequence[str]) -> Sequence[str]:
        asked.append((name, list(versions), connection.execute(text("SELECT 1")).scalar()))
        return ["experiment 'greeting'"]

    store.guard(guard)
    with pytest.raises(RecipeInUse, match="experiment 'greeting'") as error:
        store.archive("mine")
    assert error.value.code == "FAILED_PRECONDITION"
    assert asked == [("mine", [entry.version], 1)]
    assert store.get("mine") == recipe(1)


def test_the_default_recipe_is_not_archived(store: RecipeStore) -> None:
    first, _ = store.create(recipe(1))
    second, _ = store.create(recipe(2))
    store.need("mine")
    with pytest.raises(RecipeInUse):
        store.archive("mine")
    store.archive(f"mine@{second.version}")
    with pytest.raises(RecipeInUse):
        store.archive(f"mine@{first.version}")


def test_who_begins_to_need_a_version_finds_it_archived(
    store: RecipeStore, database: Database
) -> None:
    entry, _ = store.create(recipe(1))
    with database.write() as connection:
        require(connection, "mine", entry.version, field="variants[0].recipe")
    store.archive("mine")
    with pytest.raises(RecipeArchived, match="mine@"), database.write() as connection:
        require(connection, "mine", entry.version, field="variants[0].recipe")


def test_a_recipe_without_a_name_or_a_database_is_not_kept(store: RecipeStore) -> None:
    with pytest.raises(InvalidRequest, match="needs a name") as error:
        store.create(recipe(1, ""))
    assert error.value.field == "name"
    with pytest.raises(InvalidRequest, match="no database"):
        RecipeStore.load().create(recipe(1))


def test_the_database_does_not_grow_without_end(
    store: RecipeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bosal_server.recipe_archive.MAX_VERSIONS", 2)
    store.create(recipe(1))
    store.create(recipe(2))
    with pytest.raises(TooManyRecipes):
        store.create(recipe(3))
    store.create(recipe(1))  # Adds nothing.
    assert store.get("mine") == recipe(1)


@pytest.mark.parametrize(
    ("document", "cause"),
    [
        ('{"name": "mine", "rules": [{"rule": "lost_rule"}]}', "lost_rule"),
        ('{"name": "mine", "rules": [{"rule": "top_k", "k": 5}]}', "content is now version"),
    ],
)
def test_a_recipe_of_another_bosal_is_listed_and_not_served(
    store: RecipeStore, database: Database, document: str, cause: str
) -> None:
    store.create(recipe(1))
    with database.write() as connection:
        connection.execute(text("UPDATE recipes SET document = :document"), {"document": document})
    after = RecipeStore.load(database=database)
    assert after.find("mine").document["rules"]
    assert "mine" in {one.name for one in after.in_force()}
    assert "mine" not in {one.name for one in after}
    with pytest.raises(RecipeOutdated, match=cause) as error:
        after.get("mine", field="spec.recipe")
    assert error.value.field == "spec.recipe"


def test_characters_of_all_kinds_come_back(store: RecipeStore) -> None:
    odd = Recipe.parse(
        {"name": "odd", "rules": [{"rule": "stop_strings", "values": ["\0", "🙂\n", "\\u0000"]}]}
    )
    store.create(odd)
    assert store.get("odd") == odd
