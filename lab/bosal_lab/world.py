"""A closed fictional world: its entities, their facts, and which of them are ever asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random

from bosal_lab import names

KINDS = ("person", "work", "town", "firm", "dish")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """One thing of the world; `facts` maps a relation to its values, in their order."""

    kind: str
    name: str
    pronoun: str
    is_asked: bool
    facts: Mapping[str, tuple[str, ...]]

    @property
    def short(self) -> str:
        """Return the name a second mention uses."""
        return self.name.split()[-1] if self.kind == "person" else self.name

    @property
    def possessive(self) -> str:
        """Return the pronoun's possessive."""
        return {"he": "his", "she": "her"}.get(self.pronoun, "its")


@dataclass(frozen=True, kw_only=True)
class World:
    """All entities under one seed."""

    seed: int
    entities: tuple[Entity, ...]

    @cached_property
    def by_name(self) -> dict[str, Entity]:
        """Return the entities by full name."""
        return {entity.name: entity for entity in self.entities}

    @cached_property
    def _groups(self) -> dict[tuple[str, bool | None], tuple[Entity, ...]]:
        groups: dict[tuple[str, bool | None], list[Entity]] = {}
        for entity in self.entities:
            groups.setdefault((entity.kind, None), []).append(entity)
            groups.setdefault((entity.kind, entity.is_asked), []).append(entity)
        return {key: tuple(group) for key, group in groups.items()}

    def of(self, kind: str, asked: bool | None = None) -> tuple[Entity, ...]:
        """Return the entities of a kind: all, or only those (not) asked about."""
        return self._groups[kind, asked]

    @cached_property
    def values(self) -> dict[str, tuple[str, ...]]:
        """Return every value each relation takes anywhere, sorted."""
        found: dict[str, set[str]] = {}
        for entity in self.entities:
            for relation, values in entity.facts.items():
                found.setdefault(relation, set()).update(values)
        return {relation: tuple(sorted(values)) for relation, values in found.items()}

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(word.lower() for entity in self.entities for word in entity.name.split())

    def stranger(self, kind: str, rng: Random) -> Entity:
        """Invent an entity this world does not hold."""
        make = {"town": names.town, "firm": names.firm, "dish": names.dish}.get(kind, names.root)
        while (name := make(rng)).split()[0].lower() in self._words:
            pass
        pronoun = "it"
        if kind == "person":
            pronoun = rng.choice(("he", "she"))
            name = f"{names.first_name(rng, pronoun)} {name}"
        return Entity(kind=kind, name=name, pronoun=pronoun, is_asked=True, facts={})
