"""`bosal eval` from the command line: what it prints, writes, and exits with."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab import records
from tests.lab.peer import Peer, Question, serving
from typer.testing import CliRunner, Result

import bosal_lab
from bosal_decoding.recipe import load_shipped
from bosal_lab.eval_commands import app
from bosal_lab.results import Results


def eval_command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def speak(question: Question) -> str:
    """`steered` says what was asked for, `plain` a little more."""
    word = question.texts[-1].split()[-1]
    return word if question.recipe != "plain" else f"{word} {word}"


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving(peer := Peer(speak)):
        yield peer


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    lines = [
        {
            "prompt": f"Say w{number}",
            "category": f"c{number % 2}",
            "checks": {"exact": f"w{number}"},
        }
        for number in range(20)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_a_run_ends_with_the_table_and_can_be_repeated(
    peer: Peer, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r.sqlite"
    asked = ("run", "--prompts", prompts, "-o", out, "-s", peer.address)
    first = eval_command(*asked)
    assert first.exit_code == 0
    assert "base/plain\t20\t0.0% [0.0, 16.1]" in first.stdout
    assert "base/steered\t20\t100.0% [83.9, 100.0]" in first.stdout
    again = eval_command(*asked)
    assert again.stdout == first.stdout
    assert len(peer.questions) == 40


def test_recipe_files_and_samples_are_asked(peer: Peer, prompts: Path, tmp_path: Path) -> None:
    recipe, out = tmp_path / "mine.yaml", tmp_path / "r.sqlite"
    recipe.write_text("rules: [{rule: temperature, value: 0}]", encoding="utf-8")
    done = eval_command(
        "run", "--prompts", prompts, "-o", out, "-s", peer.address, "-r", recipe, "-m", "tuned",
        "--samples", 3, "--no-ranks",
    )  # fmt: skip
    assert done.exit_code == 0
    with Results.open(out) as results:
        assert list(results.arms) == ["tuned/mine"]
        assert len(list(results.records("tuned/mine"))) == 60


def test_a_recipe_file_means_what_it_means_to_the_server(
    peer: Peer, prompts: Path, tmp_path: Path
) -> None:
    """YAML 1.1 takes `no` for a boolean, and of a key given twice the last."""
    recipe, out = tmp_path / "mine.yaml", tmp_path / "r.sqlite"
    run = ("run", "--prompts", prompts, "-o", out, "-s", peer.address, "-r", recipe, "--no-ranks")
    recipe.write_text("name: own\nrules: [{rule: token_weights, weights: {no: -5}}]")
    assert eval_command(*run).exit_code == 0
    with Results.open(out) as results:
        rules = [{"rule": "token_weights", "weights": {"no": -5}}]
        assert results.arm("base/own").recipe_document == {"name": "own", "rules": rules}
    recipe.write_text("name: twice\nrules: []\nrules: [{rule: temperature, value: 0}]")
    refused = eval_command(*run)
    assert refused.exit_code == 2
    assert "recipe mine does not work" in refused.stderr
    assert "given twice" in refused.stderr


def test_results_of_another_suite_are_refused(peer: Peer, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.sqlite"
    eval_command("run", "--prompts", prompts, "-o", out, "-s", peer.address)
    prompts.write_text('{"prompt": "Another"}', encoding="utf-8")
    refused = eval_command("run", "--prompts", prompts, "-o", out, "-s", peer.address)
    assert refused.exit_code == 2
    assert "holds answers to suite mine@" in refused.stderr


def test_a_run_says_who_asks(
    peer: Peer, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.key = "secret"
    asked = ("run", "--prompts", prompts, "-o", tmp_path / "r.sqlite", "-s", peer.address)
    refused = eval_command(*asked)
    assert refused.exit_code == 77
    assert "an API key is wanted" in refused.stderr
    monkeypatch.setenv("BOSAL_API_KEY", "secret")
    assert eval_command(*asked).exit_code == 0
    assert len(peer.questions) == 40


def test_no_server_is_said_with_its_own_code(prompts: Path, tmp_path: Path) -> None:
    done = eval_command("run", "--prompts", prompts, "-o", tmp_path / "r.sqlite", "-s", "[::1]:1")
    assert done.exit_code == 69
    assert "no server answers at [::1]:1" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "-o", "r.sqlite"),
        ("run", "-o", "r.sqlite", "--suite", "lab", "--prompts", "p.jsonl"),
        ("run", "-o", "r.sqlite", "--suite", "lab", "--scorer", "a:b"),
        ("run", "-o", "r.sqlite", "--suite", "labb"),
        ("run", "-o", "r.sqlite", "--prompts", "nowhere.jsonl"),
        ("report", "nowhere.sqlite"),
        ("compare", "nowhere.sqlite", "a", "b"),
        ("compare", "nowhere.sqlite", "a"),
        ("plan", "--mde", "0.1"),
        ("plan", "--mde", "0.1", "--discordance", "0.05"),
        ("plan", "--mde", "0.1", "--discordance", "0.2", "--deviation", "1"),
        ("plan", "--mde", "0.1", "--from", "nowhere.sqlite", "--arm", "a"),
    ],
)
def test_a_wrong_command_line_exits_with_two(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = eval_command(*arguments)
    assert done.exit_code == 2
    assert done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def database(tmp_path: Path) -> Path:
    answers = {
        "base/plain": [["no"]] * 20 + [["yes"]] * 10,
        "base/steered": [["yes"]] * 20 + [["yes"]] * 10,
        "base/alike": [["no"]] * 19 + [["yes"]] * 11,
    }
    path = tmp_path / "r.sqlite"
    records.results(path, records.suite(30), answers).close()
    return path


def test_compare_exits_with_zero_if_nothing_is_worse(database: Path) -> None:
    done = eval_command("compare", database, "base/plain", "base/steered", "base/alike")
    assert done.exit_code == 0
    assert "-0 +20" in done.stdout
    assert "base/alike against base/plain, success" in done.stdout


def test_compare_exits_with_one_if_an_arm_is_worse(database: Path) -> None:
    done = eval_command("compare", database, "base/steered", "base/plain")
    assert done.exit_code == 1
    assert "base/plain: worse than base/steered" in done.stdout


def test_compare_asks_for_proof_within_a_margin(database: Path) -> None:
    arms = ("base/plain", "base/alike")
    assert eval_command("compare", database, *arms, "--margin", 0.3).exit_code == 0
    failed = eval_command("compare", database, *arms, "--margin", 0.01)
    assert failed.exit_code == 1
    assert "base/alike: not shown to be within 0.01 of base/plain" in failed.stdout


def test_report_writes_a_page(database: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = eval_command("report", database, "--html", page, "--control", "base/steered")
    assert done.exit_code == 0
    assert "base/plain\t30\t33.3%" in done.stdout
    assert "Compared with base/steered" in page.read_text(encoding="utf-8")


def test_plan_takes_a_number_or_measures_it(database: Path) -> None:
    given = eval_command("plan", "--mde", 0.03, "--discordance", 0.1)
    assert given.exit_code == 0
    assert "862 items find a difference of 0.03 with power 0.800" in given.stdout
    measured = eval_command(
        "plan", "--mde", 0.1, "--from", database, "--arm", "base/plain", "--arm", "base/steered"
    )
    assert "discordance 0.667" in measured.stdout
    means = eval_command("plan", "--mde", 0.03, "--deviation", 0.3)
    assert "787 items" in means.stdout


def test_a_damaged_database_is_one_line(database: Path) -> None:
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2])
    done = eval_command("report", database)
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) <= 2
    assert "Traceback" not in done.stderr


def test_the_headline_is_measured_on_a_given_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bosal_lab.suites.SUITES", {"lab": lambda argument: records.suite(6)})
    out = tmp_path / "headline.json"
    with serving(peer := Peer(lambda question: "yes", recipes=tuple(load_shipped()))):
        done = eval_command(
            "headline", "-s", peer.address, "--results", tmp_path / "r.sqlite", "-o", out,
            "--html", tmp_path / "page.html",
        )  # fmt: skip
    assert done.exit_code == 0
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 16
    assert {row["success"]["value"] for row in rows} == {1.0}
    assert (tmp_path / "page.html").is_file()


def test_a_missing_package_is_one_line_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bosal_lab.tables", None)
    # Another test may have imported it.
    monkeypatch.delattr(bosal_lab, "tables", raising=False)
    ended = eval_command("compare", "x.sqlite", "a", "b")
    assert ended.exit_code == 2
    assert ended.stderr == (
        "error: the evaluation needs packages that are not installed (bosal_lab.tables): "
        "pip install 'bosal[lab]'\n"
    )
