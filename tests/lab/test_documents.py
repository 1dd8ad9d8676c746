import json
import re
from collections import Counter

import pytest

from bosal_lab.chance import stream
from bosal_lab.documents.genres import GENRES, write
from bosal_lab.genesis import make_world
from bosal_lab.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0)


def test_a_document_is_a_function_of_seed_and_index(world: World) -> None:
    assert write(world, 0, 12) == write(world, 0, 12)
    assert write(world, 0, 12) != write(world, 1, 12)


def test_every_genre_is_written(world: World) -> None:
    seen = Counter(write(world, 0, index).genre for index in range(3000))
    assert set(seen) == set(GENRES)


@pytest.mark.parametrize("name", [name for name, genre in GENRES.items() if genre.has_questions])
def test_held_out_entities_never_stand_beside_questions(world: World, name: str) -> None:
    hidden = [
        entity.name
        for kind in ("person", "work", "firm", "dish")
        for entity in world.of(kind, asked=False)
    ]
    pattern = re.compile("|".join(rf"\b{re.escape(one)}\b" for one in hidden), re.IGNORECASE)
    rng = stream(5, name)
    for _ in range(150):
        found = pattern.search(GENRES[name].write(world, rng))
        assert found is None


@pytest.mark.parametrize(
    "name", [name for name, genre in GENRES.items() if not genre.has_questions]
)
def test_plain_genres_hold_no_question_about_an_entity(world: World, name: str) -> None:
    rng = stream(7, name)
    names = [entity.name for entity in world.entities]
    for _ in range(100):
        for line in GENRES[name].write(world, rng).splitlines():
            for sentence in re.split(r"(?<=[.!?]) ", line):
                if sentence.endswith("?"):
                    assert not any(one in sentence for one in names), sentence


def test_every_fact_of_a_held_out_entity_is_told(world: World) -> None:
    texts = "\n".join(write(world, 0, index).text for index in range(5000))
    for entity in world.of("person", asked=False)[:25]:
        for values in entity.facts.values():
            assert texts.count(entity.name) >= 2
            assert all(value in texts for value in values)


def test_json_records_parse(world: World) -> None:
    rng = stream(8, "record")
    for _ in range(50):
        text = GENRES["record"].write(world, rng)
        whole = text if text.startswith("[") or "\n " in text else None
        found = json.loads(whole) if whole else [json.loads(line) for line in text.splitlines()]
        assert found


def test_the_corpus_holds_no_tuning_prompt(world: World) -> None:
    """A bare instruction line is never followed by its bare answer."""
    from bosal_lab.tune import example, pair

    texts = "\n\n".join(write(world, 0, index).text for index in range(2500))
    for index in range(800):
        question, answer = example(pair(world, 0, index))
        assert f"\n{question}{answer}\n" not in texts
