"""Results databases with answers made up for a test."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bosal_client import user
from bosal_lab.item import Answer, Item, Score, Suite
from bosal_lab.record import Arm, Record
from bosal_lab.results import Results

ARM = Arm(
    name="base/plain",
    model="base",
    model_digest="d1",
    recipe="plain",
    recipe_version="v1",
    recipe_document={"rules": []},
    pinned="plain@v1",
    noise="7",
)


class Right:
    """An answer is right if it says so."""

    version = "right 1"

    def score(self, item: Item, answer: Answer) -> Score:
        return Score(
            followed=None if answer.text == "?" else True,
            right=answer.text.startswith("yes"),
            stopped=answer.has_stopped,
        )


def suite(num_items: int, *, num_categories: int = 2, cluster: int = 1) -> Suite:
    """Items q0, q1, …; every `cluster` of them belong together."""
    return Suite(
        name="made-up",
        scorer=Right(),
        items=tuple(
            Item(
                id=f"q{number}",
                category=f"c{number % num_categories}",
                split="test",
                messages=(user(f"Is {number} <b>even</b>?"),),
                reference=f"yes, {number}",
                cluster="" if cluster == 1 else str(number // cluster),
            )
            for number in range(num_items)
        ),
    )


def results(
    path: Path,
    of: Suite,
    answers: Mapping[str, Sequence[Sequence[str]]],
    noise: Mapping[str, str] | None = None,
) -> Results:
    """Store, for each arm `model/recipe`, each item's samples; "!" stands for an error."""
    made = Results.create(path, of)
    for name, by_item in answers.items():
        model, recipe = name.split("/")
        made.add_arm(
            replace(
                ARM,
                name=name,
                model=model,
                recipe=recipe,
                noise=(noise or {}).get(name, ARM.noise),
            )
        )
        for item, samples in zip(of.items, by_item, strict=False):
            for sample, text in enumerate(samples):
                add(made, of, name, item, sample, text)
    return made


def add(made: Results, of: Suite, arm: str, item: Item, sample: int, text: str) -> None:
    """Store one answer; "…" at its end stands for one that was cut."""
    record = Record(
        arm=arm,
        item=item.id,
        sample=sample,
        seed=sample,
        error="InvalidRequest: too long" if text == "!" else "",
        text="" if text == "!" else text,
        token_ids=() if text == "!" else tuple(text.encode()),
        ranks=() if text == "!" else tuple(1 if letter == "e" else 3 for letter in text),
        finish_reason="max_tokens" if text.endswith("…") else "stop_token",
        started={},
        timings={"total": 0.5},
    )
    answer = Answer(text=record.text, finish_reason=record.finish_reason)
    made.add(record, None if record.error else of.scorer.score(item, answer))
