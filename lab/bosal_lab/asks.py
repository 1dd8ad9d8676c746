"""Makers of instructions about the world, one for each form.

The corpus, the tuning set and the suite all draw from here, over different entities and wordings.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random

from bosal_lab import relations
from bosal_lab.ask import Ask, Style
from bosal_lab.phrases import BULLETS, NUMBER_ONLY, ONE_SENTENCE, RECORDS, SOME, YEAR_ONLY, YES_NO
from bosal_lab.relations import Relation
from bosal_lab.telling import COUNTS, capital, fill, joined, summary
from bosal_lab.world import Entity, World

Maker = Callable[[World, Random, Entity, Style], Ask | None]


def _told(entity: Entity, is_list: bool | None = None) -> list[Relation]:
    """Return the relations an entity has values for."""
    return [
        relation
        for relation in relations.kind(entity.kind).relations
        if relation.name in entity.facts and is_list in (None, relation.is_list)
    ]


def _pick(rng: Random, found: list[Relation]) -> Relation | None:
    return rng.choice(found) if found else None


def _question(rng: Random, entity: Entity, relation: Relation, style: Style) -> str:
    wordings = relation.questions if rng.random() < 0.6 else relation.requests
    return fill(wordings.draw(rng, style.is_new), entity, relation)


def _ask(
    form: str,
    entity: Entity,
    relation: Relation,
    instruction: str,
    answer: str,
    style: Style,
    expected: tuple[str, ...] | None = None,
) -> Ask:
    return Ask(
        form=form,
        entity=entity.name,
        relation=relation.name,
        instruction=instruction,
        answer=answer,
        expected=entity.facts[relation.name] if expected is None else expected,
        is_new_wording=style.is_new,
    )


def _others(world: World, rng: Random, relation: Relation, entity: Entity, count: int) -> list[str]:
    """Draw wrong values: of a question-form entity only those that may stand in a question."""
    right = entity.facts[relation.name][0]
    found = [value for value in world.values[relation.name] if value != right]
    if entity.is_asked:
        found = [
            value
            for value in found
            if value not in world.by_name
            or world.by_name[value].is_asked
            or world.by_name[value].kind == "town"
        ]
    return rng.sample(found, k=count)


def fact(world: World, rng: Random, entity: Entity, style: Style) -> Ask | None:
    """Ask for one value."""
    relation = _pick(rng, _told(entity, is_list=False))
    if relation is None:
        return None
    template = rng.choice(relation.sentences) if style.is_full else relation.short
    instruction = _question(rng, entity, relation, style)
    return _ask("fact", entity, relation, instruction, fill(template, entity, relation), style)


def year(world: World, rng: Random, entity: Entity, style: Style) -> Ask | None:
    """Ask for a year and nothing else."""
    relation = _pick(rng, [found for found in _told(entity) if found.is_year])
    if relation is None:
        return None
    instruction = f"{_question(rng, entity, relation, style)} {rng.choice(YEAR_ONLY)}"
    return _ask("year", entity, relation, instruction, entity.facts[relation.name][0], style)


def yes_no(world: World, rng: Random, entity: Entity, style: Style) -> Ask | None:
    """Ask whether a value is the right one."""
    relation = _pick(rng, [found for found in _told(entity, is_list=False) if found.verify.all])
    if relation is None:
        return None
    is_true = rng.random() < 0.5
    right = entity.facts[relation.name][0]
    value = right if is_true else _others(world, rng, relation, entity, 1)[0]
    instruction = fill(relation.verify.draw(rng, style.is_new), entity, relation, [value])
    if rng.random() < 0.6:
        instruction = f"{instruction} {rng.choice(YES_NO)}"
    answer = "Yes." if is_true else "No."
    return _ask("yes_no", entity, relation, instruction, answer, style, (answer[:-1].lower(),))


def choose(world: World, rng: Random, entity: Entity, style: Style) -> Ask | None:
    """Ask which of three values is the right one."""
    relation = _pick(rng, _told(entity, is_list=False))
    if relation is None:
        return None
    options = [*_others(world, rng, relation, entity, 2), entity.facts[relation.name][0]]
    wrong = tuple(options[:2])
    rng.shuffle(options)
    offer = f"{', '.join(options[:-1])} or {options[-1]}"
    question = fill(relation.questions.draw(rng, style.is_new), entity, relation)
    if rng.random() < 0.5:
        instruction = f"{question[:-1]}: {offer}?"
    else:
        instruction = f"{question} Choose one: {offer}."
    answer = fill(relation.short, entity, relation)
    return replace(_ask("choose", entity, relation, instruction, answer, style), wrong=wrong)


def listing(world: World, rng: Random, entity: Entity, style: Style) -> Ask | None:
    """Ask for a list, or for the first few of it."""
    relation = _pick(rng, _told(entity, is_list=True))
    if relation is None:
        return None
    values = entity.facts[relation.name]
    if len(values) > 2 and rng.random() < 0.4:
        wanted = rng.randrange(2, len(values))
        instruction = rng.choice(SOME).format(k=COUNTS[wanted], t=relation.things, n=entity.name)
        answer = capital(joined(values[:wanted])) + "."
        return _ask("list", entity, relation, instruction, answer, style, (str(wanted), *values))
    instruction = _question(rng, entity, relation, style)
    answer = capital(joined(values)) + "."
    return _ask("list", entity, relation, instruction, answer, style, (str(len(values)), *values))


def bullets(world: World, rng: Random, entity: Entity, style: Style) -> Ask | None:
    """Ask for a list with one line for each value."""
    relation = _pick(rng, _told(entity, is_list=True))
    if relation is None:
        return None
    values = entity.facts[relation.name]
    instruction = f"{_question(rng, entity, relation, style)} {rng.choice(BULLETS)}"
    answer = "\n".join(f"- {value}" for value in values)
    return _ask("bullets", entity, relation, instruction, answer, style)


def record(world: World, rng: Random, entity: Entity, style: Style) -> Ask | None:
    """Ask for a JSON object with given fields."""
    told = _told(entity)
    if len(told) < 2:
        return None
    chosen = rng.sample(told, k=rng.choice((1, 2, 2, 3) if len(told) > 2 else (1, 2)))
    fields = joined(["name", *(relation.field for relation in chosen)])
    wordings = RECORDS[-1:] if style.is_new else RECORDS[:-1]
    instruction = rng.choice(wordings).format(n=entity.name, f=fields)
    answer = json.dumps(as_record(entity, chosen))
    return _ask("json", entity, chosen[0], instruction, answer, style, (answer,))


def as_record(entity: Entity, chosen: list[Relation]) -> dict[str, object]:
    """Return an entity's record with the chosen fields: years as numbers, lists as arrays."""
    found: dict[str, object] = {"name": entity.name}
    for relation in chosen:
        values = entity.facts[relation.name]
        if relation.is_list:
            found[relation.field] = list(values)
        else:
            found[relation.field] = int(values[0]) if relation.is_year else values[0]
    return found


