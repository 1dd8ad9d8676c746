"""Programs matched by llguidance: every kind of constraint, the default."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from llguidance import LLMatcher

from bosal_decoding.constraints import closing
from bosal_decoding.constraints.limits import CLOSE_SECONDS, MAX_FORCED_TOKENS
from bosal_decoding.constraints.llguidance_tokenizer import LlguidanceTokenizer
from bosal_decoding.constraints.program import ConstraintViolation, MaskRow

# Ends of a shortest text that are tried elsewhere, up to so many bytes.
_MAX_ENDING: Final = 12


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
    # Of a regex: a shortest text, which no search need find.
    shortest: bytes | None = None
    close: tuple[int, ...] | None = None
    longest_jump: int = 0
    backend: str = "llguidance"

    def new_state(self) -> "LlguidanceState":
        return LlguidanceState(self, self.matcher.deep_copy())


class LlguidanceState:
    """One sequence's matcher; tokens are checked first, for its errors are for ever."""

    __slots__ = ("_address", "_matcher", "_program", "_row", "_tokens")

    def __init__(
        self, program: LlguidanceProgram, matcher: LLMatcher, tokens: Sequence[int] = ()
    ) -> None:
        self._program = program
        self._matcher = matcher
        self._tokens = list(tokens)
        # Where the last row is in memory: asking numpy costs more than some masks.
        self._row: MaskRow | None = None
        self._address = 0

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
            if row is not self._row:
                self._row, self._address = row, row.ctypes.data
            matcher.unsafe_compute_mask_ptr(self._address, tokenizer.mask_bytes)
            if row.nbytes > tokenizer.mask_bytes:
                row[tokenizer.mask_bytes >> 2 :] = 0
        if matcher.is_accepting():
            # The end that is the matcher's own is no token of the model.
            row[tokenizer.own_end[0]] &= tokenizer.own_end[1]
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

    def close_tokens(self, seconds: float = CLOSE_SECONDS) -> list[int] | None:
        if self._matcher.is_error():
            return None
        if self.is_accepting:
            return []
        spelling = self._program.tokenizer.spelling
        for data in self._endings(seconds):
            for tokens in (spelling.tokenize(data), spelling.spell(data)):
                if tokens is not None and self.completes(tokens):
                    return tokens
        return None

    def _endings(self, seconds: float) -> Iterator[bytes]:
        """Yield what may complete the text, the likeliest first; nothing is checked yet."""
        program = self._program
        written = program.tokenizer.spelling.vocabulary.bytes_of(self._tokens)
        if program.options:
            ending = closing.shortest(program.options, written)
            if ending is not None:
                yield ending
            return
        if program.shortest is not None:
            yield from closing.endings(program.shortest, written, _MAX_ENDING)
        found = closing.completion(_Walker(program.tokenizer, self._matcher), seconds)
        if found is not None:
            yield found

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
