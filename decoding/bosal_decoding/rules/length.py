"""Rules about how long an answer gets."""

from typing import Annotated

from pydantic import Field

from bosal_decoding.limits import MAX_TOKENS
from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.schema import Weight, whole
from bosal_kernels import Region


class EosRamp(Rule):
    name = "eos_ramp"
    stage = RuleStage.SHAPE
    summary = "Makes the end of the text ever more likely, up to a clamp."
    formula = "z[eos] + weight * min(L, over) / over"
    source = "Hewitt et al. 2024, arXiv:2409.14254 (EOS rule, weight 15 over 250), clamped"
    region = Region.OUTSIDE

    weight: Weight
    """What the end of the text gains once the output has `over` tokens."""
    over: Annotated[int, Field(ge=1, le=MAX_TOKENS), whole]
    """Output tokens until the weight is reached."""
    after_sentence: bool = False
    """Whether it acts only where the output ends a sentence."""

    def contribute(self, draft: Draft) -> None:
        draft.end_ids(self.name)
        draft.set(
            eos_ramp_weight=self.weight,
            eos_ramp_over=self.over,
            eos_ramp_waits=self.after_sentence,
        )


class ExponentialDecayLength(Rule):
    name = "exponential_decay_length"
    stage = RuleStage.SHAPE
    summary = "Raises the end of the text by a growing power once the output is long enough."
    formula = "z[eos] + |z[eos]| * (factor ** (L - start) - 1) while L > start, after the others"
    source = "exponential_decay_length_penalty of transformers"
    region = Region.OUTSIDE

    start: Annotated[int, Field(ge=0, le=MAX_TOKENS), whole]
    """Output tokens before it acts."""
    factor: Annotated[float, Field(ge=1, le=100)]
    """The base of the power; 1 is off, 1.01 to 1.1 is usual."""

    def contribute(self, draft: Draft) -> None:
        draft.end_ids(self.name)
        draft.set(eos_decay_start=self.start, eos_decay_factor=self.factor)


class MinTokens(Rule):
    name = "min_tokens"
    stage = RuleStage.MASK
    summary = "Forbids the end of the text before so many tokens; stop strings still act."
    formula = "z[eos] = -inf while L < value"
    source = "min_new_tokens of transformers, min_tokens of vLLM"

    value: Annotated[int, Field(ge=0, le=MAX_TOKENS), whole]
    """Output tokens before the text may end."""

    def contribute(self, draft: Draft) -> None:
        draft.edits_end |= self.value > 0
        draft.set(min_tokens=self.value)


class MaxTokens(Rule):
    name = "max_tokens"
    stage = RuleStage.STOP
    summary = "Ends the answer after so many tokens unless the request says otherwise."
    formula = "stop when L = value"
    source = "max_new_tokens of transformers, max_tokens of vLLM"
    is_scopable = False

    value: Annotated[int, Field(ge=1, le=MAX_TOKENS), whole]
    """Output tokens at most."""

    def contribute(self, draft: Draft) -> None:
        draft.max_tokens = self.value
