"""The results database: what is stored comes back, and what does not belong is refused."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bosal_client import assistant, user
from bosal_lab.evaluation_errors import ArmError, ResultsError, SuiteVersionError
from bosal_lab.item import Answer, Item, Score, Suite
from bosal_lab.record import Arm, Record
from bosal_lab.results import Results


class Length:
    """Any answer follows; a short one is right."""

    version = "length 1"

    def score(self, item: Item, answer: Answer) -> Score:
        return Score(followed=True, right=len(answer.text) < 5)


ITEMS = (
    Item(id="z", category="first", split="test", messages=(user("Who?"),), checks={"is": ["Ä", 1]}),
    Item(
        id="a",
        category="second",
        split="dev",
        messages=(user("Who?"), assistant("You."), user("Where?")),
        reference="Here.",
        cluster="people",
    ),
)
SUITE = Suite(name="small", items=ITEMS, scorer=Length())
ARM = Arm(
    name="base/plain",
    model="base",
    model_digest="d1",
    recipe="plain",
    recipe_version="v1",
    recipe_document={"rules": [{"rule": "temperature", "value": 0.7}]},
    pinned="plain@v1",
    noise="7",
)
RECORD = Record(
    arm=ARM.name,
    item="z",
    sample=0,
    seed=2**62,
    text="Grün\n\x00",
    earlier=("one",),
    token_ids=(1, 2, 3),
    ranks=(1, 1, 9),
    finish_reason="stop_string",
    matched_stop="\nQ:",
    started={"dtype": "float32", "prompt_tokens": [3]},
    timings={"total": 0.25},
)


def test_what_is_stored_comes_back_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.sqlite"
    with Results.create(path, SUITE) as results:
        results.start_run("bosal eval run", {"version": "1"})
        results.add_arm(ARM)
        results.add(RECORD, Score(followed=True, right=False, details={"words": 1.5}))
    with Results.open(path) as results:
        assert tuple(results.items.values()) == ITEMS
        assert results.arms == {ARM.name: ARM}
        assert list(results.records(ARM.name)) == [RECORD]
        assert results.suite == ("small", SUITE.version)
        assert results.runs[0]["command"] == "bosal eval run"
        assert results.runs[0]["version"] == "1"
        assert results.scores(ARM.name, "success") == {("z", 0): 0.0}
        assert results.scores(ARM.name, "followed") == {("z", 0): 1.0}
        assert results.scores(ARM.name, "words") == {("z", 0): 1.5}
        assert results.metrics() == ["followed", "right", "success", "words"]


def test_an_answer_replaces_the_error_before_it(tmp_path: Path) -> None:
    with Results.create(tmp_path / "r.sqlite", SUITE) as results:
        results.add_arm(ARM)
        failed = Record(
            arm=ARM.name, item="z", sample=0, seed=1, error="too long", started={}, timings={}
        )
        results.add(failed, None)
        assert results.done(with_errors=False) == set()
        assert results.done(with_errors=True) == {(ARM.name, "z", 0)}
        results.add(RECORD, Score(followed=None))
        assert results.done(with_errors=False) == {(ARM.name, "z", 0)}
        assert results.scores(ARM.name, "success") == {("z", 0): None}


def test_records_come_in_the_order_of_the_suite(tmp_path: Path) -> None:
    with Results.create(tmp_path / "r.sqlite", SUITE) as results:
        results.add_arm(ARM)
        for item, sample in (("a", 0), ("z", 1), ("z", 0)):
            record = Record(arm=ARM.name, item=item, sample=sample, seed=1, started={}, timings={})
            results.add(record, None)
        found = [(record.item, record.sample) for record in results.records(ARM.name)]
    assert found == [("z", 0), ("z", 1), ("a", 0)]


def test_another_version_of_the_suite_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Results.create(path, SUITE) as results:
        results.add_arm(ARM)
    changed = Suite(name="small", items=ITEMS[:1], scorer=Length())
    with pytest.raises(SuiteVersionError, match=f"small@{SUITE.version}.*small@{changed.version}"):
        Results.create(path, changed)
    with Results.create(path, SUITE) as results:
        assert list(results.arms) == [ARM.name]


def test_a_changed_scorer_is_another_version_of_the_suite() -> None:
    class Stricter(Length):
        version = "length 2"

    assert Suite(name="small", items=ITEMS, scorer=Stricter()).version != SUITE.version
    assert Suite(name="other", items=ITEMS, scorer=Length()).version == SUITE.version


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be read" * 40])
def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.sqlite"
    path.write_bytes(content)
    with pytest.raises(ResultsError, match="not a database"):
        Results.create(path, SUITE)
    with pytest.raises(ResultsError, match="not a database"):
        Results.open(path)
    assert path.read_bytes() == content


def test_a_truncated_database_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Results.create(path, SUITE) as results:
        results.add_arm(ARM)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ResultsError, match="r.sqlite"):
        Results.create(path, SUITE)


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    with pytest.raises(ResultsError, match="something else"):
        Results.open(path)


def test_a_file_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no such file"):
        Results.open(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


def test_an_unknown_arm_names_the_nearest(tmp_path: Path) -> None:
    with Results.create(tmp_path / "r.sqlite", SUITE) as results:
        results.add_arm(ARM)
        with pytest.raises(ArmError, match="did you mean 'base/plain'"):
            results.arm("base/plan")


_WRITER = """
import os, signal, sys
from pathlib import Path
from tests.lab.test_results import ARM, RECORD, SUITE
from bosal_lab.item import Score
from bosal_lab.results import Results
from dataclasses import replace

results = Results.create(Path(sys.argv[1]), SUITE)
results.add_arm(ARM)
for sample in range(20):
    results.add(replace(RECORD, sample=sample), Score(followed=True))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_loses_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run([sys.executable, "-c", _WRITER, path], env=environment, check=False)
    assert killed.returncode == -9
    with Results.open(path) as results:
        assert len(list(results.records(ARM.name))) == 20
        assert len(results.scores(ARM.name, "success")) == 20
