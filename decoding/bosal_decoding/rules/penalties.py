"""Rules that weigh tokens by how they were used before."""

from typing import Annotated

from pydantic import Field

from bosal_decoding.errors import RuleUnsupported, shorten
from bosal_decoding.limits import MAX_TOKENS
from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.schema import Phrase, Weight, join_field, whole
from bosal_kernels import Region, TokenFlag

_Penalty = Annotated[float, Field(ge=-100, le=100)]
_Window = Annotated[int, Field(ge=0, le=MAX_TOKENS), whole]


class RepetitionPenalty(Rule):
    name = "repetition_penalty"
    stage = RuleStage.SHAPE
    summary = "Scales down tokens of the instruction and the output; 1 is off."
    formula = "v in instruction or output: z / value if z > 0, else z * value"
    source = "Keskar et al. 2019 (CTRL), arXiv:1909.05858; as in transformers"
    region = Region.OUTSIDE

    value: Annotated[float, Field(ge=0.01, le=100)]
    """The factor; above 1 it penalises, below 1 it favours what was said."""
    window: _Window = 0
    """How many of the last tokens count; 0 is all."""
    include_instruction: bool = True
    """Whether the instruction's tokens count."""

    def contribute(self, draft: Draft) -> None:
        if self.value != 1:
            draft.instruction_flags |= TokenFlag.IN_PROMPT
        draft.set(
            repetition=self.value,
            repetition_window=self.window,
            repetition_instruction=self.include_instruction,
        )


class PresencePenalty(Rule):
    name = "presence_penalty"
    stage = RuleStage.SHAPE
    summary = "Lowers every token that the output already holds, once."
    formula = "z - value * [count in output > 0]"
    source = "OpenAI API, vLLM"
    region = Region.OUTSIDE

    value: _Penalty
    """What a used token loses; negative favours it."""
    window: _Window = 0
    """How many of the last tokens count; 0 is all."""
    include_instruction: bool = False
    """Whether the instruction's tokens count."""

    def contribute(self, draft: Draft) -> None:
        draft.set(
            presence=self.value,
            presence_window=self.window,
            presence_instruction=self.include_instruction,
        )


class FrequencyPenalty(Rule):
    name = "frequency_penalty"
    stage = RuleStage.SHAPE
    summary = "Lowers every token by how often the output already holds it."
    formula = "z - value * count in output"
    source = "OpenAI API, vLLM"
    region = Region.OUTSIDE

    value: _Penalty
    """What a token loses each time it was used; negative favours it."""
    window: _Window = 0
    """How many of the last tokens count; 0 is all."""
    include_instruction: bool = False
    """Whether the instruction's tokens count."""

    def contribute(self, draft: Draft) -> None:
        draft.set(
            frequency=self.value,
            frequency_window=self.window,
            frequency_instruction=self.include_instruction,
        )


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
        draft.agree(self.name, "include_instruction", self.include_instruction)
        if self.include_instruction and self.weight:
            draft.instruction_flags |= TokenFlag.USED_AT_START
        draft.set(used_weight=self.weight)


class NoRepeatNgram(Rule):
    name = "no_repeat_ngram"
    stage = RuleStage.MASK
    summary = "Forbids tokens that would repeat a run of n tokens of instruction and output."
    formula = "z[v] = -inf if (last n - 1 tokens, v) occurs in (instruction, output)"
    source = "Paulus et al. 2017, arXiv:1705.04304; no_repeat_ngram_size of transformers"
    region = Region.OUTSIDE

    n: Annotated[int, Field(ge=2, le=64), whole]
    """Length of a run; 3 or 4 is usual. Instruction and output count as one sequence."""

    def contribute(self, draft: Draft) -> None:
        draft.set(ngram=self.n)


class Dry(Rule):
    name = "dry"
    stage = RuleStage.SHAPE
    region = Region.OUTSIDE
    summary = "Lowers tokens that would go on repeating what was said, more the longer it is."
    formula = (
        "z[v] - multiplier * base ** (n - allowed_length) if n >= allowed_length, "
        "n the longest end of (instruction, output) that v has followed before"
    )
    source = "p-e-w 2024, DRY (text-generation-webui 5677); dry_multiplier of llama.cpp"

    multiplier: Annotated[float, Field(ge=0, le=100)]
    """What a token loses that extends a repetition of just the allowed length; 0.8 is usual."""
    base: Annotated[float, Field(ge=1, le=10)] = 1.75
    """By how much that grows with every further token."""
    allowed_length: Annotated[int, Field(ge=1, le=1000), whole] = 2
    """The shortest repetition that is penalised."""
    window: _Window = 0
    """How many of the last tokens are looked at; 0 is all."""
    breakers: Annotated[tuple[Phrase, ...], Field(max_length=64, strict=False)] = (
        "\n",
        ":",
        '"',
        "*",
    )
    """Strings over which no repetition reaches: every token that holds one of them."""

    def contribute(self, draft: Draft) -> None:
        for index, text in enumerate(self.breakers):
            ids = draft.vocabulary.ids_containing(text)
            if not ids and "breakers" in self.model_fields_set:
                where = join_field(draft.path, "breakers", index)
                raise RuleUnsupported(
                    self.name, f"no token of this vocabulary holds {shorten(text)}", field=where
                )
            draft.breakers.update(ids)
            draft.token_ids[text] = ids
        draft.agree(self.name, "breakers", frozenset(self.breakers))
        draft.set(
            dry_multiplier=self.multiplier,
            dry_base=self.base,
            dry_allowed=self.allowed_length,
            dry_window=self.window,
        )
