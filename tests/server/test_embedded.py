from pathlib import Path

import pytest

import bosal_models
from bosal_decoding.recipe import Recipe, load_shipped
from bosal_server.config import ModelConfig
from bosal_server.embedded import is_embedded_default, models_to_serve


def test_without_a_model_the_base_comes_with_those_that_recipes_name() -> None:
    recipes = [
        Recipe.parse({"rules": [{"rule": "contrastive", "amateur": "amateur"}]}),
        Recipe.parse({"rules": [{"rule": "realign", "aligned": "somebody-elses"}]}),
        Recipe.parse({"rules": [{"rule": "contrastive", "amateur": "amateur"}]}),
    ]
    models = models_to_serve((), recipes)
    assert [model.name for model in models] == ["base", "amateur"]
    assert models[1].source == str(bosal_models.path("amateur"))
    assert [model.name for model in models_to_serve((), [])] == ["base"]


def test_every_shipped_recipe_finds_its_models() -> None:
    recipes = load_shipped().values()
    served = {model.name for model in models_to_serve((), recipes)}
    assert {name for recipe in recipes for name in recipe.models} <= served


def test_short_names_are_resolved_and_nothing_is_added() -> None:
    configured = ModelConfig.parse_all(["base", "weak=amateur", "org/other"])
    models = models_to_serve(configured, load_shipped().values())
    assert [(model.name, model.source) for model in models] == [
        ("base", str(bosal_models.path("base"))),
        ("weak", str(bosal_models.path("amateur"))),
        ("other", "org/other"),
    ]


def test_a_folder_goes_before_an_embedded_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    configured = ModelConfig.parse_all(["base"])
    assert models_to_serve(configured, ())[0].source == "base"
    assert not is_embedded_default(configured)


def test_the_embedded_base_is_the_default_with_or_without_its_name() -> None:
    assert is_embedded_default(())
    assert is_embedded_default(ModelConfig.parse_all(["base", "org/other"]))
    assert not is_embedded_default(ModelConfig.parse_all(["org/other", "base"]))
