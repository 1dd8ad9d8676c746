"""Compiles constraints for llguidance, first on trial where that may take long."""

from dataclasses import replace
from threading import Lock
from typing import Any, Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from bosal_decoding.constraints.constraint import Constraint
from bosal_decoding.constraints.cost import is_cheap
from bosal_decoding.constraints.errors import (
    CompileTimeout,
    ConstraintUnsatisfiable,
    ConstraintUnsupported,
)
from bosal_decoding.constraints.json_schema import longest_jump
from bosal_decoding.constraints.limits import COMPILE_SECONDS, FIRST_CLOSE_SECONDS
from bosal_decoding.constraints.llguidance_grammar import grammar_of, ignored_keywords, refusal
from bosal_decoding.constraints.llguidance_program import LlguidanceProgram
from bosal_decoding.constraints.llguidance_tokenizer import LlguidanceTokenizer
from bosal_decoding.constraints.shortest_text import shortest_text
from bosal_decoding.constraints.spelling import Spelling
from bosal_decoding.constraints.trial import TrialKilled, TrialProcess

# They turn an exploding grammar into an error within milliseconds.
_LIMITS: Final[dict[str, Any]] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 10_000,
    "max_items_in_row": 500,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
# What a program takes at least: lexer states of its first walks.
_BASE_BYTES: Final = 2 << 20
_BYTES_PER_SPEC_BYTE: Final = 64


class LlguidanceCompiler:
    """Compiles constraints; safe to share between threads."""

    def __init__(self) -> None:
        self._trial = TrialProcess(library="llguidance")
        self._tokenizers: dict[str, LlguidanceTokenizer] = {}
        self._preparing = Lock()

    def prepare(self, spelling: Spelling) -> LlguidanceTokenizer:
        """Build the vocabulary's tokenizer, or return the one built before."""
        digest = spelling.vocabulary.digest
        with self._preparing:
            if digest not in self._tokenizers:
                self._tokenizers[digest] = LlguidanceTokenizer(spelling)
            return self._tokenizers[digest]

    def close(self) -> None:
        self._trial.close()

    def check(self, constraint: Constraint) -> None:
        """Compile on trial alone.

        Raises:
            InvalidConstraint: of the kind that says why not.
        """
        self._try(grammar_of(constraint, ""))

    def compile(
        self, key: str, constraint: Constraint, spelling: Spelling, lead: str
    ) -> LlguidanceProgram:
        """Compile here what compiled on trial, or what costs so little that no trial is needed.

        Raises:
            InvalidConstraint: of the kind that says why not.
        """
        tokenizer = self.prepare(spelling)
        try:
            grammar, matcher = self._match(constraint, tokenizer, lead)
        except ConstraintUnsupported:
            if not constraint.allow_unsupported:
                raise
            grammar, matcher = self._match(constraint, tokenizer, lead, lenient=True)
        options = tuple((lead + text).encode() for text in constraint.choice or ())
        program = LlguidanceProgram(
            key=key,
            tokenizer=tokenizer,
            matcher=matcher,
            num_bytes=_BASE_BYTES + _BYTES_PER_SPEC_BYTE * len(grammar),
            ignored=ignored_keywords(matcher.get_grammar_warnings()),
            json_schema=constraint.json_schema,
            options=options,
            shortest=_shortest(constraint, lead),
            longest_jump=longest_jump(constraint.json_schema),
        )
        # The first mask builds what all others share.
        state = program.new_state()
        row = np.zeros(spelling.num_words, np.int32)
        state.allowed(row)
        if state.failure:
            raise refusal(state.failure)
        if not row.any():
            raise ConstraintUnsatisfiable("no text satisfies it")
        close = state.close_tokens(FIRST_CLOSE_SECONDS)
        return replace(program, close=None if close is None else tuple(close))

    def _match(
        self,
        constraint: Constraint,
        tokenizer: LlguidanceTokenizer,
        lead: str,
        *,
        lenient: bool = False,
    ) -> tuple[str, LLMatcher]:
        grammar = grammar_of(constraint, lead, lenient=lenient)
        if not is_cheap(constraint):
            self._try(grammar)
        matcher = LLMatcher(
            tokenizer.native, grammar, log_level=0, limits=LLParserLimits(**_LIMITS)
        )
        if matcher.is_error():
            raise refusal(matcher.get_error())
        return grammar, matcher

    def _try(self, grammar: str) -> None:
        request = {"do": "compile", "grammar": grammar, "limits": _LIMITS}
        try:
            answer = self._trial.ask(request, COMPILE_SECONDS)
        except TrialKilled as error:
            raise CompileTimeout(f"it could not be compiled: {error}") from None
        if "error" in answer:
            raise refusal(answer["error"])


def _shortest(constraint: Constraint, lead: str) -> bytes | None:
    """A shortest text, where reading the constraint tells it."""
    text = None if constraint.regex is None else shortest_text(constraint.regex)
    return None if text is None else (lead + text).encode()
