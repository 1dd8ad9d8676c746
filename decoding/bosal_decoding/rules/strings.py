"""Rules over the generated text, whatever tokens spell it."""

from typing import Annotated

from pydantic import AfterValidator, Field

from bosal_decoding.limits import MAX_BANNED_STRINGS, MAX_STOP_STRINGS, MAX_STRINGS_BYTES
from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.schema import Phrase


def _total(values: tuple[str, ...]) -> tuple[str, ...]:
    if sum(len(value.encode()) for value in values) > MAX_STRINGS_BYTES:
        raise ValueError(f"longer than {MAX_STRINGS_BYTES} bytes together")
    return values


class StopStrings(Rule):
    name = "stop_strings"
    stage = RuleStage.STOP
    summary = "Ends the answer where one of the strings appears, and cuts it from the text."
    formula = "stop at the first byte that completes one of values"
    source = "URIAL (Lin et al. 2023), arXiv:2312.01552; stop of the OpenAI API"

    values: Annotated[
        tuple[Phrase, ...],
        Field(min_length=1, max_length=MAX_STOP_STRINGS, strict=False),
        AfterValidator(_total),
    ]
    """The strings, matched in the generated text alone."""

    def contribute(self, draft: Draft) -> None:
        draft.stop_at(self.values)


class BannedStrings(Rule):
    name = "banned_strings"
    stage = RuleStage.MASK
    summary = "Takes back a token that begins a forbidden string and bans it at that position."
    formula = "output never contains one of values; z[v] = -inf at the position where one began"
    source = "ExLlamaV2 (banned_strings)"

    values: Annotated[
        tuple[Phrase, ...],
        Field(min_length=1, max_length=MAX_BANNED_STRINGS, strict=False),
        AfterValidator(_total),
    ]
    """The strings, whatever tokens spell them."""

    def contribute(self, draft: Draft) -> None:
        draft.ban(self.values)
