"""Recipes by name, by pinned version, and from an operator's folder."""

from pathlib import Path

import pytest

from bosal_decoding.errors import InvalidRecipe
from bosal_server.recipe_errors import UnknownRecipe, UnknownRecipeVersion
from bosal_server.recipe_store import RecipeStore


def test_the_shipped_recipes_are_there() -> None:
    store = RecipeStore.load()
    assert {"plain", "rules", "in-context", "steered"} <= {recipe.name for recipe in store}
    assert "plain" in store
    assert "other" not in store


def test_a_recipe_is_found_by_name_and_by_version() -> None:
    store = RecipeStore.load()
    plain = store.get("plain")
    assert store.get(f"plain@{plain.version}") is plain


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownRecipe, match="'steered'") as error:
        RecipeStore.load().get("stered", field="name")
    assert error.value.field == "name"


def test_another_version_is_not_silently_taken() -> None:
    store = RecipeStore.load()
    with pytest.raises(UnknownRecipeVersion, match=store.get("plain").version):
        store.get("plain@0000")


def test_a_folders_recipe_takes_the_place_of_its_namesake(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("rules: [{rule: top_k, k: 1}]\n")
    store = RecipeStore.load(tmp_path)
    assert store.get("plain").version != RecipeStore.load().get("plain").version
    assert "steered" in store


def test_a_wrong_recipe_is_an_error_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("rulez: []\n")
    with pytest.raises(InvalidRecipe, match=r"mine\.yaml.*'rules'"):
        RecipeStore.load(tmp_path)
