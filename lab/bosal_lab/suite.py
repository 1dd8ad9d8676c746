"""The suite: verifiable instructions about entities that never stood in a question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from bosal_lab.asks import FORMS, Ask, Style
from bosal_lab.chance import stream
from bosal_lab.errors import DamagedFileError
from bosal_lab.world import KINDS, Entity, World

SPLITS = ("dev", "test")
DEV_SHARE = 0.25
NEW_WORDING_SHARE = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One instruction; `turns` alternates user and assistant and ends with the user."""

    id: str
    split: str
    form: str
    entity: str
    relation: str
    turns: tuple[str, ...]
    answer: str
    expected: tuple[str, ...]
    wrong: tuple[str, ...]
    is_new_wording: bool

    @property
    def instruction(self) -> str:
        """Return the last thing the user said."""
        return self.turns[-1]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The items in their order, with the hash that names this version of them."""

    items: tuple[Item, ...]

    @property
    def version(self) -> str:
        """Return the hash of all items."""
        lines = "\n".join(_line(item) for item in self.items)
        return hashlib.blake2b(lines.encode(), digest_size=8).hexdigest()

    def of(self, split: str) -> tuple[Item, ...]:
        """Return one split's items."""
        return tuple(item for item in self.items if item.split == split)


def split_of(entity: str) -> str:
    """Return the split a held-out entity belongs to; no entity is in both."""
    return "dev" if stream(0, "split", entity).random() < DEV_SHARE else "test"


def _entities(world: World, split: str) -> dict[str, list[Entity]]:
    return {
        kind: [one for one in world.of(kind, asked=False) if split_of(one.name) == split]
        for kind in KINDS
    }


def _draw(form: str, world: World, rng: Random, groups: dict[str, list[Entity]]) -> Ask:
    style = Style(is_new=rng.random() < NEW_WORDING_SHARE)
    while True:
        entity = rng.choice(groups[rng.choice([kind for kind in KINDS if groups[kind]])])
        made = FORMS[form](world, rng, entity, style)
        if made is not None:
            return made


def make_suite(world: World, seed: int, dev: int = 15, test: int = 55) -> Suite:
    """Make `dev` and `test` distinct items of every form."""
    items: list[Item] = []
    for split, count in zip(SPLITS, (dev, test), strict=True):
        groups = _entities(world, split)
        for form in FORMS:
            seen: set[tuple[str, ...]] = set()
            attempt = 0
            while len(seen) < count:
                rng = stream(seed, "suite", split, form, attempt)
                attempt += 1
                ask = _draw(form, world, rng, groups)
                turns = (*(text for pair in ask.earlier for text in pair), ask.instruction)
                if turns in seen:
                    continue
                seen.add(turns)
                items.append(Item(
                    id=f"{split}-{form}-{len(seen):03d}", split=split, form=form,
                    entity=ask.entity, relation=ask.relation, turns=turns, answer=ask.answer,
                    expected=ask.expected, wrong=ask.wrong, is_new_wording=ask.is_new_wording,
                ))  # fmt: skip
    return Suite(items=tuple(items))


def _line(item: Item) -> str:
    return json.dumps(asdict(item), ensure_ascii=False, sort_keys=True)


def write_suite(suite: Suite, path: Path) -> None:
    """Write one item a line."""
    path.write_text("".join(_line(item) + "\n" for item in suite.items), encoding="utf-8")


def read_suite(path: Path) -> Suite:
    """Read a suite back."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return Suite(items=tuple(_item(json.loads(line)) for line in lines))
    except (ValueError, TypeError) as error:
        raise DamagedFileError(path, str(error)) from error


def _item(fields: dict[str, object]) -> Item:
    rows = {
        key: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for key, value in fields.items()
    }
    return Item(**rows)  # type: ignore[arg-type]


def names(items: Iterable[Item]) -> set[str]:
    """Return the entities the items ask about."""
    return {item.entity for item in items}
