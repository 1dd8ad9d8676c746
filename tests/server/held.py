"""Experiments over a real engine whose requests are held against each other."""

from typing import Any

from tests.server.experiments.drafts import draft
from tests.server.test_core import ENDLESS

from bosal_decoding.recipe import INLINE, Recipe
from bosal_server.core import GenerationCore
from bosal_server.engine.request import TokensEvent
from bosal_server.experiments.catalogue import Change
from bosal_server.experiments.experiment import Experiment, Variant
from bosal_server.experiments.intake import OutcomeCommand
from bosal_server.experiments.report import Report
from bosal_server.generate_command import ExperimentCommand, GenerateCommand, PromptCommand

(_NO_END,) = ENDLESS["rules"]
ALL = 1_000_000


def inline(key: str, *rules: dict[str, Any], weight: int = 0, **fields: Any) -> Variant:
    """A variant that never ends by itself, so that every answer has its tokens."""
    scaffold = fields.pop("scaffold", None)
    document: dict[str, Any] = {"rules": [_NO_END, *rules]}
    if scaffold is not None:
        document["scaffold"] = scaffold
    recipe = Recipe.parse(document)
    return Variant(
        key=key,
        recipe_name=INLINE,
        recipe_version=recipe.version,
        document=recipe.document(),
        weight_ppm=weight,
        **fields,
    )


async def begin(core: GenerationCore, **fields: Any) -> Experiment:
    experiments = core.experiments
    made = await experiments.create(draft("held", **fields), "", "me")
    return await experiments.begin(made.name, Change(action="START"))


async def served(core: GenerationCore, unit: str, **fields: Any) -> tuple[str, list[int]]:
    """Ask as a unit; return the variant and the tokens."""
    command = GenerateCommand(
        prompt=PromptCommand(instruction="The cat sat"),
        experiment=ExperimentCommand(experiment="held", unit=unit),
        **{"max_tokens": 12, "seed": 3, "request_id": unit, **fields},
    )
    tokens: list[int] = []
    variant = ""
    async for event in core.generate(command):
        if isinstance(event, TokensEvent):
            assert event.explanations is None
            tokens += event.token_ids
        elif not variant:
            assert event.assignment is not None  # type: ignore[union-attr]
            variant = event.assignment.variant.key  # type: ignore[union-attr]
    return variant, tokens


async def alone(core: GenerationCore, variant: Variant, **fields: Any) -> list[int]:
    """Run a variant's recipe by itself, the oracle of what it would have answered."""
    command = GenerateCommand(
        prompt=PromptCommand(recipe=variant.document, instruction="The cat sat"),
        **{"max_tokens": 12, "seed": 3, **fields},
    )
    return [
        token
        async for event in core.generate(command)
        if isinstance(event, TokensEvent)
        for token in event.token_ids
    ]


async def reported(core: GenerationCore) -> Report:
    """Report when whatever was queued before is on disk."""
    last = OutcomeCommand(
        exposure_id="00" * 16, unit=None, name="score", value=1.0, key="last", at=None
    )
    await core.experiments.record("held", [last])
    return await core.experiments.report("held", 0, with_distributions=True)


def first_difference(one: list[int], other: list[int]) -> int | None:
    pairs = enumerate(zip(one, other, strict=True))
    return next((place for place, (a, b) in pairs if a != b), None)
