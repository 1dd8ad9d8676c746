from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

import bosal_models

FILES = {"README.md", "config.json", "generation_config.json", "model.safetensors",
         "tokenizer.json", "tokenizer_config.json"}  # fmt: skip


def test_the_exported_names_are_pinned() -> None:
    assert bosal_models.__all__ == ["UnknownModelError", "names", "path"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(bosal_models.UnknownModelError, match="base"):
        bosal_models.path("giant")
    with pytest.raises(KeyError):
        bosal_models.path("../bosal_lab")


def test_every_shipped_model_is_whole() -> None:
    assert "base" in bosal_models.names()
    for name in bosal_models.names():
        folder = bosal_models.path(name)
        assert {path.name for path in folder.iterdir()} == FILES
        assert (
            len(AutoTokenizer.from_pretrained(folder))
            == AutoConfig.from_pretrained(folder).vocab_size
        )


def test_the_models_share_one_tokenizer() -> None:
    texts = {
        (bosal_models.path(name) / "tokenizer.json").read_bytes() for name in bosal_models.names()
    }
    assert len(texts) == 1


def test_the_weights_fit_the_repository() -> None:
    root = Path(bosal_models.__file__).parent
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 32 * 2**20
