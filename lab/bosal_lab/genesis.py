"""Making a world from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from bosal_lab import names
from bosal_lab.chance import stream
from bosal_lab.pools import pool
from bosal_lab.world import KINDS, Entity, World

ASKED_SHARE = 0.4
Facts = dict[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many entities of each kind a world holds."""

    person: int = 800
    work: int = 550
    town: int = 275
    firm: int = 275
    dish: int = 250

    def scaled(self, share: float) -> Size:
        """Return a size with every count multiplied by `share`."""
        return Size(**{kind: max(24, round(getattr(self, kind) * share)) for kind in KINDS})


def _flags(rng: Random, count: int) -> list[bool]:
    flags = [index < round(count * ASKED_SHARE) for index in range(count)]
    rng.shuffle(flags)
    return flags


def _some(rng: Random, name: str, counts: Sequence[int]) -> tuple[str, ...]:
    return tuple(sorted(rng.sample(pool(name), k=rng.choice(counts))))


def _people(rng: Random, families: list[str], towns: list[str]) -> list[Entity]:
    people = []
    for family, is_asked in zip(families, _flags(rng, len(families)), strict=True):
        pronoun = rng.choice(("he", "she"))
        facts = {
            "occupation": (rng.choice(pool("occupations")),),
            "born": (str(rng.randrange(1650, 1930)),),
            "birthplace": (rng.choice(towns),),
            "hobby": (rng.choice(pool("hobbies")),),
        }
        name = f"{names.first_name(rng, pronoun)} {family}"
        people.append(
            Entity(kind="person", name=name, pronoun=pronoun, is_asked=is_asked, facts=facts)
        )
    return people


def _later(rng: Random, person: Entity) -> str:
    return str(int(person.facts["born"][0]) + rng.randrange(20, 60))


def _of_one_side(people: Sequence[Entity], is_asked: bool) -> list[Entity]:
    """Return the people on one side: what was made or founded shares its maker's side."""
    return [person for person in people if person.is_asked == is_asked]


def _works(rng: Random, titles: list[str], people: list[Entity]) -> list[Entity]:
    authors = rng.sample(people, k=len(people) * 2 // 5)
    works = []
    for index, (title, is_asked) in enumerate(zip(titles, _flags(rng, len(titles)), strict=True)):
        group = _of_one_side(authors, is_asked) or _of_one_side(people, is_asked)
        author = group[index % len(group)]
        facts = {
            "work_kind": (rng.choice(pool("work_kinds")),),
            "author": (author.name,),
            "made": (_later(rng, author),),
            "subject": (rng.choice(pool("subjects")),),
        }
        works.append(Entity(kind="work", name=title, pronoun="it", is_asked=is_asked, facts=facts))
    return works


def _with_works(person: Entity, works: Sequence[Entity]) -> Entity:
    own = [work for work in works if work.facts["author"] == (person.name,)]
    if not own:
        return person
    own.sort(key=lambda work: (work.facts["made"], work.name))
    return replace(person, facts={**person.facts, "works": tuple(work.name for work in own)})


def _town(rng: Random) -> Facts:
    return {
        "region": (rng.choice(pool("regions")),),
        "river": (rng.choice(pool("rivers")),),
        "settled": (str(rng.randrange(1050, 1650)),),
        "goods": _some(rng, "goods", (2, 3, 4)),
    }


def _firm(rng: Random, founder: Entity, towns: list[str]) -> Facts:
    return {
        "founder": (founder.name,),
        "seat": (rng.choice(towns),),
        "founded": (_later(rng, founder),),
        "product": (rng.choice(pool("products")),),
    }


def _dish(rng: Random, towns: list[str]) -> Facts:
    return {
        "origin": (rng.choice(towns),),
        "season": (rng.choice(pool("seasons")),),
        "ingredients": _some(rng, "ingredients", (3, 4, 5)),
    }


def make_world(seed: int, size: Size | None = None) -> World:
    """Make the world that belongs to `seed`."""
    size = size or Size()
    rng = stream(seed, "world")
    fixed = (*pool("regions"), *pool("rivers"), *pool("men"), *pool("women"))
    taken = {word.lower() for word in fixed}
    towns = names.unique(names.town, rng, size.town, taken)
    families = names.unique(names.root, rng, size.person, taken)
    firms = names.unique(names.firm, rng, size.firm, taken)
    dishes = names.unique(names.dish, rng, size.dish, taken)
    titles = names.unique(names.title, rng, size.work, taken)

    people = _people(rng, families, towns)
    works = _works(rng, titles, people)
    entities = [*works, *(_with_works(person, works) for person in people)]

    def add(kind: str, name: str, is_asked: bool, facts: Facts) -> None:
        entities.append(Entity(kind=kind, name=name, pronoun="it", is_asked=is_asked, facts=facts))

    for name, is_asked in zip(towns, _flags(rng, len(towns)), strict=True):
        add("town", name, is_asked, _town(rng))
    for name, is_asked in zip(firms, _flags(rng, len(firms)), strict=True):
        founder = rng.choice(_of_one_side(people, is_asked))
        add("firm", name, is_asked, _firm(rng, founder, towns))
    for name, is_asked in zip(dishes, _flags(rng, len(dishes)), strict=True):
        add("dish", name, is_asked, _dish(rng, towns))
    return World(seed=seed, entities=tuple(entities))
