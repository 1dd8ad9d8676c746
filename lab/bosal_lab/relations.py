"""The relations of the world with the wordings that tell them and ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from bosal_lab.pools import read_table

_HELD_BACK_FROM = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wordings:
    """Templates of one purpose; the last of a long list is held back for the suite."""

    all: tuple[str, ...]

    @property
    def seen(self) -> tuple[str, ...]:
        """Return the wordings the corpus and the tuning set may use."""
        return self.all[:-1] if len(self.all) >= _HELD_BACK_FROM else self.all

    @property
    def new(self) -> tuple[str, ...]:
        """Return the wordings kept for the suite: empty for short lists."""
        return self.all[-1:] if len(self.all) >= _HELD_BACK_FROM else ()

    def draw(self, rng: Random, is_new: bool = False) -> str:
        """Draw a wording, one the corpus never saw if asked for and there is one."""
        return rng.choice(self.new if is_new and self.new else self.seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One relation of one kind of entity."""

    name: str
    kind: str
    field: str
    is_year: bool
    is_list: bool
    things: str
    short: str
    verdict: str
    prose: tuple[str, ...]
    sentences: tuple[str, ...]
    questions: Wordings
    requests: Wordings
    verify: Wordings
    follow: Wordings
    count: Wordings
    compare: Wordings


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is shared by the relations of one kind of entity."""

    name: str
    summary: str
    describe: Wordings
    relations: tuple[Relation, ...]


def _relation(kind: str, name: str, table: dict[str, Any]) -> Relation:
    def wordings(key: str) -> Wordings:
        return Wordings(all=tuple(table.get(key, ())))

    return Relation(
        name=name,
        kind=kind,
        field=table["field"],
        is_year=table.get("is_year", False),
        is_list=table.get("is_list", False),
        things=table.get("things", ""),
        short=table.get("short", "{O}."),
        verdict=table.get("verdict", ""),
        prose=tuple(table["prose"]),
        sentences=tuple(table["sentences"]),
        questions=wordings("questions"),
        requests=wordings("requests"),
        verify=wordings("verify"),
        follow=wordings("follow"),
        count=wordings("count"),
        compare=wordings("compare"),
    )


@cache
def kind(name: str) -> Kind:
    """Return a kind of entity with its relations."""
    table = read_table(name)
    relations = {key: value for key, value in table.items() if isinstance(value, dict)}
    return Kind(
        name=name,
        summary=table["summary"],
        describe=Wordings(all=tuple(table["describe"])),
        relations=tuple(_relation(name, key, value) for key, value in relations.items()),
    )


@cache
def relation(kind_name: str, name: str) -> Relation:
    """Return one relation of a kind."""
    return next(found for found in kind(kind_name).relations if found.name == name)


@cache
def filler(pool: str) -> Sequence[str]:
    """Return the fact-free lines of a pool."""
    return tuple(read_table("filler")[pool])
