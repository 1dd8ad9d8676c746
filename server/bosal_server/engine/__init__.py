"""The engine: own step loop over a model, packed batches, keys and values in blocks.

One request: `EngineLoop.submit` → `Scheduler.admit` → per step `Scheduler.plan` → `ModelRunner`
→ `Pipeline` (combine, apply, sample) → `Slots` (commit) → `ChoiceOutput` → `deliver`.
"""

from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.loop import EngineConfig, EngineLoop
from bosal_server.engine.observer import EngineObserver, EngineStats, StepReport
from bosal_server.engine.request import (
    ChoiceEnding,
    EngineEvent,
    EngineRequest,
    FailedEvent,
    FinishedEvent,
    FinishReason,
    TokenLogprobs,
    TokensEvent,
)
from bosal_server.engine.runner import ModelRunner

__all__ = [
    "ChoiceEnding",
    "EngineConfig",
    "EngineEvent",
    "EngineLoop",
    "EngineModel",
    "EngineObserver",
    "EngineRequest",
    "EngineStats",
    "FailedEvent",
    "FinishReason",
    "FinishedEvent",
    "ModelRunner",
    "StepReport",
    "TokenLogprobs",
    "TokensEvent",
]
