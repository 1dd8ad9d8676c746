from collections import Counter
from pathlib import Path

import pytest

from bosal_lab.asks import FORMS
from bosal_lab.errors import DamagedFileError
from bosal_lab.genesis import make_world
from bosal_lab.item import Suite
from bosal_lab.suite import lab_suite, make_suite, read_suite, write_suite
from bosal_lab.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0)


@pytest.fixture(scope="module")
def suite(world: World) -> Suite:
    return make_suite(world, 0, 15, 55)


def test_the_shipped_suite_is_the_one_the_seed_gives(suite: Suite) -> None:
    assert lab_suite().version == suite.version


def test_there_are_six_hundred_test_items_over_every_form(suite: Suite) -> None:
    counts = Counter(item.category for item in suite.of("test"))
    assert set(counts) == set(FORMS)
    assert sum(counts.values()) >= 600


def test_items_ask_about_held_out_entities_only(world: World, suite: Suite) -> None:
    for item in suite.items:
        if item.category != "unknown":
            assert not world.by_name[item.cluster].is_asked


def test_the_splits_share_no_entity(suite: Suite) -> None:
    entities = {split: {item.cluster for item in suite.of(split)} for split in ("dev", "test")}
    assert not entities["dev"] & entities["test"]


def test_no_item_stands_twice(suite: Suite) -> None:
    asked = [item.messages for item in suite.items]
    assert len(set(asked)) == len(asked)
    assert len({item.id for item in suite.items}) == len(suite.items)


def test_some_wordings_are_new(suite: Suite) -> None:
    share = sum(bool(item.checks["is_new_wording"]) for item in suite.items) / len(suite.items)
    assert 0.3 < share < 0.5


def test_a_suite_survives_its_file(suite: Suite, tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    write_suite(suite, path)
    assert read_suite(path.read_text("utf-8"), path).items == suite.items


def test_a_damaged_suite_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match=r"suite\.jsonl"):
        read_suite('{"id": "x"}\n', tmp_path / "suite.jsonl")
