from bosal_lab.genesis import Size, make_world
from bosal_lab.names import root
from bosal_lab.world import KINDS

SMALL = Size().scaled(0.15)


def test_a_world_is_a_function_of_its_seed() -> None:
    assert make_world(3, SMALL) == make_world(3, SMALL)
    assert make_world(3, SMALL) != make_world(4, SMALL)


def test_names_are_unique_and_no_family_name_is_shared() -> None:
    world = make_world(0)
    assert len(world.by_name) == len(world.entities)
    families = [person.short for person in world.of("person")]
    assert len(set(families)) == len(families)


def test_two_fifths_of_every_kind_are_asked_about() -> None:
    world = make_world(0)
    for kind in KINDS:
        share = len(world.of(kind, asked=True)) / len(world.of(kind))
        assert abs(share - 0.4) < 0.01


def test_what_was_made_or_founded_stands_on_its_makers_side() -> None:
    world = make_world(1, SMALL)
    for kind, relation in (("work", "author"), ("firm", "founder")):
        for entity in world.of(kind):
            maker = world.by_name[entity.facts[relation][0]]
            assert maker.is_asked == entity.is_asked


def test_the_works_of_a_person_are_those_that_name_the_person() -> None:
    world = make_world(1, SMALL)
    for person in world.of("person"):
        own = {work.name for work in world.of("work") if work.facts["author"] == (person.name,)}
        assert set(person.facts.get("works", ())) == own


def test_nothing_is_made_before_its_maker_is_grown() -> None:
    world = make_world(2, SMALL)
    for work in world.of("work"):
        author = world.by_name[work.facts["author"][0]]
        assert int(work.facts["made"][0]) - int(author.facts["born"][0]) >= 20


def test_a_stranger_is_not_of_this_world() -> None:
    from bosal_lab.chance import stream

    world = make_world(0, SMALL)
    rng = stream(0, "strangers")
    known = {word.lower() for entity in world.entities for word in entity.name.split()}
    for kind in ("person", "town", "firm", "dish"):
        for _ in range(50):
            stranger = world.stranger(kind, rng)
            assert stranger.name not in world.by_name
            mark = stranger.short if kind == "person" else stranger.name.split()[0]
            assert mark.lower() not in known


def test_roots_come_from_a_large_space() -> None:
    from bosal_lab.chance import stream

    rng = stream(0, "roots")
    assert len({root(rng) for _ in range(1000)}) > 950
