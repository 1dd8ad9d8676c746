"""Rules that end an answer by what its text has become."""

from typing import Annotated

from pydantic import Field

from bosal_decoding.counted_ends import ParagraphWatcher, SentenceWatcher
from bosal_decoding.errors import DecodingError, RuleUnsupported
from bosal_decoding.limits import MAX_PATTERN_BYTES, MAX_TOKENS
from bosal_decoding.patterns import read_pattern
from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.schema import Phrase, whole
from bosal_decoding.watching import (
    BudgetWatcher,
    LoopWatcher,
    PatternWatcher,
    SpaceWatcher,
)

_Count = Annotated[int, Field(ge=1, le=10_000), whole]


class StopRegex(Rule):
    name = "stop_regex"
    stage = RuleStage.STOP
    summary = "Ends the answer where a regular expression matches, and cuts the match off."
    formula = "stop at the first byte that completes a match; it starts as early as it can"
    source = "stop_regex of SGLang"

    pattern: Phrase
    """In the dialect of constraints, without anchors; no match may be longer than 256 bytes. It is
    matched in linear time."""

    def contribute(self, draft: Draft) -> None:
        try:
            pattern, longest = read_pattern(self.pattern)
        except DecodingError as error:
            where = f"{draft.path}.pattern"
            raise RuleUnsupported(self.name, str(error), field=where) from None
        if longest > MAX_PATTERN_BYTES:
            why = f"a match could be longer than {MAX_PATTERN_BYTES} bytes; bound its repetitions"
            raise RuleUnsupported(self.name, why, field=f"{draft.path}.pattern")
        if longest == 0:
            raise RuleUnsupported(
                self.name, "it matches nothing at all", field=f"{draft.path}.pattern"
            )
        draft.watch(PatternWatcher(pattern, longest))


class StopTurns(Rule):
    name = "stop_turns"
    stage = RuleStage.STOP
    summary = "Ends the answer where the model goes on with a turn of its own."
    formula = "stop at the scaffold's own marks at the beginning of a line, and cut them"
    source = "URIAL (Lin et al. 2023), arXiv:2312.01552 (stop at the next query's mark)"

    def contribute(self, draft: Draft) -> None:
        if not draft.turn_marks:
            why = "the scaffold has no marks of its own; use stop_strings"
            raise RuleUnsupported(self.name, why, field=draft.path)
        draft.stop_at(draft.turn_marks)


class StopLoops(Rule):
    name = "stop_loops"
    stage = RuleStage.STOP
    summary = "Ends the answer when it says the same over and over."
    formula = (
        "stop when the last max(times * n, min_tokens) tokens repeat with period n, "
        "for an n <= max_period"
    )
    source = "repetition_detection of vLLM, loop_detect_window of ExLlamaV3"

    times: Annotated[int, Field(ge=2, le=100), whole] = 4
    """How often the run must be there."""
    max_period: Annotated[int, Field(ge=1, le=256), whole] = 64
    """The longest run that is looked for, in tokens."""
    min_tokens: Annotated[int, Field(ge=2, le=MAX_TOKENS), whole] = 24
    """How many tokens must belong to the loop in all."""

    def contribute(self, draft: Draft) -> None:
        draft.watch(LoopWatcher(self.times, self.max_period, self.min_tokens))


class StopWhitespace(Rule):
    name = "stop_whitespace"
    stage = RuleStage.STOP
    summary = "Ends the answer before a run of white space that is too long."
    formula = "stop when more than max_run spaces, tabs and line breaks follow each other; cut them"
    source = "jundot/omlx 2990 (models that go on with spaces)"

    max_run: _Count
    """The longest run that is let through, in bytes."""

    def contribute(self, draft: Draft) -> None:
        draft.watch(SpaceWatcher(self.max_run))


class MaxSentences(Rule):
    name = "max_sentences"
    stage = RuleStage.STOP
    summary = "Ends the answer behind so many sentences."
    formula = "stop when a space follows the mark of the n-th sentence; initials and 1. are none"
    source = "this project"

    n: _Count
    """How many sentences."""

    def contribute(self, draft: Draft) -> None:
        draft.watch(SentenceWatcher(self.n))


class MaxParagraphs(Rule):
    name = "max_paragraphs"
    stage = RuleStage.STOP
    summary = "Ends the answer behind so many paragraphs."
    formula = "stop at the blank line behind the n-th paragraph; cut it"
    source = "this project"

    n: _Count
    """How many paragraphs."""

    def contribute(self, draft: Draft) -> None:
        draft.watch(ParagraphWatcher(self.n))


class TokenBudget(Rule):
    name = "token_budget"
    stage = RuleStage.STOP
    summary = "Ends the answer at the first finished sentence once it has used its tokens."
    formula = "stop at a sentence's end when L >= tokens, anywhere when L >= tokens + grace"
    source = "this project; compare thinking_token_budget of vLLM"

    tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS), whole]
    """Output tokens the answer may use."""
    grace: Annotated[int, Field(ge=0, le=MAX_TOKENS), whole] = 64
    """Tokens it may go on to finish its sentence."""

    def contribute(self, draft: Draft) -> None:
        draft.watch(BudgetWatcher(self.tokens, self.grace))
