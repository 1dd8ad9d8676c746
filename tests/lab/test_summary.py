"""Summaries and floors of made-up answers."""

from pathlib import Path

import pytest
from tests.lab import records

from bosal_lab import tables
from bosal_lab.floors import floors, store_floors
from bosal_lab.item import Answer, Item, Score, Suite
from bosal_lab.summary import floor_rows, shift, summaries
from bosal_server.statistics import intervals


def test_an_arm_is_summed_up_overall_and_by_category(tmp_path: Path) -> None:
    answers = {"base/plain": [["yes"], ["no"], ["yes…"], ["!"], ["yes, well"]]}
    with records.results(tmp_path / "r.sqlite", records.suite(6), answers) as results:
        (found,) = summaries(results)
    assert (found.items, found.missing, found.answers, found.errors) == (5, 1, 5, 1)
    # A cut answer and an error are failures.
    assert found.value == intervals.wilson(2, 5)
    assert found.categories["c0"] == intervals.wilson(2, 3)
    assert found.categories["c1"] == intervals.wilson(0, 2)
    assert found.stopped == intervals.wilson(3, 5)
    assert found.tokens == pytest.approx((3 + 2 + 6 + 9) / 4)  # "…" is three bytes.
    assert found.seconds == 0.5


def test_seconds_below_one_are_no_shares(tmp_path: Path) -> None:
    answers = {"base/plain": [["yes"], ["no"], ["yes"], ["yes, well"]]}
    with records.results(tmp_path / "r.sqlite", records.suite(4), answers) as results:
        (found,) = summaries(results, metric="seconds")
        (counted,) = summaries(results, metric="tokens")
    assert found.value == intervals.bca([0.5] * 4)
    (row,) = tables.arms([found]).rows
    assert row[2] == "0.50 [0.50, 0.50]"
    (cells, _) = tables.categories([found], []).rows
    assert cells[1] == "0.50 [0.50, 0.50]"
    assert counted.value == intervals.bca([3, 2, 3, 9])


def test_an_arm_without_an_answer_on_the_split_is_left_out(tmp_path: Path) -> None:
    with records.results(
        tmp_path / "r.sqlite", records.suite(2), {"base/plain": [["yes"]]}
    ) as results:
        assert summaries(results, split="dev") == []


def test_answers_without_a_verdict_are_counted_apart(tmp_path: Path) -> None:
    class Unsure(records.Right):
        def score(self, item: Item, answer: Answer) -> Score:
            return Score(followed=None if answer.text == "?" else True)

    of = records.suite(3)
    of = Suite(name=of.name, items=of.items, scorer=Unsure())
    with records.results(
        tmp_path / "r.sqlite", of, {"base/plain": [["?"], ["no"], ["no"]]}
    ) as results:
        (found,) = summaries(results)
        unscored = results.unscored("base/plain")
    assert found.unscored == 1
    assert unscored == {"followed": 1, "success": 1}
    assert tables.unscored({"base/plain": unscored}).rows == (("followed", "1"), ("success", "1"))
    assert found.value == intervals.wilson(2, 2)


def test_the_shift_is_the_share_of_ranks() -> None:
    found = shift([1, 1, 1, 2, 3, 4, 100, 1])
    assert found is not None
    assert (found.unshifted, found.marginal, found.shifted) == (0.5, 0.25, 0.25)
    assert found.tokens == 8
    assert shift([]) is None


def test_the_shift_of_an_arm_counts_every_token(tmp_path: Path) -> None:
    answers = {"base/plain": [["yes", "eee"], ["no"]]}
    with records.results(tmp_path / "r.sqlite", records.suite(2), answers) as results:
        (found,) = summaries(results)
    assert found.shift is not None
    assert found.shift.tokens == 8
    assert found.shift.unshifted == 0.5


def test_the_shift_under_the_plain_model_stands_apart(tmp_path: Path) -> None:
    answers = {"base/plain": [["yes"], ["no"]]}
    with records.results(tmp_path / "r.sqlite", records.suite(2), answers) as results:
        first, second = results.records("base/plain")
        assert [one.plain_shift for one in summaries(results)] == [None]
        results.set_plain_ranks([(first, (1, 1, 2)), (second, (9,))])
        (found,) = summaries(results)
        assert results.plain_ranks()["base/plain", "q1", 0] == (9,)
    assert found.plain_shift is not None
    assert (found.plain_shift.unshifted, found.plain_shift.shifted) == (0.5, 0.25)
    prompts = [row[1] for row in tables.shifts([found]).rows]
    assert prompts == ["its own", "plain base"]


def test_floors_score_answers_that_took_no_work() -> None:
    of = records.suite(12)
    found = floors(of)
    assert set(found) == {"empty answer", "echo of the instruction", "another item's answer"}
    assert set(found["empty answer"].values()) == {0.0}
    # The made-up scorer takes any "yes", and every reference says so.
    assert set(found["another item's answer"].values()) == {1.0}
    assert floors(of) == found


def test_no_item_gets_its_own_answer_as_a_floor() -> None:
    asked = []

    class Spy(records.Right):
        def score(self, item: Item, answer: Answer) -> Score:
            asked.append((item.reference, answer.text))
            return super().score(item, answer)

    of = records.suite(9)
    floors(Suite(name=of.name, items=of.items, scorer=Spy()))
    misplaced = [pair for pair in asked if pair[1].startswith("yes")]
    assert len(misplaced) == 9
    assert all(right != given for right, given in misplaced)


def test_the_first_line_of_plain_is_judged_on_content_alone(tmp_path: Path) -> None:
    answers = {
        "base/plain": [["\nyes\nAnd who are you?…"], ["no\nyes"], ["!"]],
        "base/steered": [["yes"], ["yes"], ["yes"]],
    }
    of = records.suite(3)
    with records.results(tmp_path / "r.sqlite", of, answers) as results:
        store_floors(results, of)
        (row,) = [one for one in floor_rows(results) if one.name.startswith("base/")]
    assert row.name == "base/plain, first line, content only"
    assert (row.items, row.value.value) == (2, 0.5)


def test_tables_hold_a_cell_for_every_head(tmp_path: Path) -> None:
    answers = {"base/plain": [["yes"], ["no"]], "base/steered": [["yes"]]}
    of = records.suite(2)
    with records.results(tmp_path / "r.sqlite", of, answers) as results:
        store_floors(results, of)
        found, below = summaries(results), floor_rows(results)
    for grid in (
        tables.arms(found),
        tables.floors(below),
        tables.categories(found, below),
        tables.shifts(found),
    ):
        assert grid.rows
        assert {len(row) for row in grid.rows} == {len(grid.header)}
    assert tables.arms(found).rows[0][2] == "50.0% [9.5, 90.5]"
