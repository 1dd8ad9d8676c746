"""The suite: verifiable instructions about entities that never stood in a question."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

from bosal_client.requests import Message
from bosal_lab.ask import Ask, Style
from bosal_lab.asks import FORMS
from bosal_lab.chance import stream
from bosal_lab.errors import DamagedFileError
from bosal_lab.item import Item, Split, Suite
from bosal_lab.scorers import LabScorer
from bosal_lab.world import KINDS, Entity, World

NAME = "lab"
DEV_SHARE = 0.25
NEW_WORDING_SHARE = 0.4


def split_of(entity: str) -> Split:
    """Return the split a held-out entity belongs to; no entity is in both."""
    return "dev" if stream(0, "split", entity).random() < DEV_SHARE else "test"


def _entities(world: World, split: Split) -> dict[str, list[Entity]]:
    groups = {
        kind: [one for one in world.of(kind, asked=False) if split_of(one.name) == split]
        for kind in KINDS
    }
    return {kind: group for kind, group in groups.items() if group}


def _draw(form: str, world: World, rng: Random, groups: dict[str, list[Entity]]) -> Ask:
    style = Style(is_new=rng.random() < NEW_WORDING_SHARE)
    while True:
        entity = rng.choice(groups[rng.choice(list(groups))])
        made = FORMS[form](world, rng, entity, style)
        if made is not None:
            return made


def _messages(ask: Ask) -> tuple[Message, ...]:
    messages: list[Message] = []
    for asked, answered in ask.earlier:
        messages += [Message(role="user", text=asked), Message(role="assistant", text=answered)]
    return (*messages, Message(role="user", text=ask.instruction))


def _item(ask: Ask, split: Split, number: int) -> Item:
    return Item(
        id=f"{split}-{ask.form}-{number:03d}",
        category=ask.form,
        split=split,
        messages=_messages(ask),
        checks={
            "relation": ask.relation,
            "expected": list(ask.expected),
            "wrong": list(ask.wrong),
            "is_new_wording": ask.is_new_wording,
        },
        reference=ask.answer,
        cluster=ask.entity,
    )


def make_suite(world: World, seed: int, dev: int, test: int) -> Suite:
    """Make `dev` and `test` distinct items of every form."""
    items: list[Item] = []
    counts: dict[Split, int] = {"dev": dev, "test": test}
    for split, count in counts.items():
        groups = _entities(world, split)
        for form in FORMS:
            seen: set[tuple[Message, ...]] = set()
            attempt = 0
            while len(seen) < count:
                rng = stream(seed, "suite", split, form, attempt)
                attempt += 1
                ask = _draw(form, world, rng, groups)
                if _messages(ask) not in seen:
                    seen.add(_messages(ask))
                    items.append(_item(ask, split, len(seen)))
    return Suite(name=NAME, items=tuple(items), scorer=LabScorer())


def write_suite(suite: Suite, path: Path) -> None:
    """Write one item a line."""
    lines = (json.dumps(item.document(), ensure_ascii=False) + "\n" for item in suite.items)
    path.write_text("".join(lines), encoding="utf-8")


def read_suite(text: str, source: object) -> Suite:
    """Read a suite back from its lines."""
    try:
        items = tuple(_from_document(json.loads(line)) for line in text.splitlines())
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedFileError(source, repr(error)) from error
    return Suite(name=NAME, items=items, scorer=LabScorer())


def _from_document(document: dict[str, Any]) -> Item:
    messages = tuple(Message(role=role, text=text) for role, text in document.pop("messages"))
    return Item(messages=messages, **document)


def lab_suite() -> Suite:
    """Return the suite that belongs to the shipped models."""
    place = resources.files("bosal_lab").joinpath("items", f"{NAME}.jsonl")
    return read_suite(place.read_text(encoding="utf-8"), place)
