"""Programs matched by xgrammar, and their states."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bosal_decoding.constraints import closing
from bosal_decoding.constraints.limits import CLOSE_SECONDS
from bosal_decoding.constraints.program import ConstraintViolation, MaskRow
from bosal_decoding.constraints.spelling import Spelling


@dataclass(frozen=True, slots=True, kw_only=True)
class XgrammarProgram:
    """A grammar compiled for one vocabulary."""

    key: str
    spelling: Spelling
    compiled: Any = field(repr=False)
    num_bytes: int
    json_schema: str | None
    longest_jump: int
    options: tuple[bytes, ...] = ()
    close: tuple[int, ...] | None = None
    ignored: tuple[str, ...] = ()
    backend: str = "xgrammar"

    def new_state(self) -> "XgrammarState":
        from xgrammar import GrammarMatcher

        return XgrammarState(self, GrammarMatcher(self.compiled))


class XgrammarState:
    """One sequence's matcher; after the end it is asked for nothing."""

    __slots__ = ("_matcher", "_program", "_row", "_tokens")

    failure = ""

    def __init__(self, program: XgrammarProgram, matcher: Any, tokens: Sequence[int] = ()) -> None:
        self._program = program
        self._matcher = matcher
        self._tokens = list(tokens)
        size = len(program.spelling.token_bytes) + 1
        self._row = np.zeros(-(-size // 32), np.int32)

    @property
    def is_accepting(self) -> bool:
        return bool(self._matcher.is_completed())

    @property
    def is_finished(self) -> bool:
        return self.is_accepting and not self._ordinary().any()

    def _ordinary(self) -> MaskRow:
        """The legal tokens that spell something."""
        if self._matcher.fill_next_token_bitmask(torch.from_numpy(self._row)[None], 0):
            count = min(len(self._row), self._program.spelling.num_words)
            self._row[:count] &= self._program.spelling.ordinary[:count]
            return self._row
        # Nothing is illegal.
        return self._program.spelling.ordinary

    def allowed(self, row: MaskRow) -> None:
        legal = self._ordinary()
        count = min(len(row), len(legal), self._program.spelling.num_words)
        row[:] = 0
        row[:count] = legal[:count]
        if self.is_accepting:
            self._program.spelling.allow_end(row)

    def advance(self, token: int) -> None:
        spelling = self._program.spelling
        if token in spelling.vocabulary.eos_ids:
            is_legal = self.is_accepting
        else:
            is_legal = bool(spelling.token_bytes[token]) and self._matcher.accept_token(token)
        if not is_legal:
            raise ConstraintViolation(token)
        self._tokens.append(token)

    def validate(self, tokens: Sequence[int]) -> int:
        count = 0
        for token in tokens:
            if not self._matcher.accept_token(token):
                break
            count += 1
        if count:
            self._matcher.rollback(count)
        return count

    def rollback(self, num_tokens: int) -> None:
        if num_tokens:
            ends = self._program.spelling.vocabulary.eos_ids
            count = sum(token not in ends for token in self._tokens[-num_tokens:])
            if count:
                self._matcher.rollback(count)
            del self._tokens[-num_tokens:]

    def forced_tokens(self) -> list[int]:
        return []

    def close_tokens(self, seconds: float = CLOSE_SECONDS) -> list[int] | None:
        if self.is_accepting:
            return []
        spelling = self._program.spelling
        if self._program.options:
            written = spelling.vocabulary.bytes_of(self._tokens)
            data = closing.shortest(self._program.options, written)
        else:
            data = closing.completion(_Walker(self.fork()), seconds)
        if data is None:
            return None
        for tokens in (spelling.tokenize(data), spelling.spell(data)):
            if tokens is not None and self.completes(tokens):
                return tokens
        return None

    def completes(self, tokens: Sequence[int]) -> bool:
        copy = self._matcher.fork()
        return all(copy.accept_token(token) for token in tokens) and bool(copy.is_completed())

    def fork(self) -> "XgrammarState":
        return XgrammarState(self._program, self._matcher.fork(), self._tokens)

    @property
    def program(self) -> XgrammarProgram:
        return self._program


class _Walker:
    """A state moved byte by byte."""

    __slots__ = ("_state",)

    def __init__(self, state: XgrammarState) -> None:
        self._state = state

    @property
    def is_accepting(self) -> bool:
        return self._state.is_accepting

    def forced(self) -> bytes:
        return b""

    def allows(self, byte: int) -> bool:
        token = self._state.program.spelling.single[byte]
        return token >= 0 and self._state.validate([token]) == 1

    def legal(self) -> list[int]:
        spelling = self._state.program.spelling
        row = np.zeros(spelling.num_words, np.int32)
        self._state.allowed(row)
        flags = np.unpackbits(row.view(np.uint8), bitorder="little")
        return [byte for byte, token in enumerate(spelling.single) if token >= 0 and flags[token]]

    def take(self, data: bytes) -> bool:
        tokens = self._state.program.spelling.spell(data)
        if tokens is None or self._state.validate(tokens) != len(tokens):
            return False
        for token in tokens:
            self._state.advance(token)
        return True

    def fork(self) -> "_Walker":
        return _Walker(self._state.fork())
