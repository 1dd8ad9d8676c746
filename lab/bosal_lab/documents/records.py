"""Structured text: tables, records, configuration, lists, chronicles, recipes, registers."""

from __future__ import annotations

import json
from random import Random

from bosal_lab import relations
from bosal_lab.asks import as_record
from bosal_lab.documents.prose import any_entity, line
from bosal_lab.telling import counted, joined, tell
from bosal_lab.world import Entity, World

HEADERS = {
    "person": "People", "work": "Works", "town": "Towns", "firm": "Firms", "dish": "Dishes"
}  # fmt: skip


ROWS = ("person", "person", "work", "town", "firm", "dish")
DATED = ("person", "person", "work", "town", "firm")


def _rows(
    world: World, rng: Random, low: int, high: int, kinds: tuple[str, ...] = ROWS
) -> list[Entity]:
    kind = rng.choice(kinds)
    return rng.sample(world.of(kind), k=rng.randrange(low, high))


def table(world: World, rng: Random) -> str:
    """Write a table of some relations of several entities."""
    rows = _rows(world, rng, 3, 9)
    found = [one for one in relations.kind(rows[0].kind).relations if not one.is_list]
    columns = rng.sample(found, k=rng.randrange(2, len(found) + 1))
    bar = rng.choice((" | ", " | ", ", ", "; "))
    lines = [bar.join(["name", *(column.field for column in columns)])]
    if bar == " | " and rng.random() < 0.5:
        lines.append(bar.join(["---"] * (len(columns) + 1)))
    for entity in rows:
        lines.append(bar.join([entity.name, *(joined(entity.facts[c.name]) for c in columns)]))
    return "\n".join(lines)


def record(world: World, rng: Random) -> str:
    """Write one or several JSON records."""
    style = rng.random()
    lines = []
    for _ in range(1 if style < 0.2 else rng.randrange(2, 7)):
        entity = any_entity(world, rng)
        told = [one for one in relations.kind(entity.kind).relations if one.name in entity.facts]
        chosen = rng.sample(told, k=rng.randrange(1, len(told) + 1))
        indent = 2 if style < 0.2 else None
        lines.append(json.dumps(as_record(entity, chosen), indent=indent))
    if style > 0.85:
        return "[\n" + ",\n".join(lines) + "\n]"
    return "\n".join(lines)


def settings(world: World, rng: Random) -> str:
    """Write a configuration file that describes entities."""
    lines = []
    mark = rng.choice((" = ", ": ", "="))
    for _ in range(rng.randrange(1, 5)):
        entity = any_entity(world, rng)
        lines.append(f"[{entity.name}]" if mark != ": " else f"name: {entity.name}")
        for relation in relations.kind(entity.kind).relations:
            if relation.name in entity.facts:
                lines.append(f"{relation.field}{mark}{', '.join(entity.facts[relation.name])}")
        lines.append("")
    return "\n".join(lines).rstrip()


def register(world: World, rng: Random) -> str:
    """Write the terse entries of a reference book."""
    lines = []
    for entity in _rows(world, rng, 2, 8):
        told = [one for one in relations.kind(entity.kind).relations if one.name in entity.facts]
        rng.shuffle(told)
        facts = "; ".join(f"{one.field} {joined(entity.facts[one.name])}" for one in told)
        lines.append(f"{entity.name}: {facts}.")
    return "\n".join(lines)


def chronicle(world: World, rng: Random) -> str:
    """List dated facts in the order of their years."""
    dated: list[tuple[str, str]] = []
    for entity in _rows(world, rng, 4, 12, DATED):
        found = next(one for one in relations.kind(entity.kind).relations if one.is_year)
        year = entity.facts[found.name][0]
        verb = {"born": "born", "made": "finished"}.get(found.name, found.name)
        dated.append((year, f"{entity.name} {verb}"))
    dated.sort()
    return rng.choice(("Chronicle\n", "", "Dates\n\n")) + "\n".join(f"{y}: {t}" for y, t in dated)


def ranking(world: World, rng: Random) -> str:
    """Put two dated entities side by side and say which came first."""
    lines = []
    for _ in range(rng.randrange(1, 6)):
        one, other = _rows(world, rng, 2, 3, DATED)
        relation = next(found for found in relations.kind(one.kind).relations if found.is_year)
        years = one.facts[relation.name][0], other.facts[relation.name][0]
        if years[0] == years[1]:
            continue
        first = one if years[0] < years[1] else other
        lines.append(relation.verdict.format(
            a=one.name, b=other.name, x=years[0], y=years[1], w=first.name
        ))  # fmt: skip
    return rng.choice(("\n", " ")).join(lines) or line(rng, "neutral")


def shopping(world: World, rng: Random) -> str:
    """List the parts of things, as bullets or in a row."""
    parts = []
    for _ in range(rng.randrange(1, 6)):
        entity = any_entity(world, rng)
        relation = next(
            (one for one in relations.kind(entity.kind).relations
             if one.is_list and one.name in entity.facts), None
        )  # fmt: skip
        if relation is None:
            continue
        values = entity.facts[relation.name]
        head = rng.choice((
            entity.name, f"{entity.name}, {relation.field}", f"{relation.field} of {entity.name}",
            f"{entity.name} ({counted(relation, len(values))})",
        ))  # fmt: skip
        mark = rng.choice(("- ", "- ", "* ", " - ", " * "))
        parts.append(f"{head}:\n" + "\n".join(mark + value for value in values))
    return "\n\n".join(parts) or line(rng, "boilerplate")


def recipe(world: World, rng: Random) -> str:
    """Write down how a dish is made."""
    dish = rng.choice(world.of("dish"))
    values = list(dish.facts["ingredients"])
    mark = rng.choice(("- ", "* ", ""))
    steps = [
        f"Wash the {values[0]} and cut it small.",
        f"Put the {values[-1]} into a pot and add water.",
        "Cook it slowly for an hour.",
        "Add salt and serve it hot.",
        "Let it rest before serving.",
    ]
    body = rng.sample(steps, k=rng.randrange(2, 5))
    facts = [tell(rng, dish, name) for name in rng.sample(list(dish.facts), k=2)]
    listed = "\n".join(mark + value for value in values)
    return f"Recipe: {dish.name}\n{' '.join(facts)}\n\nIngredients:\n{listed}\n\n{' '.join(body)}"


def natives(world: World, rng: Random) -> str:
    """List who and what belongs to one town."""
    town = rng.choice(world.of("town"))
    relation, head = rng.choice((
        ("birthplace", "Born in"), ("seat", "Firms of"), ("origin", "Dishes of")
    ))  # fmt: skip
    kind = {"birthplace": "person", "seat": "firm", "origin": "dish"}[relation]
    found = [one.name for one in world.of(kind) if one.facts[relation] == (town.name,)]
    facts = " ".join(tell(rng, town, name, is_known=True) for name in town.facts)
    mark = rng.choice(("- ", "* ", ""))
    return f"{town.name}. {facts}\n{head} {town.name}:\n" + "\n".join(mark + one for one in found)
