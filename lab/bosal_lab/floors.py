"""What answers that took no work are worth: every score is read beside these."""

from collections.abc import Mapping
from random import Random

from bosal_lab.item import Answer, Item, Suite
from bosal_lab.record import Record
from bosal_lab.results import Results

__all__ = ["floors", "store_floors"]

_PLAIN = "plain"


def floors(suite: Suite) -> dict[str, dict[str, float | None]]:
    """Return the success of empty, echoed and misplaced answers, by floor and item."""
    answers = {
        "empty answer": {item.id: "" for item in suite.items},
        "echo of the instruction": {item.id: item.instruction for item in suite.items},
        "another item's answer": _misplaced(suite),
    }
    items = {item.id: item for item in suite.items}
    return {
        floor: {name: _success(suite, items[name], text) for name, text in texts.items()}
        for floor, texts in answers.items()
        if texts
    }


def store_floors(results: Results, suite: Suite) -> None:
    """Store every floor, those taken from recorded `plain` answers too."""
    found = floors(suite)
    for arm in results.arms.values():
        if arm.recipe.partition("@")[0] == _PLAIN:
            name = f"{arm.name}, first line, content only"
            records = {record.item: record for record in results.records(arm.name)}
            found[name] = _first_lines(suite, records)
    for name, values in found.items():
        results.set_floor(name, values)


def _success(suite: Suite, item: Item, text: str) -> float | None:
    success = suite.scorer.score(item, Answer(text=text)).success
    return None if success is None else float(success)


def _misplaced(suite: Suite) -> dict[str, str]:
    """Give each item the right answer to another of its split, at random but always the same."""
    found: dict[str, str] = {}
    for split in ("dev", "test"):
        shuffled = [item for item in suite.of(split) if item.reference]
        Random(0).shuffle(shuffled)
        if len(shuffled) > 1:
            others = [*shuffled[1:], shuffled[0]]
            found |= {
                item.id: other.reference for item, other in zip(shuffled, others, strict=True)
            }
    return found


def _first_lines(suite: Suite, records: Mapping[str, Record]) -> dict[str, float | None]:
    """Judge the first line of plain answers on content alone: the fair baseline."""
    found: dict[str, float | None] = {}
    for item in suite.items:
        if item.id in records and not records[item.id].error:
            lines = records[item.id].text.strip().splitlines() or [""]
            right = suite.scorer.score(item, Answer(text=lines[0])).right
            found[item.id] = None if right is None else float(right)
    return found
