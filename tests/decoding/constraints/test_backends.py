"""The other matchers, by explicit name: the same languages, with their known bugs repaired."""

import random
import re
from importlib.util import find_spec
from typing import Any

import pytest
from tests.decoding.constraints.conftest import Compile, accepts, legal_tokens
from tests.decoding.constraints.test_regex import texts_near

from bosal_decoding.constraints.errors import ConstraintTooLarge, ConstraintUnsupported
from bosal_decoding.vocabulary import Vocabulary

needs_xgrammar = pytest.mark.skipif(find_spec("xgrammar") is None, reason="needs bosal[xgrammar]")
BOTH = ["outlines_core", pytest.param("xgrammar", marks=needs_xgrammar)]
PATTERNS = [
    r"[0-9]+(\.[0-9]+)?",
    r"a(bab)?",
    r"(no|not sure|nothing)",
    r"(a|ab)(c|bcd)?",
    r"a+?b*?",
    r"\d{2,3}-\w+\s?",
    r"[^a-c\d]+",
    r".{0,3}",
    r"(日本|東京|é)+",
    r"(?i)ab?c",
]


@pytest.mark.parametrize("backend", BOTH)
def test_a_pattern_means_the_same_under_every_backend(
    compile_for: Compile, words: Vocabulary, backend: str
) -> None:
    rng = random.Random(2)
    for pattern in PATTERNS:
        program = compile_for(words, regex=pattern, backend=backend)
        assert program.backend == backend
        texts = [*texts_near(pattern, rng)[:40], "3.14", "not sure", "ab", "abcd", "日本é", "12-a"]
        for text in texts:
            expected = re.fullmatch(pattern, text, re.ASCII) is not None
            assert accepts(program, text, words) == expected, (pattern, text)


@pytest.mark.parametrize("backend", BOTH)
def test_choices_states_and_completions(
    compile_for: Compile, words: Vocabulary, backend: str
) -> None:
    choices = ["no", "not sure", 'a "quoted" one\\', "😀 yes"]
    program = compile_for(words, " ", choice=choices, backend=backend)
    for text in choices:
        assert accepts(program, f" {text}", words)
    assert not accepts(program, " not", words)
    assert program.close is not None
    assert words.bytes_of(program.close) == b" no"
    state = program.new_state()
    for token in program.close:
        state.advance(token)
    assert state.is_accepting
    assert not state.is_finished
    before = legal_tokens(state, words)
    copy = state.fork()
    state.advance(next(iter(words.eos_ids)))
    state.rollback(1)
    assert legal_tokens(state, words) == legal_tokens(copy, words) == before
    assert state.completes(state.close_tokens() or [])


@needs_xgrammar
@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"a":1,"b":"x"}', True), ('{"a":1}', False), ('{"a":"1","b":"x"}', False), ("{}", False)],
)
def test_xgrammar_takes_plain_schemas(
    compile_for: Compile, words: Vocabulary, text: str, expected: bool
) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    program = compile_for(words, json_schema=schema, backend="xgrammar", whitespace="compact")
    assert accepts(program, text, words) == expected
    assert program.close is not None


@needs_xgrammar
def test_special_tokens_are_legal_nowhere_in_a_string_of_xgrammar(
    compile_for: Compile, words: Vocabulary
) -> None:
    program = compile_for(words, json_schema={"type": "string"}, backend="xgrammar")
    state = program.new_state()
    state.advance(words.token_bytes.index(b'"'))
    legal = legal_tokens(state, words)
    assert len(legal) > 100
    assert all(words.token_bytes[token] for token in legal)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"json_schema": {"type": "null"}, "backend": "outlines_core"}, "outlines_core enforces"),
        ({"grammar": "start: /a/", "backend": "outlines_core"}, "outlines_core enforces"),
        pytest.param(
            {"json_schema": {"type": "object", "required": ["a"]}, "backend": "xgrammar"},
            "required",
            marks=needs_xgrammar,
        ),
        pytest.param(
            {"json_schema": {"minimum": 5}, "backend": "xgrammar"}, "minimum", marks=needs_xgrammar
        ),
        pytest.param(
            {"json_schema": {"type": "array", "contains": {}}, "backend": "xgrammar"},
            "contains",
            marks=needs_xgrammar,
        ),
        pytest.param(
            {"grammar": "start: /a/", "backend": "xgrammar"}, "gbnf", marks=needs_xgrammar
        ),
    ],
)
def test_what_a_backend_would_ignore_is_refused(
    compiled: Compile, fields: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConstraintUnsupported, match=word):
        compiled(**fields)


def test_unrolled_repetition_has_a_smaller_bound(compiled: Compile) -> None:
    with pytest.raises(ConstraintTooLarge, match="500"):
        compiled(regex="x{501}", backend="outlines_core")
