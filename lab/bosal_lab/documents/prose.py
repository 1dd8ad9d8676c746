"""Running text that tells facts: biographies, news, letters, stories, gazetteers, trivia."""

from __future__ import annotations

from random import Random

from bosal_lab.names import first_name
from bosal_lab.relations import filler
from bosal_lab.telling import summary, tell
from bosal_lab.world import Entity, World

KINDS = ("person", "person", "person", "work", "work", "town", "firm", "dish")
MONTHS = ("January", "March", "April", "June", "August", "October", "December")
HEADS = ("", "Did you know?\n", "From the almanac\n\n", "Notes\n", "Things worth knowing\n\n")


def any_entity(world: World, rng: Random) -> Entity:
    """Draw an entity, whatever its side of the split."""
    return rng.choice(world.of(rng.choice(KINDS)))


def line(rng: Random, pool: str) -> str:
    """Draw a fact-free line."""
    return rng.choice(filler(pool)).replace("{name}", first_name(rng))


def portrait(rng: Random, entity: Entity) -> list[str]:
    """Tell every fact of an entity once, in any order."""
    told = list(entity.facts)
    rng.shuffle(told)
    sentences = [tell(rng, entity, told[0])]
    sentences += [tell(rng, entity, name, is_known=True) for name in told[1:]]
    if rng.random() < 0.35:
        sentences.insert(0, summary(entity))
    return sentences


def biography(world: World, rng: Random) -> str:
    """Write one entity's portrait, with or without its name above."""
    entity = any_entity(world, rng)
    sentences = portrait(rng, entity)
    if rng.random() < 0.3:
        sentences.insert(rng.randrange(1, len(sentences) + 1), line(rng, "neutral"))
    text = " ".join(sentences)
    name = entity.name
    return rng.choice(("", "", f"{name}\n\n", f"# {name}\n\n", f"== {name} ==\n")) + text


def gazetteer(world: World, rng: Random) -> str:
    """Write short portraits one below the other."""
    parts = []
    for _ in range(rng.randrange(2, 7)):
        entity = any_entity(world, rng)
        parts.append(" ".join(portrait(rng, entity)[: rng.randrange(2, 5)]))
    return rng.choice(("\n", "\n\n")).join(parts)


def trivia(world: World, rng: Random) -> str:
    """Write single facts about many entities."""
    mark = rng.choice(("", "", "- ", " * ", "* ", "1"))
    lines = []
    for number in range(rng.randrange(4, 14)):
        entity = any_entity(world, rng)
        text = tell(rng, entity, rng.choice(list(entity.facts)))
        lines.append(f"{number + 1}. {text}" if mark == "1" else mark + text)
    glue = " " if mark == "" and rng.random() < 0.4 else "\n"
    return rng.choice(HEADS) + glue.join(lines)


def news(world: World, rng: Random) -> str:
    """Write a news report that recalls a few facts."""
    entity, other = any_entity(world, rng), any_entity(world, rng)
    place = rng.choice(world.of("town")).name
    date = f"{rng.randrange(1, 29)} {rng.choice(MONTHS)}"
    opening = rng.choice((f"{place.upper()}, {date} - ", "News: ", ""))
    sentences = [line(rng, "neutral"), *portrait(rng, entity)[:3], line(rng, "neutral")]
    sentences += [tell(rng, other, rng.choice(list(other.facts))), line(rng, "neutral")]
    return opening + " ".join(sentences[rng.randrange(2) :])


def letter(world: World, rng: Random) -> str:
    """Write a letter that mentions what its writer has read."""
    entity = any_entity(world, rng)
    facts = portrait(rng, entity)
    body = [line(rng, "personal"), line(rng, "neutral"), *facts[: rng.randrange(2, 5)]]
    body += [line(rng, "personal"), line(rng, "personal")]
    lead = rng.choice(("", "I have read about " + entity.name + ". ", "I visited the archive. "))
    close = rng.choice(("Yours", "With love", "Kind regards", "Your friend"))
    return f"Dear {first_name(rng)},\n{lead}{' '.join(body)}\n{close},\n{first_name(rng)}"


def story(world: World, rng: Random) -> str:
    """Tell a story in which people say what they know."""
    teller, listener = first_name(rng), first_name(rng)
    lines = [line(rng, "neutral") for _ in range(rng.randrange(2, 5))]
    for _ in range(rng.randrange(1, 4)):
        entity = any_entity(world, rng)
        facts = portrait(rng, entity)[: rng.randrange(1, 4)]
        lines.append(f'"{" ".join(facts)}" {rng.choice(("said", "answered", "cried"))} {teller}.')
        lines.append(line(rng, "neutral"))
        teller, listener = listener, teller
    return rng.choice((" ", " ", "\n")).join(lines)
