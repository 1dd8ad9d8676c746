"""The headline table: which rows it has, what the document says, where it is written."""

import json
from pathlib import Path

import pytest
from tests.lab import records
from tests.lab.peer import Peer, Question, serving

from bosal_decoding.recipe import load_shipped
from bosal_lab.evaluate import Settings
from bosal_lab.evaluation_errors import ArmError
from bosal_lab.headline import (
    MODELS,
    PARTS,
    chosen_rows,
    dump,
    headline,
    headline_rows,
    measure,
    models_of,
    write_table,
)
from bosal_lab.results import Results
from bosal_server.statistics import intervals

RECIPES = tuple(load_shipped())
ARMS = [
    "base/plain",
    "base/rules",
    *(f"base/rules-without-{part}" for part in PARTS),
    "base/in-context",
    "base/steered",
    "base/steered-formed",
    "base/guided",
    "base/contrastive",
    "base/proxy",
    "base/nudged",
    "tuned/plain",
    "tuned/plain-greedy",
    "tuned/plain-greedy-formed",
    "tuned/steered",
]


def speak(question: Question) -> str:
    """The twin is right three times in four, `steered` every second time, `plain` never."""
    number = int(question.texts[0].split()[1])
    if question.model == "tuned":
        return "yes" if number % 4 else "no"
    return "yes" if question.recipe == "steered" and number % 2 else "What is that?"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("headline") / "r.sqlite"
    with serving(peer := Peer(speak, recipes=RECIPES)):
        measure(
            records.suite(40),
            path,
            server=peer.address,
            models={},
            settings=Settings(split="test"),
            seed=3,
            command="bosal eval headline",
        )
    assert len(peer.questions) == 40 * len(ARMS)
    return path


def test_the_shipped_rules_lose_one_part_in_each_of_three_rows() -> None:
    documents = {name: recipe.document() for name, recipe in load_shipped().items()}
    rows = headline_rows(documents)
    whole = [rule["rule"] for rule in documents["rules"]["rules"]]
    lacking = {}
    for model, recipe in rows:
        if not isinstance(recipe, str) and recipe["name"].startswith("rules-"):
            assert model == "base"
            assert recipe["scaffold"] == documents["rules"]["scaffold"]
            kept = [rule["rule"] for rule in recipe["rules"]]
            (lacking[recipe["name"]],) = set(whole) - set(kept)
            assert len(kept) == len(whole) - 1
    assert lacking == {f"rules-without-{part}": part for part in PARTS}


def test_the_twin_is_asked_as_plain_asks_and_decoded_greedily() -> None:
    documents = {name: recipe.document() for name, recipe in load_shipped().items()}
    (twin,) = [
        recipe
        for model, recipe in headline_rows(documents)
        if model == "tuned" and not isinstance(recipe, str) and recipe["name"] == "plain-greedy"
    ]
    assert twin["scaffold"] == documents["plain"]["scaffold"]
    assert twin["rules"] == [{"rule": "temperature", "value": 0}]


def test_rules_without_a_part_to_leave_out_are_refused() -> None:
    with pytest.raises(ArmError, match="eos_ramp"):
        headline_rows({"rules": {"rules": [{"rule": "temperature"}]}})


def test_rows_are_chosen_by_name_and_bring_the_models_they_need(tmp_path: Path) -> None:
    chosen = ["tuned/plain-greedy", "base/plain"]
    with serving(peer := Peer(speak, recipes=RECIPES)):
        measure(
            records.suite(4),
            tmp_path / "r.sqlite",
            server=peer.address,
            models={},
            settings=Settings(split="test"),
            seed=3,
            command="bosal eval headline",
            only=chosen,
        )
    assert len(peer.questions) == 4 * len(chosen)
    assert {question.model for question in peer.questions} == {"base", "tuned"}
    assert models_of(chosen) == ("base", "tuned")
    assert models_of([]) == models_of(["base/contrastive"]) == MODELS
    documents = {name: recipe.document() for name, recipe in load_shipped().items()}
    with pytest.raises(
        ArmError, match=r"no row is named 'base/steerd'; did you mean 'base/steered'"
    ):
        chosen_rows(headline_rows(documents), ["base/steerd"])


def test_every_row_has_its_rate_interval_and_categories(database: Path) -> None:
    with Results.open(database) as results:
        document = headline(results, ["bosal eval headline"])
    assert document["commands"] == ["bosal eval headline"]
    assert [f"{row['model']}/{row['recipe']}" for row in document["rows"]] == ARMS
    rows = {f"{row['model']}/{row['recipe']}": row for row in document["rows"]}
    expected = intervals.wilson(20, 40)
    steered = rows["base/steered"]
    assert steered["success"]["value"] == 0.5
    assert steered["success"]["low"] == pytest.approx(expected.low, abs=1e-4)
    assert steered["success"]["high"] == pytest.approx(expected.high, abs=1e-4)
    # Odd numbers are all of category c1.
    assert {name: one["value"] for name, one in steered["categories"].items()} == {
        "c0": 0.0,
        "c1": 1.0,
    }
    assert rows["tuned/plain"]["success"]["value"] == 0.75
    assert steered["of_twin"] == pytest.approx(2 / 3, abs=1e-4)
    assert rows["base/plain"]["of_twin"] == 0.0
    assert steered["stop_rate"]["value"] == 1.0
    # The plain base was not at hand to rank tokens.
    assert steered["token_shift"] is None
    shift = steered["token_shift_own_prompt"]
    assert shift["unshifted"] + shift["marginal"] + shift["shifted"] == pytest.approx(1)
    against = {one["arm"]: one for one in document["against_plain"]}
    assert set(against) == set(ARMS) - {"base/plain"}
    assert against["base/steered"]["only_arm"] == 20
    assert against["base/rules"]["p_holm"] == 1.0
    assert {one["name"] for one in document["floors"]} >= {"empty answer", "another item's answer"}


def test_the_document_is_json_that_reads_back(database: Path, tmp_path: Path) -> None:
    with Results.open(database) as results:
        document = headline(results, ["bosal eval headline"])
    dump(document, tmp_path / "deep" / "headline.json")
    text = (tmp_path / "deep" / "headline.json").read_text(encoding="utf-8")
    assert json.loads(text) == document


def test_the_table_replaces_what_stands_between_its_marks(database: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "# Title\n\n<!-- headline: begin -->\nold\n<!-- headline: end -->\n\nThe end.\n",
        encoding="utf-8",
    )
    with Results.open(database) as results:
        document = headline(results, ["bosal eval headline"])
    write_table(document, readme)
    first = readme.read_text(encoding="utf-8")
    assert first.startswith("# Title\n\n<!-- headline: begin -->\n| model |")
    assert first.endswith("<!-- headline: end -->\n\nThe end.\n")
    assert "old" not in first
    assert "| base | `steered` | 50 [35, 65] | 0.67 | 100.0 |" in first
    tables = [line for line in first.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables[: 2 + len(ARMS)]}) == 1
    write_table(document, readme)
    assert readme.read_text(encoding="utf-8") == first


def test_a_page_without_the_marks_is_left_alone(database: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n", encoding="utf-8")
    with Results.open(database) as results:
        document = headline(results, [])
    with pytest.raises(ArmError, match="headline: begin"):
        write_table(document, readme)
    assert readme.read_text(encoding="utf-8") == "# Title\n"
