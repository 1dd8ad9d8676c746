"""Constraints matched by xgrammar, by explicit name, with what it ignores refused beforehand."""

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch

from bosal_decoding.constraints import closing, regex
from bosal_decoding.constraints.constraint import Constraint, Whitespace
from bosal_decoding.constraints.errors import (
    BackendMissing,
    CompileTimeout,
    ConstraintSyntax,
    ConstraintUnsatisfiable,
    ConstraintUnsupported,
)
from bosal_decoding.constraints.json_schema import longest_jump, read_schema
from bosal_decoding.constraints.limits import COMPILE_SECONDS_UNROLLED, MAX_UNROLLED_REPETITION
from bosal_decoding.constraints.llguidance_compiler import LlguidanceCompiler
from bosal_decoding.constraints.program import ConstraintViolation, MaskRow
from bosal_decoding.constraints.spelling import Spelling
from bosal_decoding.constraints.trial import TrialKilled, TrialProcess
from bosal_decoding.errors import shorten

# It needs torch, which reserves far more than it uses.
_TRIAL_BYTES: Final = 16 << 30
_START_SECONDS: Final = 60.0
_BLANKS: Final[dict[Whitespace, dict[str, Any]]] = {
    "bounded": {"any_whitespace": True, "max_whitespace_cnt": 4},
    "compact": {"any_whitespace": False, "separators": (",", ":")},
    "free": {"any_whitespace": True},
}
# Ignored on a schema that names no type.
_TYPED: Final = frozenset(
    {
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
        "minLength", "maxLength", "pattern", "format",
        "minItems", "maxItems", "prefixItems", "items",
        "minProperties", "maxProperties", "required", "properties", "additionalProperties",
        "patternProperties",
    }
)  # fmt: skip


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
    ) -> "XgrammarProgram":
        try:
            import xgrammar
        except ImportError:
            raise BackendMissing("xgrammar", "xgrammar") from None
        if constraint.json_schema is not None:
            self._refuse_ignored(constraint)
        recipe = _recipe(constraint, lead)
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
        close = state.close_tokens()
        return replace(program, close=None if close is None else tuple(close))

    def _refuse_ignored(self, constraint: Constraint) -> None:
        assert constraint.json_schema is not None
        if constraint.allow_unsupported:
            raise ConstraintUnsupported(
                "'allow_unsupported' goes with llguidance alone", keywords=["allow_unsupported"]
            )
        self._strict.check(constraint)
        schema = read_schema(constraint.json_schema, max_repetition=MAX_UNROLLED_REPETITION)
        for found in _ignored(schema):
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


def _recipe(constraint: Constraint, lead: str) -> dict[str, Any]:
    """Say how the grammar is built, as plain data that the trial process reads too."""
    recipe: dict[str, Any] = {"lead": json.dumps(lead) if lead else ""}
    if constraint.regex is not None:
        pattern = regex.translate(constraint.regex, max_repetition=MAX_UNROLLED_REPETITION)
        return recipe | {"regex": regex.with_literals(pattern)}
    if constraint.choice is not None:
        # JSON's escapes are those of the grammar's strings.
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in constraint.choice)
        return recipe | {"ebnf": f"root ::= {texts}"}
    if constraint.grammar is not None:
        if constraint.syntax != "gbnf":
            raise ConstraintUnsupported(
                "xgrammar takes grammars with 'syntax: gbnf'", keywords=["syntax"]
            )
        return recipe | {"ebnf": constraint.grammar}
    assert constraint.json_schema is not None
    return recipe | {
        "schema": constraint.json_schema,
        "options": _BLANKS[constraint.whitespace],
    }


def grammar_of(recipe: dict[str, Any]) -> Any:
    """Build the grammar that a recipe describes."""
    from xgrammar import Grammar

    if "regex" in recipe:
        grammar = Grammar.from_regex(recipe["regex"])
    elif "ebnf" in recipe:
        grammar = Grammar.from_ebnf(recipe["ebnf"])
    else:
        grammar = Grammar.from_json_schema(recipe["schema"], **recipe["options"])
    if recipe["lead"]:
        return Grammar.concat(Grammar.from_ebnf(f"root ::= {recipe['lead']}"), grammar)
    return grammar


def tokenizer_info(token_bytes: Sequence[bytes]) -> Any:
    """Describe a vocabulary of bytes whose end is one more token; empty ones are special."""
    from xgrammar import TokenizerInfo, VocabType

    return TokenizerInfo(
        [*token_bytes, b"<end>"],
        vocab_type=VocabType.RAW,
        vocab_size=len(token_bytes) + 1,
        stop_token_ids=[len(token_bytes)],
    )


def _ignored(schema: Any) -> Iterator[str]:
    """Yield keywords that xgrammar leaves out without a word."""
    if isinstance(schema, list):
        for part in schema:
            yield from _ignored(part)
    if not isinstance(schema, dict):
        return
    if "type" not in schema:
        yield from (f"'{key}' without 'type'" for key in schema if key in _TYPED)
    for key in ("pattern", "patternProperties", "multipleOf", "format"):
        if key in schema:
            yield f"'{key}'"
    names = schema.get("properties")
    required = schema.get("required", [])
    if isinstance(required, list) and not set(required) <= set(names or ()):
        yield "'required' without 'properties'"
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
            for part in value.values():
                yield from _ignored(part)
        elif key not in ("enum", "const", "default", "examples"):
            yield from _ignored(value)


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

    def close_tokens(self) -> list[int] | None:
        if self.is_accepting:
            return []
        spelling = self._program.spelling
        if self._program.options:
            written = spelling.vocabulary.bytes_of(self._tokens)
            data = closing.shortest(self._program.options, written)
        else:
            data = closing.completion(_Walker(self.fork()))
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
