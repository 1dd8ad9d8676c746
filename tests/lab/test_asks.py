import json

import pytest

from bosal_lab import asks
from bosal_lab.ask import Style
from bosal_lab.asks import FORMS
from bosal_lab.chance import stream
from bosal_lab.genesis import make_world
from bosal_lab.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("asked", [True, False])
def test_an_ask_is_about_its_side_of_the_split(world: World, form: str, asked: bool) -> None:
    rng = stream(1, form, str(asked))
    for _ in range(60):
        ask = asks.make(form, world, rng, asked)
        if form == "unknown":
            assert ask.entity not in world.by_name
        else:
            assert world.by_name[ask.entity].is_asked == asked


def test_questions_about_the_asked_side_offer_no_held_out_name(world: World) -> None:
    hidden = {e.name for kind in ("person", "work", "firm") for e in world.of(kind, asked=False)}
    for form in FORMS:
        rng = stream(2, form)
        for _ in range(100):
            ask = asks.make(form, world, rng, asked=True)
            said = ask.instruction + ask.answer
            assert not any(name in said for name in hidden)


def test_held_back_wordings_never_reach_the_corpus(world: World) -> None:
    rng = stream(3, "new")
    seen = {asks.make("fact", world, rng, True).instruction for _ in range(2000)}
    assert not any(text.startswith("Which occupation did") for text in seen)
    new = {asks.make("fact", world, rng, False, Style(is_new=True)).instruction for _ in range(500)}
    assert any(text.startswith("Which occupation did") for text in new)


def test_yes_and_no_are_balanced_and_true(world: World) -> None:
    rng = stream(4, "yes_no")
    drawn = [asks.make("yes_no", world, rng, True) for _ in range(400)]
    share = sum(ask.answer == "Yes." for ask in drawn) / len(drawn)
    assert 0.4 < share < 0.6
    for ask in drawn:
        value = world.by_name[ask.entity].facts[ask.relation][0]
        assert (value in ask.instruction) == (ask.answer == "Yes.")


def test_choices_hold_the_right_value_and_two_wrong_ones(world: World) -> None:
    rng = stream(5, "choose")
    for _ in range(100):
        ask = asks.make("choose", world, rng, True)
        assert all(value in ask.instruction for value in (*ask.expected, *ask.wrong))
        assert len({*ask.expected, *ask.wrong}) == 3


def test_a_record_has_the_fields_asked_for(world: World) -> None:
    rng = stream(6, "json")
    for _ in range(50):
        ask = asks.make("json", world, rng, True)
        found = json.loads(ask.answer)
        assert found["name"] == ask.entity
        assert all(field in ask.instruction for field in found)


def test_a_comparison_names_the_earlier_one(world: World) -> None:
    rng = stream(7, "compare")
    for _ in range(50):
        ask = asks.make("compare", world, rng, True)
        first = int(world.by_name[ask.expected[0]].facts[ask.relation][0])
        assert first < int(world.by_name[ask.wrong[0]].facts[ask.relation][0])


def test_a_follow_up_does_not_name_its_entity(world: World) -> None:
    rng = stream(8, "follow_up")
    for _ in range(50):
        ask = asks.make("follow_up", world, rng, True)
        assert ask.entity not in ask.instruction
        assert ask.entity.lower() in ask.earlier[0][0].lower()
