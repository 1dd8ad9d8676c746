"""Items and scores: who speaks when, and what makes a success."""

import pytest

from bosal_client import assistant, user
from bosal_lab.item import Answer, Item, Score


def item(*messages: object) -> Item:
    return Item(id="i", category="c", split="test", messages=messages)  # type: ignore[arg-type]


def test_a_lone_instruction_is_asked_as_it_is() -> None:
    one = item(user("a"))
    assert one.to_answer == (0,)
    assert one.asked([]) == (user("a"),)
    assert one.instruction == "a"


def test_answers_stand_where_the_model_gave_them() -> None:
    one = item(user("a"), user("b"), assistant("given"), user("c"), user("d"))
    assert one.to_answer == (0, 3, 4)
    assert one.asked([]) == (user("a"),)
    assert one.asked(["A"]) == (
        user("a"), assistant("A"), user("b"), assistant("given"), user("c"),
    )  # fmt: skip
    assert one.asked(["A", "C"]) == (
        user("a"), assistant("A"), user("b"), assistant("given"), user("c"), assistant("C"),
        user("d"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("score", "success"),
    [
        (Score(followed=True), True),
        (Score(followed=True, right=True, stopped=True, no_leak=True), True),
        (Score(followed=True, right=False), False),
        (Score(followed=False, right=True), False),
        (Score(followed=None), None),
        (Score(followed=None, right=True), None),
        (Score(followed=None, stopped=False), False),
    ],
)
def test_success_needs_a_verdict_and_no_failure(score: Score, success: bool | None) -> None:
    assert score.success is success


def test_metrics_leave_out_what_was_not_judged() -> None:
    score = Score(followed=None, right=True, details={"words": 3.0, "kind": None})
    assert score.metrics() == {
        "success": None,
        "followed": None,
        "right": 1.0,
        "words": 3.0,
        "kind": None,
    }


def test_only_an_answer_that_was_not_cut_has_stopped() -> None:
    assert Answer(text="").has_stopped
    assert Answer(text="", finish_reason="stop_string").has_stopped
    assert not Answer(text="", finish_reason="max_tokens").has_stopped
    assert not Answer(text="", finish_reason="loop").has_stopped
