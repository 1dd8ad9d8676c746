"""Rules of the truncation chain; the recipe's order is the chain's order."""

from typing import Annotated

from pydantic import AfterValidator, Field

from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.schema import Integer
from bosal_kernels import Stage

_MIN_TEMPERATURE = 1e-3


def _greedy_or_warm(value: float) -> float:
    if 0 < value < _MIN_TEMPERATURE:
        raise ValueError(f"must be 0 (greedy) or at least {_MIN_TEMPERATURE}")
    return value


class Temperature(Rule):
    name = "temperature"
    stage = RuleStage.TRUNCATE
    summary = "Divides the logits; 0 takes the most likely token."
    formula = "z / value; value = 0: argmax, the lowest id on ties"
    source = "softmax temperature, as in transformers, vLLM and llama.cpp"

    value: Annotated[float, Field(ge=0, le=100), AfterValidator(_greedy_or_warm)]

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.TEMPERATURE, self.value)


class TopK(Rule):
    name = "top_k"
    stage = RuleStage.TRUNCATE
    summary = "Keeps the k most likely tokens; 0 is off."
    formula = "keep rank(z) <= k, ties by id"
    source = "Fan et al. 2018, arXiv:1805.04833"

    k: Annotated[Integer, Field(ge=0, le=2**31 - 1)]

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.TOP_K, self.k)


class TopP(Rule):
    name = "top_p"
    stage = RuleStage.TRUNCATE
    summary = "Keeps the most likely tokens until their mass reaches p; 1 is off."
    formula = "keep the shortest prefix of tokens by descending p with mass >= p"
    source = "Holtzman et al. 2020, arXiv:1904.09751"

    p: Annotated[float, Field(gt=0, le=1)]

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.TOP_P, self.p)


class MinP(Rule):
    name = "min_p"
    stage = RuleStage.TRUNCATE
    summary = "Keeps tokens at least p times as likely as the most likely one; 0 is off."
    formula = "keep p(v) >= p * max p"
    source = "Nguyen et al. 2024, arXiv:2407.01082"

    p: Annotated[float, Field(ge=0, le=1)]

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.MIN_P, self.p)
