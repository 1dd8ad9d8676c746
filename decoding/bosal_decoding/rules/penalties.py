"""Rules that weigh tokens by how they were used before."""

from typing import Annotated

from pydantic import Field

from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.schema import Weight, whole
from bosal_kernels import Region, TokenFlag

_Penalty = Annotated[float, Field(ge=-100, le=100)]


class RepetitionPenalty(Rule):
    name = "repetition_penalty"
    stage = RuleStage.SHAPE
    summary = "Scales down tokens of the instruction and the output; 1 is off."
    formula = "v in instruction or output: z / value if z > 0, else z * value"
    source = "Keskar et al. 2019 (CTRL), arXiv:1909.05858; as in transformers"
    region = Region.OUTSIDE

    value: Annotated[float, Field(ge=0.01, le=100)]
    """The factor; above 1 it penalises, below 1 it favours what was said."""

    def contribute(self, draft: Draft) -> None:
        draft.instruction_flags |= TokenFlag.IN_PROMPT
        draft.set(repetition=self.value)


class PresencePenalty(Rule):
    name = "presence_penalty"
    stage = RuleStage.SHAPE
    summary = "Lowers every token that the output already holds, once."
    formula = "z - value * [count in output > 0]"
    source = "OpenAI API, vLLM"
    region = Region.OUTSIDE

    value: _Penalty
    """What a used token loses; negative favours it."""

    def contribute(self, draft: Draft) -> None:
        draft.set(presence=self.value)


class FrequencyPenalty(Rule):
    name = "frequency_penalty"
    stage = RuleStage.SHAPE
    summary = "Lowers every token by how often the output already holds it."
    formula = "z - value * count in output"
    source = "OpenAI API, vLLM"
    region = Region.OUTSIDE

    value: _Penalty
    """What a token loses each time it was used; negative favours it."""

    def contribute(self, draft: Draft) -> None:
        draft.set(frequency=self.value)


class UsedTokenWeight(Rule):
    name = "used_token_weight"
    stage = RuleStage.SHAPE
    summary = "Adds one weight to every token already used, however often."
    formula = "z + weight * [v in output, or in the instruction if included]"
    source = "Hewitt et al. 2024, arXiv:2409.14254 (the diversity rule)"
    region = Region.OUTSIDE

    weight: Weight
    """What a used token gains; negative avoids repetition."""
    include_instruction: bool = False
    """Whether the instruction's tokens count as used."""

    def contribute(self, draft: Draft) -> None:
        if self.include_instruction:
            draft.instruction_flags |= TokenFlag.USED_AT_START
        draft.set(used_weight=self.weight)


class NoRepeatNgram(Rule):
    name = "no_repeat_ngram"
    stage = RuleStage.MASK
    summary = "Forbids tokens that would repeat a run of n tokens of instruction and output."
    is_scopable = False
    formula = "z[v] = -inf if (last n - 1 tokens, v) occurs in (instruction, output)"
    source = "Paulus et al. 2017, arXiv:1705.04304; no_repeat_ngram_size of transformers"
    region = Region.OUTSIDE

    n: Annotated[int, Field(ge=2, le=64), whole]
    """Length of a run; 3 or 4 is usual. Instruction and output count as one sequence."""

    def contribute(self, draft: Draft) -> None:
        draft.no_repeat_ngram = self.n
