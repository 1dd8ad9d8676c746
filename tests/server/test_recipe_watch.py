"""The folder is read again while the server runs: all of it or nothing."""

import logging
import os
from pathlib import Path

import pytest
from tests.live_server import eventually

from bosal_server.recipe_entry import RecipeSource
from bosal_server.recipe_store import RecipeStore
from bosal_server.recipe_watch import RecipeWatch

_PERIOD = 0.02


def write(folder: Path, name: str, k: int) -> None:
    new = folder / f".{name}.new"
    new.write_text(f"rules: [{{rule: top_k, k: {k}}}]\n")
    new.rename(folder / f"{name}.yaml")


def k_of(store: RecipeStore, name: str) -> object:
    return store.find(name).document["rules"][0]["k"]


def test_new_changed_and_removed_files_take_effect(tmp_path: Path) -> None:
    write(tmp_path, "one", 1)
    store = RecipeStore.load(tmp_path)
    outcomes: list[bool] = []
    old = store.get("one")
    with RecipeWatch(store, outcomes.append, period=_PERIOD):
        write(tmp_path, "one", 10)
        write(tmp_path, "two", 2)
        assert eventually(lambda: "two" in store)
        assert k_of(store, "one") == 10
        (tmp_path / "one.yaml").unlink()
        assert eventually(lambda: "one" not in store)
    assert outcomes == [True, True]
    assert old.document()["rules"][0]["k"] == 1  # Whoever has it, keeps it.
    assert store.find("two").source is RecipeSource.FOLDER


def test_a_wrong_file_keeps_everything_as_it_was_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "one", 1)
    store = RecipeStore.load(tmp_path)
    outcomes: list[bool] = []
    with caplog.at_level(logging.INFO), RecipeWatch(store, outcomes.append, period=_PERIOD):
        (tmp_path / "wrong.yaml").write_text("rulez: []\n")
        write(tmp_path, "one", 10)
        assert eventually(lambda: bool(outcomes))
        assert outcomes == [False]
        assert k_of(store, "one") == 1
        (tmp_path / "wrong.yaml").unlink()
        assert eventually(lambda: k_of(store, "one") == 10)
    assert outcomes == [False, True]
    refused, read = (record for record in caplog.records if "folder" in record.message)
    assert refused.levelno == logging.ERROR
    assert "wrong.yaml" in refused.message
    assert "changed: one" in read.message


def test_a_folder_without_the_default_recipe_is_not_taken(tmp_path: Path) -> None:
    write(tmp_path, "one", 1)
    store = RecipeStore.load(tmp_path)
    store.need("one")
    outcomes: list[bool] = []
    with RecipeWatch(store, outcomes.append, period=_PERIOD):
        (tmp_path / "one.yaml").unlink()
        assert eventually(lambda: bool(outcomes))
    assert outcomes == [False]
    assert "one" in store


def test_a_file_is_not_read_while_it_is_written(tmp_path: Path) -> None:
    write(tmp_path, "one", 1)
    store = RecipeStore.load(tmp_path)
    half = tmp_path / "one.yaml"
    half.write_text("rules: [{rule: top_k, k: 5}]  # and")
    assert store.reload() is None  # It has just changed.
    with half.open("a") as file:
        file.write(" more\n")
    assert store.reload() is None
    assert store.reload() is not None
    assert store.reload() is None


def test_a_swapped_link_is_seen(tmp_path: Path) -> None:
    """Kubernetes swaps a link to the folder that holds the files."""
    for name, k in (("v1", 1), ("v2", 2)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "one", k)
    os.symlink(tmp_path / "v1", tmp_path / "now")
    store = RecipeStore.load(tmp_path / "now")
    os.symlink(tmp_path / "v2", tmp_path / "next")
    os.replace(tmp_path / "next", tmp_path / "now")
    store.reload()
    assert store.reload() is not None
    assert k_of(store, "one") == 2


def test_whoever_asks_does_not_wait_for_the_period(tmp_path: Path) -> None:
    write(tmp_path, "one", 1)
    store = RecipeStore.load(tmp_path)
    outcomes: list[bool] = []
    with RecipeWatch(store, outcomes.append, period=3600) as watch:
        write(tmp_path, "one", 10)
        watch.wake()
        assert eventually(lambda: k_of(store, "one") == 10)
        (tmp_path / "wrong.yaml").write_text("rulez: []\n")
        watch.wake()
        assert eventually(lambda: outcomes == [True, False])
        # The file is still wrong, and whoever asks again is told again.
        watch.wake()
        assert eventually(lambda: outcomes == [True, False, False])
