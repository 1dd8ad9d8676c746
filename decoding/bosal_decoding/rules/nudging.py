"""The rule that takes words of a guide where the base is unsure."""

from typing import Annotated

from pydantic import Field, model_validator

from bosal_decoding.rules.combination import ModelName, ScaffoldEntry, in_scaffold
from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.schema import whole
from bosal_decoding.streams import StreamSpec


class Nudging(Rule):
    name = "nudging"
    stage = RuleStage.COMBINE
    summary = "Takes the next word of an aligned guide where the base is unsure; ends as it ends."
    formula = (
        "max p < top1_below: force the guide's next word, and its next ones while the base stays "
        "unsure and argmax p does not begin the word; masks hold"
    )
    source = "Fei, Razeghi and Singh 2024, arXiv:2410.09300 (nudging)"

    guide: ModelName | None = None
    """The guiding model, as the server calls it; any tokenizer will do. Unset is the same model in
    `guide_scaffold`."""
    guide_scaffold: ScaffoldEntry | None = None
    """The form of the guide's prompt; unset is the recipe's."""
    top1_below: Annotated[float, Field(gt=0, le=1)] = 0.3
    """The base is unsure where its best token is less likely than this; 0.2 to 0.5 in the paper."""
    reserve_bytes: Annotated[int, Field(ge=64, le=1_000_000), whole] = 2048
    """How much of the answer the guide can follow; beyond it the base goes on alone."""

    @model_validator(mode="after")
    def _has_a_guide(self) -> "Nudging":
        if self.guide is None and self.guide_scaffold is None:
            raise ValueError("needs 'guide', or 'guide_scaffold' for the same model")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        return (self.guide,) if self.guide else ()

    def contribute(self, draft: Draft) -> None:
        spec = StreamSpec(
            role="guide", model=self.guide or "", prompt=in_scaffold(self.guide_scaffold)
        )
        draft.nudge(self.name, spec, self.top1_below, self.reserve_bytes)
