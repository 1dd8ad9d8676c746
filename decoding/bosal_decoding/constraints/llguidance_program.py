"""Programs matched by llguidance: every kind of constraint, the default."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from bosal_decoding.constraints import closing
from bosal_decoding.constraints.constraint import Constraint
from bosal_decoding.constraints.errors import (
    CompileTimeout,
    ConstraintUnsatisfiable,
    ConstraintUnsupported,
)
from bosal_decoding.constraints.json_schema import longest_jump
from bosal_decoding.constraints.limits import COMPILE_SECONDS, MAX_FORCED_TOKENS
from bosal_decoding.constraints.llguidance_grammar import grammar_of, ignored_keywords, refusal
from bosal_decoding.constraints.program import ConstraintViolation, MaskRow
from bosal_decoding.constraints.spelling import Spelling, bit_of
from bosal_decoding.constraints.trial import TrialKilled, TrialProcess


class _Encoder:
    """A vocabulary as llguidance reads one: tokens, and text to tokens."""

    def __init__(self, spelling: Spelling) -> None:
        # The matcher's own end is one more token, so that it is never one of the model's.
        self.eos_token_id = len(spelling.token_bytes)
        self.bos_token_id = None
        self.tokens = [
            spelled or b"<special %d>" % token for token, spelled in enumerate(spelling.token_bytes)
        ] + [b"<end>"]
        self.special_token_ids = [
            token for token, spelled in enumerate(spelling.token_bytes) if not spelled
        ] + [self.eos_token_id]
        self._spelling = spelling

    def __call__(self, text: bytes | str) -> list[int]:
        return self._spelling.encode(text if isinstance(text, str) else text.decode())


class LlguidanceTokenizer:
    """A vocabulary prepared for llguidance; built once, some 0.5 s for 128k tokens."""

    def __init__(self, spelling: Spelling) -> None:
        self.spelling = spelling
        encoder = _Encoder(spelling)
        self.native = LLTokenizer(
            TokenizerWrapper(encoder), n_vocab=len(encoder.tokens), eos_token=encoder.eos_token_id
        )
        self.mask_bytes = spelling.num_words * 4
        # The word of the matcher's own end, and a mask that clears it.
        end = encoder.eos_token_id
        self.own_end = end >> 5, ~bit_of(end)


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
    """Compiles constraints; used by one thread."""

    def __init__(self) -> None:
        self._trial = TrialProcess()
        self._tokenizers: dict[str, LlguidanceTokenizer] = {}

    def prepare(self, spelling: Spelling) -> LlguidanceTokenizer:
        """Build the vocabulary's tokenizer, or return the one built before."""
        digest = spelling.vocabulary.digest
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
    ) -> "LlguidanceProgram":
        """Compile on trial, then here.

        Raises:
            InvalidConstraint: of the kind that says why not.
        """
        tokenizer = self.prepare(spelling)
        grammar = grammar_of(constraint, lead)
        try:
            self._try(grammar)
        except ConstraintUnsupported:
            if not constraint.allow_unsupported:
                raise
            grammar = grammar_of(constraint, lead, lenient=True)
            self._try(grammar)
        matcher = LLMatcher(
            tokenizer.native, grammar, log_level=0, limits=LLParserLimits(**_LIMITS)
        )
        if matcher.is_error():
            raise refusal(matcher.get_error())
        options = tuple((lead + text).encode() for text in constraint.choice or ())
        program = LlguidanceProgram(
            key=key,
            tokenizer=tokenizer,
            matcher=matcher,
            num_bytes=_BASE_BYTES + _BYTES_PER_SPEC_BYTE * len(grammar),
            ignored=ignored_keywords(matcher.get_grammar_warnings()),
            json_schema=constraint.json_schema,
            options=options,
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
        close = state.close_tokens()
        return replace(program, close=None if close is None else tuple(close))

    def _try(self, grammar: str) -> None:
        request = {"do": "compile", "grammar": grammar, "limits": _LIMITS}
        try:
            answer = self._trial.ask(request, COMPILE_SECONDS)
        except TrialKilled as error:
            raise CompileTimeout(f"it could not be compiled: {error}") from None
        if "error" in answer:
            raise refusal(answer["error"])


@dataclass(frozen=True, slots=True, kw_only=True)
class LlguidanceProgram:
    """A grammar compiled for one vocabulary."""

    key: str
    tokenizer: LlguidanceTokenizer
    matcher: LLMatcher = field(repr=False)
    num_bytes: int
    ignored: tuple[str, ...] = ()
    json_schema: str | None = None
    # Of a choice: the texts, for exact completions.
    options: tuple[bytes, ...] = ()
    close: tuple[int, ...] | None = None
    longest_jump: int = 0
    backend: str = "llguidance"

    def new_state(self) -> "LlguidanceState":
        return LlguidanceState(self, self.matcher.deep_copy())


class LlguidanceState:
    """One sequence's matcher; tokens are checked first, for its errors are for ever."""

    __slots__ = ("_matcher", "_program", "_tokens")

    def __init__(
        self, program: LlguidanceProgram, matcher: LLMatcher, tokens: Sequence[int] = ()
    ) -> None:
        self._program = program
        self._matcher = matcher
        self._tokens = list(tokens)

    @property
    def failure(self) -> str:
        return self._matcher.get_error()

    @property
    def is_accepting(self) -> bool:
        return self._matcher.is_accepting()

    @property
    def is_finished(self) -> bool:
        return self._matcher.is_stopped() and self._matcher.is_accepting()

    def allowed(self, row: MaskRow) -> None:
        matcher, tokenizer = self._matcher, self._program.tokenizer
        if matcher.is_stopped():
            row[:] = 0
        else:
            matcher.unsafe_compute_mask_ptr(row.ctypes.data, tokenizer.mask_bytes)
            row[tokenizer.mask_bytes >> 2 :] = 0
            # The end that is the matcher's own is no token of the model.
            row[tokenizer.own_end[0]] &= tokenizer.own_end[1]
        if matcher.is_accepting():
            tokenizer.spelling.allow_end(row)

    def advance(self, token: int) -> None:
        if token in self._ends:
            is_legal = self.is_accepting
        else:
            is_legal = self._matcher.validate_tokens([token]) == 1
            is_legal = is_legal and self._matcher.consume_token(token)
        # A matcher that ran into a limit of its own says so in `failure`.
        if not is_legal and not self._matcher.is_error():
            raise ConstraintViolation(token)
        self._tokens.append(token)

    def validate(self, tokens: Sequence[int]) -> int:
        return self._matcher.validate_tokens(list(tokens))

    def rollback(self, num_tokens: int) -> None:
        if num_tokens == 0:
            return
        # The matcher has seen no end of the text.
        count = sum(token not in self._ends for token in self._tokens[-num_tokens:])
        if count and not self._matcher.rollback(count):
            raise RuntimeError(f"the matcher cannot go back: {self._matcher.get_error()}")
        del self._tokens[-num_tokens:]

    def forced_tokens(self) -> list[int]:
        if self.is_accepting or self._matcher.is_stopped():
            return []
        tokens = self._matcher.compute_ff_tokens()[:MAX_FORCED_TOKENS]
        spelled = self._program.tokenizer.spelling.token_bytes
        return tokens if all(token < len(spelled) and spelled[token] for token in tokens) else []

    def close_tokens(self) -> list[int] | None:
        if self._matcher.is_error():
            return None
        if self.is_accepting:
            return []
        spelling = self._program.tokenizer.spelling
        if self._program.options:
            written = spelling.vocabulary.bytes_of(self._tokens)
            data = closing.shortest(self._program.options, written)
        else:
            data = closing.completion(_Walker(self._program.tokenizer, self._matcher))
        if data is None:
            return None
        for tokens in (spelling.tokenize(data), spelling.spell(data)):
            if tokens is not None and self.completes(tokens):
                return tokens
        return None

    def completes(self, tokens: Sequence[int]) -> bool:
        matcher = self._matcher.deep_copy()
        return matcher.try_consume_tokens(list(tokens)) == len(tokens) and matcher.is_accepting()

    def fork(self) -> "LlguidanceState":
        return LlguidanceState(self._program, self._matcher.deep_copy(), self._tokens)

    @property
    def _ends(self) -> frozenset[int]:
        return self._program.tokenizer.spelling.vocabulary.eos_ids


class _Walker:
    """A matcher moved byte by byte, through the tokens that spell one byte."""

    __slots__ = ("_matcher", "_single", "_tokenizer")

    def __init__(self, tokenizer: LlguidanceTokenizer, matcher: LLMatcher) -> None:
        self._tokenizer = tokenizer
        self._single = tokenizer.spelling.single
        self._matcher = matcher

    @property
    def is_accepting(self) -> bool:
        return self._matcher.is_accepting()

    def forced(self) -> bytes:
        return self._matcher.compute_ff_bytes()

    def allows(self, byte: int) -> bool:
        token = self._single[byte]
        return token >= 0 and self._matcher.validate_tokens([token]) == 1

    def legal(self) -> list[int]:
        if self._matcher.is_stopped():
            return []
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        flags = np.unpackbits(mask, bitorder="little")
        return [byte for byte, token in enumerate(self._single) if token >= 0 and flags[token]]

    def take(self, data: bytes) -> bool:
        tokens = self._tokenizer.spelling.spell(data)
        if tokens is None or self._matcher.validate_tokens(tokens) != len(tokens):
            return False
        return self._matcher.consume_tokens(tokens)

    def fork(self) -> "_Walker":
        return _Walker(self._tokenizer, self._matcher.deep_copy())
