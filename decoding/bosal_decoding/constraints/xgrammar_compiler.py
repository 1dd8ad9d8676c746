"""Compiles constraints with xgrammar, by explicit name; what it would ignore is refused."""

from base64 import b64encode
from dataclasses import replace
from typing import Any, Final

import numpy as np

from bosal_decoding.constraints.constraint import Constraint
from bosal_decoding.constraints.errors import (
    BackendMissing,
    CompileTimeout,
    ConstraintSyntax,
    ConstraintUnsatisfiable,
    ConstraintUnsupported,
)
from bosal_decoding.constraints.json_schema import longest_jump, read_schema
from bosal_decoding.constraints.limits import (
    COMPILE_SECONDS_UNROLLED,
    FIRST_CLOSE_SECONDS,
    MAX_UNROLLED_REPETITION,
)
from bosal_decoding.constraints.llguidance_compiler import LlguidanceCompiler
from bosal_decoding.constraints.spelling import Spelling
from bosal_decoding.constraints.trial import TrialKilled, TrialProcess
from bosal_decoding.constraints.xgrammar_grammar import (
    grammar_of,
    ignored_keywords,
    recipe_of,
    tokenizer_info,
)
from bosal_decoding.constraints.xgrammar_program import XgrammarProgram
from bosal_decoding.errors import shorten

# It needs torch, which reserves far more than it uses.
_TRIAL_BYTES: Final = 16 << 30
_START_SECONDS: Final = 60.0


class XgrammarCompiler:
    """Compiles with xgrammar; used by one thread."""

    def __init__(self, strict: LlguidanceCompiler) -> None:
        """`strict` refuses the schema keywords that xgrammar would ignore."""
        self._strict = strict
        self._trial = TrialProcess(_TRIAL_BYTES)
        self._is_warm = False
        self._tokenizers: dict[str, Any] = {}

    def close(self) -> None:
        self._trial.close()

    def compile(
        self, key: str, constraint: Constraint, spelling: Spelling, lead: str
    ) -> XgrammarProgram:
        try:
            import xgrammar
        except ImportError:
            raise BackendMissing("xgrammar", "xgrammar") from None
        if constraint.json_schema is not None:
            self._refuse_ignored(constraint)
        recipe = recipe_of(constraint, lead)
        self._try(recipe, spelling)
        digest = spelling.vocabulary.digest
        if digest not in self._tokenizers:
            self._tokenizers[digest] = tokenizer_info(spelling.token_bytes)
        compiler = xgrammar.GrammarCompiler(
            self._tokenizers[digest], max_threads=1, cache_enabled=False
        )
        compiled = compiler.compile_grammar(grammar_of(recipe))
        options = tuple((lead + text).encode() for text in constraint.choice or ())
        program = XgrammarProgram(
            key=key,
            spelling=spelling,
            compiled=compiled,
            num_bytes=compiled.memory_size_bytes,
            json_schema=constraint.json_schema,
            longest_jump=longest_jump(constraint.json_schema),
            options=options,
        )
        state = program.new_state()
        row = np.zeros(spelling.num_words, np.int32)
        state.allowed(row)
        if not row.any():
            raise ConstraintUnsatisfiable("no text satisfies it")
        close = state.close_tokens(FIRST_CLOSE_SECONDS)
        return replace(program, close=None if close is None else tuple(close))

    def _refuse_ignored(self, constraint: Constraint) -> None:
        assert constraint.json_schema is not None
        if constraint.allow_unsupported:
            raise ConstraintUnsupported(
                "'allow_unsupported' goes with llguidance alone", keywords=["allow_unsupported"]
            )
        self._strict.check(constraint)
        schema = read_schema(constraint.json_schema, max_repetition=MAX_UNROLLED_REPETITION)
        for found in ignored_keywords(schema):
            raise ConstraintUnsupported(f"xgrammar ignores {found}", keywords=[found])

    def _try(self, recipe: dict[str, Any], spelling: Spelling) -> None:
        tokens = [b64encode(spelled).decode() for spelled in spelling.token_bytes]
        try:
            if not self._is_warm:
                self._trial.ask({"do": "xgrammar"}, _START_SECONDS)
                self._is_warm = True
            request = {"do": "xgrammar", "recipe": recipe, "tokens": tokens}
            answer = self._trial.ask(request, COMPILE_SECONDS_UNROLLED)
        except TrialKilled as error:
            self._is_warm = False
            raise CompileTimeout(f"it could not be compiled: {error}") from None
        if "error" in answer:
            raise ConstraintSyntax(f"xgrammar: {shorten(answer['error'], 200)}")
