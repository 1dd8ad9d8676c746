"""Rules of the truncation chain; the recipe's order is the chain's order."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.schema import whole
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
    """Above 1 flattens, below 1 sharpens; 0, or at least 0.001."""

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.TEMPERATURE, self.value)


class DynamicTemperature(Rule):
    name = "dynamic_temperature"
    stage = RuleStage.TRUNCATE
    summary = "Divides the logits by a temperature that rises with the entropy of what is left."
    formula = "z / (low + (high - low) * (H / ln n) ** exponent), n the tokens left so far"
    source = "kalomaze 2023 (text-generation-webui 4824); dynatemp of llama.cpp"

    low: Annotated[float, Field(ge=_MIN_TEMPERATURE, le=100)]
    """The temperature where the model is certain."""
    high: Annotated[float, Field(ge=_MIN_TEMPERATURE, le=100)]
    """The temperature where all tokens left are equally likely."""
    exponent: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Above 1 stays near `low` longer."""

    @model_validator(mode="after")
    def _is_ordered(self) -> "DynamicTemperature":
        if self.low > self.high:
            raise ValueError(f"'low' {self.low} is above 'high' {self.high}")
        return self

    def contribute(self, draft: Draft) -> None:
        draft.set(dynamic_exponent=self.exponent)
        draft.truncate(Stage.DYNAMIC_TEMPERATURE, self.low, self.high)


class TopK(Rule):
    name = "top_k"
    stage = RuleStage.TRUNCATE
    summary = "Keeps the k most likely tokens; 0 is off."
    formula = "keep rank(z) <= k, ties by id"
    source = "Fan et al. 2018, arXiv:1805.04833"

    k: Annotated[int, Field(ge=0, le=2**31 - 1), whole]
    """How many tokens stay."""

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.TOP_K, self.k)


class TopP(Rule):
    name = "top_p"
    stage = RuleStage.TRUNCATE
    summary = "Keeps the most likely tokens until their mass reaches p; 1 is off."
    formula = "keep the shortest prefix of tokens by descending p with mass >= p"
    source = "Holtzman et al. 2020, arXiv:1904.09751"

    p: Annotated[float, Field(gt=0, le=1)]
    """The mass that stays."""

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.TOP_P, self.p)


class MinP(Rule):
    name = "min_p"
    stage = RuleStage.TRUNCATE
    summary = "Keeps tokens at least p times as likely as the most likely one; 0 is off."
    formula = "keep p(v) >= p * max p"
    source = "Nguyen et al. 2024, arXiv:2407.01082"

    p: Annotated[float, Field(ge=0, le=1)]
    """The least share of the best token's probability."""

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.MIN_P, self.p)


class Typical(Rule):
    name = "typical"
    stage = RuleStage.TRUNCATE
    summary = "Keeps the tokens whose surprise is nearest the expected one; 1 is off."
    formula = "keep by ascending |-log p - H| until their mass reaches p, ties together"
    source = "Meister et al. 2022, arXiv:2202.00666; typical_p of transformers"

    p: Annotated[float, Field(gt=0, le=1)]
    """The mass that stays."""

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.TYPICAL, self.p)


class TopNSigma(Rule):
    name = "top_n_sigma"
    stage = RuleStage.TRUNCATE
    summary = "Keeps logits within n standard deviations of the largest, whatever the temperature."
    formula = "keep z >= max z - n * sd(z), sd of all unmasked logits of the vocabulary"
    source = "Tang et al. 2024, arXiv:2411.07641; top_n_sigma of llama.cpp"

    n: Annotated[float, Field(gt=0, le=100)]
    """How many deviations below the largest logit still count; the paper's is 1."""

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.TOP_N_SIGMA, self.n)


class Epsilon(Rule):
    name = "epsilon"
    stage = RuleStage.TRUNCATE
    summary = "Keeps tokens of at least this probability, and the most likely one; 0 is off."
    formula = "keep p(v) >= value, and the most likely token"
    source = "Hewitt et al. 2022, arXiv:2210.15191; epsilon_cutoff of transformers"

    value: Annotated[float, Field(ge=0, lt=1)]
    """The least probability; the paper's lie in 0.0003 to 0.0009."""

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.EPSILON, self.value)


class Eta(Rule):
    name = "eta"
    stage = RuleStage.TRUNCATE
    summary = "Keeps tokens above a probability that falls as the entropy rises; 0 is off."
    formula = "keep p(v) >= min(value, sqrt(value) * exp(-H)), and the most likely token"
    source = "Hewitt et al. 2022, arXiv:2210.15191; eta_cutoff of transformers"

    value: Annotated[float, Field(ge=0, lt=1)]
    """The bound's scale; the paper's lie in 0.0003 to 0.004."""

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.ETA, self.value)


class Xtc(Rule):
    name = "xtc"
    stage = RuleStage.TRUNCATE
    summary = "Now and then drops the top choices and keeps the least likely of them."
    formula = (
        "if coin < probability: of the tokens with p >= threshold keep only the last, "
        "and all behind it"
    )
    source = "p-e-w 2024 (text-generation-webui 6335); xtc of llama.cpp, its threshold 0.1"

    probability: Annotated[float, Field(ge=0, le=1)]
    """How often it acts; the coin depends on seed, choice and position alone."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.1
    """What counts as a top choice; above 0.5 there is never a second one, so it is off."""

    def contribute(self, draft: Draft) -> None:
        draft.truncate(Stage.XTC, self.probability, self.threshold)


class Mirostat(Rule):
    name = "mirostat"
    stage = RuleStage.TRUNCATE
    summary = "Keeps the surprise of the drawn tokens near a target by moving a limit on it."
    formula = (
        "keep -log2 p(v) <= mu and the first token; then mu - eta * (-log2 p(drawn) - tau), "
        "mu = 2 * tau at first"
    )
    source = "Basu et al. 2021, arXiv:2007.14966, version 2; mirostat 2 of llama.cpp"

    tau: Annotated[float, Field(gt=0, le=100)] = 5.0
    """The surprise aimed at, in bits."""
    eta: Annotated[float, Field(ge=0, le=1)] = 0.1
    """How fast the limit follows."""

    def contribute(self, draft: Draft) -> None:
        # Where the limit begins, whichever rule is the first to hold.
        draft.agree(self.name, "tau", self.tau)
        draft.truncate(Stage.MIROSTAT, self.tau, self.eta)
