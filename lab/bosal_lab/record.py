"""What an evaluation stores: an arm, and each of its answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bosal_lab.item import STOPPED

__all__ = ["Arm", "Record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One recipe on one model; everything that decides its answers but the seeds."""

    name: str
    model: str
    model_digest: str
    recipe: str
    recipe_version: str
    recipe_document: Mapping[str, Any]
    # `name@version` of a recipe the server knows; empty: the document goes with each request.
    pinned: str = ""
    # None: the recipe's, else the server's default.
    max_tokens: int | None = None
    # What its noise is shared with: arms of equal `noise` are coupled.
    noise: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One answer of one arm, or the error that stands in its place."""

    arm: str
    item: str
    sample: int
    seed: int
    # Empty: there is an answer.
    error: str = ""
    text: str = ""
    # The model's answers to the item's earlier messages.
    earlier: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    # Each token's rank in the base stream's row; empty if not asked for.
    ranks: tuple[int, ...] = ()
    finish_reason: str = ""
    matched_stop: str = ""
    # What the server said it ran, enough to replay the request.
    started: Mapping[str, Any]
    timings: Mapping[str, float]

    @property
    def has_stopped(self) -> bool:
        return self.finish_reason in STOPPED
