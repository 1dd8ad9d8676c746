"""What rules that combine streams share: their models, their prompts, and what the base allows."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from bosal_decoding.errors import DecodingError
from bosal_decoding.limits import MAX_EXAMPLE_BYTES, MAX_NAME_CHARS
from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.scaffolds import read_scaffold
from bosal_decoding.schema import at_most_bytes
from bosal_decoding.streams import PromptVariant, SamePrompt
from bosal_kernels import CombineParams, Space


def _is_scaffold(entry: dict[str, Any]) -> dict[str, Any]:
    try:
        read_scaffold(entry, "")
    except DecodingError as error:
        raise ValueError(str(error)) from None
    return entry


ModelName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
PromptText = Annotated[str, Field(min_length=1), at_most_bytes(MAX_EXAMPLE_BYTES)]
ScaffoldEntry = Annotated[dict[str, Any], AfterValidator(_is_scaffold)]
Strength = Annotated[float, Field(ge=-100, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Mass = Annotated[float, Field(gt=0, le=1)]


# Parameters that name a served model.
_ROLES = ("amateur", "expert", "anti_expert", "aligned", "guide")


class Combination(Rule):
    """What rules that combine streams have in common."""

    stage = RuleStage.COMBINE

    plausibility: Share = 0.0
    """Keep only tokens that the base finds at least this share as likely as its best one; 0 is all.
    They come back where nothing else is legal."""
    prefilter: Mass = 1.0
    """Keep only the base's most likely tokens up to this mass; 1 is all."""

    @property
    def models(self) -> tuple[str, ...]:
        given = (getattr(self, role, None) for role in _ROLES)
        return tuple(name for name in given if name)

    def _one_of(self, *names: str) -> str | None:
        """Return which of parameters that exclude each other was given."""
        given = [name for name in names if name in self.model_fields_set and getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"'{given[0]}' and '{given[1]}' exclude each other")
        return given[0] if given else None

    def _params(
        self,
        draft: Draft,
        space: Space,
        weights: tuple[float, ...],
        slopes: tuple[float, ...],
        strength: float,
        **others: Any,
    ) -> CombineParams:
        return CombineParams(
            space=space,
            weights=weights,
            slopes=slopes,
            strength=strength,
            scope=draft.scope,
            plausibility=self.plausibility,
            nucleus=self.prefilter,
            **others,
        )


def in_scaffold(entry: dict[str, Any] | None) -> PromptVariant:
    """The request's prompt in a scaffold of its own, or in the recipe's."""
    return SamePrompt(None if entry is None else read_scaffold(entry, ""))
