"""Rules that say what the answer must hold: how it begins, what it says where, how it ends."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bosal_decoding.errors import RuleUnsupported, shorten
from bosal_decoding.limits import MAX_FORCED_PHRASES, MAX_TOKENS
from bosal_decoding.phrases import PlacedPhrase
from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.schema import Phrase, Schema, join_field, whole


class Prefill(Rule):
    name = "prefill"
    stage = RuleStage.FORCE
    summary = "Lets every answer start with a text, which the model then goes on from."
    formula = "output = (tokens of text, drawn tokens); its tokens count and are marked as forced"
    is_scopable = False
    source = "prefill of the assistant's turn in chat APIs; cf. SafeDecoding, arXiv:2402.08983"

    text: Phrase
    """What the answer starts with; part of its text. The space that the scaffold leaves before an
    answer is added."""
    heal: bool = True
    """Whether the text's last tokens may be cut as what follows needs it, as by `token_healing`."""

    def contribute(self, draft: Draft) -> None:
        draft.prefill = self.text
        draft.heals_prefill = self.heal


class TokenHealing(Rule):
    name = "token_healing"
    stage = RuleStage.FORCE
    summary = "Takes back the prompt's last tokens where longer text would be cut otherwise."
    formula = (
        "k = least common prefix of tokens(prompt) and tokens(prompt + any text); prompt = its "
        "first k tokens; the first drawn tokens spell the rest, and may go on"
    )
    is_scopable = False
    source = "token healing of guidance, heal_tokens of transformers"

    def contribute(self, draft: Draft) -> None:
        draft.heals_prompt = True


class ForcedPhrase(Schema):
    """One phrase and its place."""

    text: Phrase
    """What the answer must say, with its spaces."""
    at: Annotated[int, Field(ge=1, le=MAX_TOKENS), whole] | Literal["end"] = "end"
    """Where: as soon as the output has so many tokens, or before it ends by the end of the text or
    by `max_tokens`."""


class ForcedPhrases(Rule):
    name = "forced_phrases"
    stage = RuleStage.FORCE
    summary = "Makes the answer say given phrases at given places, one of them at its end."
    formula = "tokens of text at position `at`; end: before eos, or at max_tokens - tokens of text"
    is_scopable = False
    source = "this project; cf. forced_eos_token_id of transformers"

    phrases: Annotated[
        tuple[ForcedPhrase, ...], Field(min_length=1, max_length=MAX_FORCED_PHRASES, strict=False)
    ]
    """Phrases with `text` and `at`; those of one place follow each other. How an answer begins is
    `prefill`'s to say. A stop rule ends an answer without its last phrase."""

    @model_validator(mode="after")
    def _has_one_end(self) -> "ForcedPhrases":
        if sum(phrase.at == "end" for phrase in self.phrases) > 1:
            raise ValueError("only one phrase can stand at the end")
        return self

    def contribute(self, draft: Draft) -> None:
        for place, phrase in enumerate(self.phrases):
            ids = draft.vocabulary.spell(phrase.text)
            if ids is None:
                where = join_field(draft.path, "phrases", place, "text")
                why = f"no tokens of this vocabulary spell just {shorten(phrase.text)}"
                raise RuleUnsupported(self.name, why, field=where)
            draft.token_ids[phrase.text] = tuple(ids)
            at = None if phrase.at == "end" else phrase.at
            draft.phrases.append(PlacedPhrase(token_ids=tuple(ids), at=at))