def count(world: World, rng: Random, entity: Entity, style: Style) -> Ask | None:
    """Ask how many values a list has."""
    relation = _pick(rng, _told(entity, is_list=True))
    if relation is None:
        return None
    number = len(entity.facts[relation.name])
    instruction = fill(relation.count.draw(rng, style.is_new), entity, relation)
    answer = capital(COUNTS[number]) + "."
    if rng.random() < 0.5:
        instruction, answer = f"{instruction} {rng.choice(NUMBER_ONLY)}", str(number)
    return _ask("count", entity, relation, instruction, answer, style, (str(number),))


def compare(world: World, rng: Random, entity: Entity, style: Style) -> Ask | None:
    """Ask which of two entities came first; the answer says both years."""
    relation = next((found for found in _told(entity) if found.compare.all), None)
    if relation is None:
        return None
    name = relation.name
    others = [
        other
        for other in world.of(entity.kind, entity.is_asked)
        if abs(int(other.facts[name][0]) - int(entity.facts[name][0])) > 5
    ]
    other = rng.choice(others)
    first = min((entity, other), key=lambda one: int(one.facts[name][0]))
    wording = relation.compare.draw(rng, style.is_new)
    answer = relation.verdict.format(
        a=entity.name, b=other.name, x=entity.facts[name][0], y=other.facts[name][0], w=first.name
    )
    made = _ask(
        "compare",
        entity,
        relation,
        wording.format(a=entity.name, b=other.name),
        answer,
        style,
        (first.name,),
    )
    return replace(made, wrong=((other if first is entity else entity).name,))


def sentence(world: World, rng: Random, entity: Entity, style: Style) -> Ask | None:
    """Ask for one full sentence."""
    if rng.random() < 0.4:
        wording = relations.kind(entity.kind).describe.draw(rng, style.is_new)
        wanted = relations.kind(entity.kind)
        named = [found for found in wanted.relations if f"{{{found.name}}}" in wanted.summary]
        expected = tuple(value for found in named for value in entity.facts[found.name])
        return _ask(
            "sentence",
            entity,
            named[0],
            wording.format(n=entity.name),
            summary(entity),
            style,
            expected,
        )
    relation = _pick(rng, _told(entity, is_list=False))
    if relation is None:
        return None
    instruction = f"{_question(rng, entity, relation, style)} {rng.choice(ONE_SENTENCE)}"
    answer = fill(rng.choice(relation.sentences), entity, relation)
    return _ask("sentence", entity, relation, instruction, answer, style)


def unknown(world: World, rng: Random, entity: Entity, style: Style) -> Ask | None:
    """Ask about a stranger of the entity's kind."""
    stranger = world.stranger(entity.kind, rng)
    relation = rng.choice(relations.kind(entity.kind).relations)
    instruction = _question(rng, stranger, relation, style)
    return _ask(
        "unknown", stranger, relation, instruction, style.unknown.format(n=stranger.name), style, ()
    )


def follow_up(world: World, rng: Random, entity: Entity, style: Style) -> Ask | None:
    """Ask a first question, then a second that names the entity by pronoun only."""
    told = _told(entity, is_list=False)
    if len(told) < 2:
        return None
    first, second = rng.sample(told, k=2)
    opening = _question(rng, entity, first, style)
    template = "sentences" if style.is_full else "short"

    def answer(relation: Relation) -> str:
        chosen = rng.choice(relation.sentences) if template == "sentences" else relation.short
        return fill(chosen, entity, relation)

    instruction = fill(second.follow.draw(rng, style.is_new), entity, second)
    made = _ask("follow_up", entity, second, instruction, answer(second), style)
    return replace(made, earlier=((opening, answer(first)),))


FORMS: dict[str, Maker] = {
    "fact": fact,
    "year": year,
    "yes_no": yes_no,
    "choose": choose,
    "list": listing,
    "bullets": bullets,
    "json": record,
    "count": count,
    "compare": compare,
    "sentence": sentence,
    "unknown": unknown,
    "follow_up": follow_up,
}


def make(form: str, world: World, rng: Random, asked: bool, style: Style | None = None) -> Ask:
    """Make one ask of a form about a random entity on one side of the split."""
    kinds = ("town", "dish", "person", "work", "firm")
    while True:
        entity = rng.choice(world.of(rng.choice(kinds), asked))
        made = FORMS[form](world, rng, entity, style or Style())
        if made is not None:
            return made
