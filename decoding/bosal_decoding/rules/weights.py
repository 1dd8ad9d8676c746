"""Rules that add fixed weights to chosen tokens."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from bosal_decoding.limits import MAX_WEIGHTS
from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.schema import TokenId, TokenString, Weight, distinct_ids


class TokenWeights(Rule):
    name = "token_weights"
    stage = RuleStage.SHAPE
    summary = "Adds a weight to every single token that spells a string, at every step."
    formula = "z + weights[s] for every token whose bytes equal s"
    source = "Hewitt et al. 2024, arXiv:2409.14254 (uniform token changes)"

    weights: Annotated[dict[TokenString, Weight], Field(min_length=1, max_length=MAX_WEIGHTS)]
    """Weight by string; with and without a leading space are two strings."""
    if_missing: Literal["error", "skip"] = "error"
    """What happens when no single token of the model spells a string."""

    def contribute(self, draft: Draft) -> None:
        for text, weight in self.weights.items():
            draft.weigh_string(text, weight, "weights", text, skip=self.if_missing == "skip")


class LogitBias(Rule):
    name = "logit_bias"
    stage = RuleStage.SHAPE
    summary = "Adds a bias to tokens given by id or by string, at every step."
    formula = "z + ids[v] + strings[bytes of v]"
    source = "OpenAI API (ids), llama.cpp (strings)"

    ids: Annotated[
        dict[TokenId, Weight], Field(max_length=MAX_WEIGHTS), BeforeValidator(distinct_ids)
    ] = {}
    """Bias by token id of the served model."""
    strings: Annotated[dict[TokenString, Weight], Field(max_length=MAX_WEIGHTS)] = {}
    """Bias by string, for every single token that spells it; none is an error."""

    @model_validator(mode="after")
    def _has_some(self) -> "LogitBias":
        if not self.ids and not self.strings:
            raise ValueError("needs 'ids' or 'strings'")
        return self

    def contribute(self, draft: Draft) -> None:
        for token, weight in self.ids.items():
            draft.weigh_id(token, weight, "ids", str(token))
        for text, weight in self.strings.items():
            draft.weigh_string(text, weight, "strings", text)
