"""Managers of experiments to test with, and what the core asks of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.server.experiments.drafts import draft

from bosal_server.database import Database
from bosal_server.experiments.catalogue import Change
from bosal_server.experiments.enrolment import Assignment
from bosal_server.experiments.experiment import Experiment
from bosal_server.experiments.intake import OutcomeCommand
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.privacy import Pseudonyms
from bosal_server.recipe_store import RecipeStore

NAMES = Pseudonyms(bytes(32))
RECIPES = RecipeStore.load()
WHY = Change(action="TEST", actor="me", reason="because")


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def managing(
    database: Database, recipes: RecipeStore = RECIPES, clock: Clock | None = None
) -> AsyncIterator[ExperimentManager]:
    manager = ExperimentManager(database, recipes, NAMES, clock=clock or Clock())
    await manager.start()
    try:
        yield manager
    finally:
        await manager.close()


def run(database: Database, check: Callable[[ExperimentManager], Awaitable[None]]) -> None:
    async def checked() -> None:
        async with managing(database) as manager:
            await check(manager)

    asyncio.run(checked())


async def begun(manager: ExperimentManager, **fields: Any) -> Experiment:
    made = await manager.create(draft(**fields), "", "me")
    return await manager.begin(made.name, WHY)


def serve(
    manager: ExperimentManager, unit: str, request: str = "", *, force: str = "", ms: float = 50.0
) -> Assignment:
    """Do what the core does with a request."""
    found = manager.assign("exp", unit, force)
    if not found.is_recorded:
        return found
    exposed = manager.expose(
        found,
        request_id=request or unit,
        model_digest="d",
        seed=1,
        instruction="what?",
        instruction_tokens=3,
    )
    assert exposed is not None
    manager.complete(exposed, {"total_ms": ms, "failed": 0.0}, "STOP_TOKEN")
    return exposed


def outcome(
    exposed: Assignment | None = None, value: float | None = 1.0, **fields: Any
) -> OutcomeCommand:
    defaults: dict[str, Any] = {
        "exposure_id": exposed.exposure_id.hex() if exposed is not None else None,
        "unit": None,
        "name": "score",
        "key": "",
        "at": None,
    }
    return OutcomeCommand(value=value, **{**defaults, **fields})
