"""Putting one fact into words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from bosal_lab import relations
from bosal_lab.relations import Relation
from bosal_lab.world import Entity

COUNTS = ("no", "one", "two", "three", "four", "five", "six")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")


def joined(values: Sequence[str]) -> str:
    """Join values as prose does."""
    if len(values) < 2:
        return "".join(values)
    return f"{', '.join(values[:-1])} and {values[-1]}"


def capital(text: str) -> str:
    """Capitalise the first letter only."""
    return text[:1].upper() + text[1:]


def counted(relation: Relation, count: int) -> str:
    """Return a count with its noun."""
    return f"{COUNTS[count]} {relation.things if count != 1 else relation.things.rstrip('s')}"


def fill(
    template: str,
    entity: Entity,
    relation: Relation | None = None,
    values: Sequence[str] | None = None,
    mention: str = "",
) -> str:
    """Fill a template for an entity; `mention` replaces the subject at the start."""
    if values is None:
        values = entity.facts.get(relation.name, ()) if relation else ()
    value = joined(values)
    text = template.format(
        s=mention or entity.name,
        n=entity.name,
        o=value,
        O=capital(value),
        c=counted(relation, len(values)) if relation and relation.is_list else "",
        p=entity.pronoun,
        h=entity.possessive,
    )
    return _ARTICLE.sub(r"\1n ", capital(text))


def tell(rng: Random, entity: Entity, name: str, is_known: bool = False) -> str:
    """Tell one fact in one of its wordings; a known subject may be a pronoun."""
    relation = relations.relation(entity.kind, name)
    template = rng.choice(relation.prose)
    mention = ""
    if is_known and template.startswith("{s}"):
        mention = rng.choice((entity.pronoun, entity.pronoun, entity.short, entity.name))
    return fill(template, entity, relation, mention=mention)


def summary(entity: Entity) -> str:
    """Return the sentence that sums an entity up."""
    template = relations.kind(entity.kind).summary
    values = {name: joined(found) for name, found in entity.facts.items()}
    return _ARTICLE.sub(r"\1n ", capital(template.format(n=entity.name, **values)))
