import pytest

from bosal_lab.errors import UnknownNameError
from bosal_lab.genesis import make_world
from bosal_lab.item import Answer, Item, Suite
from bosal_lab.scorers import LabScorer
from bosal_lab.suite import make_suite

SCORER = LabScorer()


def item(
    category: str, instruction: str, expected: list[str], wrong: list[str] | None = None
) -> Item:
    from bosal_client.requests import Message

    return Item(
        id="x",
        category=category,
        split="dev",
        messages=(Message(role="user", text=instruction),),
        checks={"expected": expected, "wrong": wrong or []},
    )


def succeeds(asked: Item, text: str, reason: str = "stop_token") -> bool:
    return SCORER.score(asked, Answer(text=text, finish_reason=reason)).success is True


FACT = item("fact", "Where was Orla Prinmar born?", ["Drentford"])
YEAR = item("year", "When was Orla born? Give only the year.", ["1712"])
YES = item("yes_no", "Was Orla a baker? Answer yes or no.", ["yes"])
OPEN_YES = item("yes_no", "Was Orla a baker?", ["yes"])
CHOICE = item(
    "choose", "Where: Drentford, Tonhaven or Kondmar?", ["Drentford"], ["Tonhaven", "Kondmar"]
)
LIST = item("list", "Name two of the goods of Kondmar.", ["2", "ink", "salt", "tin"])
BULLETS = item("bullets", "List the goods. Use bullets.", ["ink", "salt"])
JSON = item("json", "As JSON", ['{"name": "Orla Prinmar", "born": 1712}'])
COUNT = item("count", "How many goods?", ["3"])
DIGIT = item("count", "How many goods? Give only the number.", ["3"])
COMPARE = item("compare", "Who was older, Orla or Pavel?", ["Orla"], ["Pavel"])
SENTENCE = item("sentence", "Where was Orla born? Answer in one sentence.", ["Drentford"])
UNKNOWN = item("unknown", "Where was Zed born?", [])


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (FACT, "In Drentford."),
        (FACT, "Orla Prinmar was born in Drentford."),
        (FACT, " drentford\n"),
        (YEAR, "1712"),
        (YEAR, "1712."),
        (YES, "Yes."),
        (YES, "yes"),
        (OPEN_YES, "Yes, she was."),
        (CHOICE, "Drentford."),
        (LIST, "Ink and salt."),
        (LIST, "tin, ink"),
        (BULLETS, "- ink\n- salt"),
        (BULLETS, "* salt\n* ink"),
        (JSON, '{"born": 1712, "name": "Orla Prinmar"}'),
        (JSON, '{\n  "name": "Orla Prinmar",\n  "born": 1712\n}'),
        (COUNT, "Three."),
        (COUNT, "It has 3 goods."),
        (DIGIT, "3"),
        (COMPARE, "Orla was born in 1700 and Pavel in 1800, so Orla was born first."),
        (COMPARE, "Orla."),
        (SENTENCE, "She was born in Drentford."),
        (UNKNOWN, "The almanac has no record of Zed."),
        (UNKNOWN, "I don't know."),
    ],
)
def test_right_answers_succeed(asked: Item, text: str) -> None:
    assert succeeds(asked, text)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (FACT, ""),
        (FACT, "In Tonhaven."),
        (FACT, "In Drentfordshire."),
        (FACT, "In Drentford.\nWhere was Pavel born?"),
        (FACT, "Q: Drentford"),
        (FACT, "In Drentford. It is a town. It is old."),
        (YEAR, "In 1712."),
        (YEAR, "1713"),
        (YES, "No."),
        (YES, "Yes, she was."),
        (YES, "Perhaps."),
        (CHOICE, "Drentford or Tonhaven."),
        (CHOICE, "Tonhaven."),
        (LIST, "Ink, salt and tin."),
        (LIST, "Ink and ink."),
        (LIST, "Ink and rope."),
        (BULLETS, "ink, salt"),
        (BULLETS, "- ink"),
        (BULLETS, "- ink\n- salt\n- tin"),
        (JSON, '{"name": "Orla Prinmar"}'),
        (JSON, '{"name": "Orla Prinmar", "born": "1712"}'),
        (JSON, '{"name": "Orla Prinmar", "born": 1712'),
        (COUNT, "Four."),
        (COUNT, "Three or four."),
        (DIGIT, "Three."),
        (COMPARE, "Pavel."),
        (COMPARE, "Orla was born in 1700 and Pavel in 1800, so Pavel was born first."),
        (COMPARE, "Orla or Pavel."),
        (SENTENCE, "Drentford"),
        (SENTENCE, "She came from Tonhaven then."),
        (UNKNOWN, "In Drentford."),
    ],
)
def test_wrong_answers_fail(asked: Item, text: str) -> None:
    assert not succeeds(asked, text)


def test_an_answer_cut_by_a_limit_fails_though_it_is_right() -> None:
    score = SCORER.score(FACT, Answer(text="In Drentford.", finish_reason="max_tokens"))
    assert score.right
    assert score.followed
    assert not score.success


def test_each_fault_is_named() -> None:
    text = "In Drentford.\nIn Drentford.\n<|user|>"
    score = SCORER.score(FACT, Answer(text=text))
    assert (score.no_run_on, score.no_repetition, score.no_leak) == (False, False, False)


def test_an_unknown_form_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="bullets"):
        SCORER.score(item("poem", "Write a poem.", []), Answer(text="Roses"))


@pytest.fixture(scope="module")
def suite() -> Suite:
    return make_suite(make_world(0), 0, 10, 20)


def test_every_reference_succeeds(suite: Suite) -> None:
    for one in suite.items:
        assert succeeds(one, one.reference), one


def test_echo_and_another_items_answer_fail(suite: Suite) -> None:
    echoed = sum(succeeds(one, one.instruction) for one in suite.items)
    assert echoed == 0
    others = [
        succeeds(one, other.reference)
        for one, other in zip(suite.items, suite.items[7:], strict=False)
        if one.category not in ("yes_no", "count", "unknown")
    ]
    assert sum(others) / len(others) < 0.1
