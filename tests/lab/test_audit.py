from itertools import islice

import pytest

from bosal_client.requests import Message
from bosal_lab import corpus
from bosal_lab.audit import find_copies
from bosal_lab.genesis import make_world
from bosal_lab.item import Item, Suite
from bosal_lab.suite import make_suite
from bosal_lab.tune import example, pair
from bosal_lab.world import World


def item(text: str) -> Item:
    message = Message(role="user", text=text)
    return Item(id=text, category="fact", split="dev", messages=(message,))


def test_a_copy_is_found_whatever_its_case_and_punctuation() -> None:
    asked = item("In which town was Orla Prinmar born?")
    found = find_copies([asked], ["nothing here", "in which town was orla prinmar born"])
    assert found.exact == (asked.id,)
    assert not found.is_clean


def test_a_near_copy_is_found_by_its_overlap() -> None:
    asked = item("In which town was Orla Prinmar born, please?")
    found = find_copies([asked], ["In which town was Orla Prinmar born?"], limit=0.7)
    assert not found.exact
    assert [match.item for match in found.near] == [asked.id]
    assert found.near[0].overlap == pytest.approx(4 / 5)


def test_another_name_in_the_same_wording_is_no_copy() -> None:
    asked = item("In which town was Orla Prinmar born?")
    found = find_copies([asked], ["In which town was Pavel Hindosk born?"])
    assert found.is_clean
    assert found.nearest is not None
    assert found.nearest.overlap == pytest.approx(1 / 4)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0)


@pytest.fixture(scope="module")
def suite(world: World) -> Suite:
    return make_suite(world, 0, 15, 55)


def test_the_suite_is_not_in_the_corpus(world: World, suite: Suite) -> None:
    documents = islice(corpus.texts(world, 0), 2500)
    lines = (line for document in documents for line in document.splitlines())
    found = find_copies(suite.items, lines)
    assert found.exact == ()


def test_the_suite_is_not_in_the_tuning_set(world: World, suite: Suite) -> None:
    prompts = (example(pair(world, 0, index))[0] for index in range(2500))
    assert find_copies(suite.items, prompts).exact == ()
