"""A compiler of constraints, and walks of texts through what it compiles."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.decoding.conftest import byte_level_tokenizer, sentence_piece_tokenizer

from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.program import Program, State
from bosal_decoding.vocabulary import Vocabulary

Compile = Callable[..., Program]


@pytest.fixture(scope="session")
def compiler() -> Iterator[ConstraintCompiler]:
    compiler = ConstraintCompiler()
    yield compiler
    compiler.close()


@pytest.fixture(scope="session")
def byte_level_vocabulary() -> Vocabulary:
    return Vocabulary.from_tokenizer(byte_level_tokenizer(), eos_ids=[0])


@pytest.fixture(scope="session")
def sentence_piece_vocabulary() -> Vocabulary:
    return Vocabulary.from_tokenizer(sentence_piece_tokenizer(), eos_ids=[2])


@pytest.fixture(scope="session", params=["byte_level", "sentence_piece"])
def words(request: pytest.FixtureRequest) -> Vocabulary:
    """A vocabulary of either family."""
    vocabulary: Vocabulary = request.getfixturevalue(f"{request.param}_vocabulary")
    return vocabulary


@pytest.fixture(scope="session")
def compile_for(compiler: ConstraintCompiler) -> Compile:
    def compile_for(vocabulary: Vocabulary, lead: str = "", **fields: Any) -> Program:
        return compiler.compile(Constraint.read(fields, "constraint"), vocabulary, lead)

    return compile_for


@pytest.fixture(scope="session")
def compiled(compile_for: Compile, byte_level_vocabulary: Vocabulary) -> Compile:
    def compiled(**fields: Any) -> Program:
        return compile_for(byte_level_vocabulary, **fields)

    return compiled


def legal_tokens(state: State, vocabulary: Vocabulary) -> set[int]:
    """The tokens of a state's mask, read bit by bit."""
    row = np.full(vocabulary.size // 32 + 3, -1, np.int32)
    state.allowed(row)
    flags = np.unpackbits(row.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(flags).tolist())


def accepts(program: Program, text: str, vocabulary: Vocabulary) -> bool:
    """Whether tokens that the masks allow spell the text, and the end is legal behind them.

    Where only one text is left, a mask holds the canonical token alone, so any cut will do.
    """
    data = text.encode()
    state = program.new_state()
    dead: set[int] = set()

    def reach(start: int) -> bool:
        legal = legal_tokens(state, vocabulary)
        ends = legal & vocabulary.eos_ids
        assert bool(ends) == state.is_accepting
        if start == len(data):
            return state.is_accepting
        fitting = [
            token for token in legal - ends if data.startswith(vocabulary.token_bytes[token], start)
        ]
        assert all(vocabulary.token_bytes[token] for token in legal - ends), "a special token"
        for token in sorted(fitting, key=lambda token: -len(vocabulary.token_bytes[token])):
            end = start + len(vocabulary.token_bytes[token])
            assert state.validate([token]) == 1
            if end in dead:
                continue
            state.advance(token)
            if reach(end):
                return True
            dead.add(end)
            state.rollback(1)
        return False

    return reach(0)
