"""The compile service: kinds, cache, single flight, and limits."""

from concurrent.futures import CancelledError, Future
from threading import Event
from typing import Any

import pytest
from tests.decoding.constraints.conftest import Compile, accepts, legal_tokens

from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.errors import (
    CompileQueueFull,
    ConstraintSyntax,
    ConstraintTooLarge,
    ConstraintUnsatisfiable,
    ConstraintUnsupported,
    InvalidConstraint,
)
from bosal_decoding.constraints.program import Program
from bosal_decoding.errors import InvalidRecipe, UnknownName
from bosal_decoding.vocabulary import Vocabulary

ARRAY = {"type": "array", "items": {"enum": [1, 2]}}
ARITHMETIC = """
start: sum
sum: term (("+" | "-") term)*
term: NUMBER | "(" sum ")"
NUMBER: /\\d+/
"""


def constraint(**fields: Any) -> Constraint:
    return Constraint.read(fields, "constraint")


@pytest.mark.parametrize(
    ("text", "expected"), [("1+(2-30)", True), ("1+", False), ("(1", False), ("١", False)]
)
def test_a_lark_grammar_is_a_language(
    compile_for: Compile, words: Vocabulary, text: str, expected: bool
) -> None:
    assert accepts(compile_for(words, grammar=ARITHMETIC), text, words) == expected


@pytest.mark.parametrize(("text", "expected"), [("yes", True), ("no  x", True), ("maybe", False)])
def test_a_gbnf_grammar_is_one_too(
    compiled: Compile, byte_level_vocabulary: Vocabulary, text: str, expected: bool
) -> None:
    grammar = 'root ::= "yes" | "no" rest?\nrest ::= [ \\t]+ [a-z]'
    program = compiled(grammar=grammar, syntax="gbnf")
    assert accepts(program, text, byte_level_vocabulary) == expected


def test_choices_may_begin_alike_and_stand_behind_the_lead(
    compile_for: Compile, words: Vocabulary
) -> None:
    choices = ["no", "not sure", "nothing at all", "東京", "😀 yes"]
    program = compile_for(words, " ", choice=choices)
    for text in choices:
        assert accepts(program, f" {text}", words)
        assert not accepts(program, text, words)
    assert not accepts(program, " not", words)
    assert program.close is not None
    assert words.bytes_of(program.close) == b" no"


@pytest.mark.parametrize(
    ("fields", "error", "word"),
    [
        ({"grammar": "start: x"}, ConstraintSyntax, "unknown name"),
        ({"grammar": "start: (", "syntax": "gbnf"}, ConstraintSyntax, "GBNF"),
        ({"grammar": "root ::= x", "syntax": "gbnf"}, ConstraintSyntax, "GBNF"),
        ({"grammar": 'root ::= "x" ' + "(" * 3000, "syntax": "gbnf"}, InvalidConstraint, ""),
        ({"grammar": "start: <|im_end|>"}, ConstraintUnsupported, "im_end"),
        ({"grammar": "start: <[12]>"}, ConstraintUnsupported, "special token"),
        ({"grammar": "%llguidance {}\nstart: /a/"}, ConstraintUnsupported, "llguidance"),
        ({"grammar": "start: a\na[temperature=0.5]: /b/"}, ConstraintUnsupported, "temperature"),
        ({"grammar": 'start: "a[temperature=1]"\n// a[temperature=1]: b'}, None, ""),
        ({"grammar": "start: /(?=a)b/"}, ConstraintUnsupported, "look-around"),
        ({"grammar": 'start: "a"\n' + 'r: "b"\n' * 501}, ConstraintTooLarge, "500"),
        ({"grammar": 'start: "a" & "b"'}, InvalidConstraint, ""),
        ({"regex": "[a-z]{9999}[a-z]{9999}"}, None, ""),
    ],
)
def test_a_grammar_that_cannot_be_honoured_is_refused_by_name(
    compiled: Compile, fields: dict[str, Any], error: type[InvalidConstraint] | None, word: str
) -> None:
    if error is None:
        assert compiled(**fields).new_state()
        return
    with pytest.raises(error, match=word or "."):
        compiled(**fields)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "exactly one of"),
        ({"regex": "a", "choice": ["b"]}, "choice and regex"),
        ({"choice": ["a", "a"]}, "twice"),
        ({"choice": []}, "at least 1"),
        ({"choice": ["a" * 150_000, "b" * 150_000]}, "300000 bytes together; at most 262144"),
        ({"regex": "a", "whitespace": "free"}, "json_schema"),
        ({"regex": "a", "syntax": "gbnf"}, "grammar"),
        ({"regexp": "a"}, "did you mean 'regex'"),
        ({"regex": "a", "backend": "outlines"}, "outlines_core"),
        ({"regex": "x" * 8193}, "8192"),
        ({"regex": 7}, "string"),
    ],
)
def test_a_document_that_is_no_constraint_is_refused(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidRecipe, match=word):
        constraint(**fields)


def test_programs_are_cached_by_content_and_refusals_too(
    compiler: ConstraintCompiler, byte_level_vocabulary: Vocabulary
) -> None:
    first = compiler.compile(constraint(regex="ab+"), byte_level_vocabulary)
    assert compiler.compile(constraint(regex="ab+"), byte_level_vocabulary) is first
    assert compiler.compile(constraint(regex="ab+"), byte_level_vocabulary, " ") is not first
    refused = compiler.submit(constraint(regex="a(?=b)"), byte_level_vocabulary).exception()
    again = compiler.submit(constraint(regex="a(?=b)"), byte_level_vocabulary)
    assert again.done()
    assert again.exception() is refused


def test_the_cache_is_bounded_by_bytes(byte_level_vocabulary: Vocabulary) -> None:
    compiler = ConstraintCompiler(cache_bytes=5 << 20)
    try:
        programs = [
            compiler.compile(constraint(regex=f"a{n}"), byte_level_vocabulary) for n in range(4)
        ]
        last = compiler.compile(constraint(regex="a3"), byte_level_vocabulary)
        assert last is programs[-1]
        first = compiler.compile(constraint(regex="a0"), byte_level_vocabulary)
        assert first is not programs[0]
    finally:
        compiler.close()


def test_one_constraint_is_compiled_once_and_the_queue_is_bounded(
    byte_level_vocabulary: Vocabulary,
) -> None:
    compiler = ConstraintCompiler(max_waiting=2)
    gate = Event()
    try:
        compiler._quick.submit(gate.wait)
        first = compiler.submit(constraint(regex="a"), byte_level_vocabulary)
        assert compiler.submit(constraint(regex="a"), byte_level_vocabulary) is first
        compiler.submit(constraint(regex="b"), byte_level_vocabulary)
        with pytest.raises(CompileQueueFull):
            compiler.submit(constraint(regex="c"), byte_level_vocabulary)
        gate.set()
        assert first.result().backend == "llguidance"
        compiler.compile(constraint(regex="c"), byte_level_vocabulary)
    finally:
        gate.set()
        compiler.close()


def test_one_owner_cannot_fill_the_queue_and_owners_take_turns(
    byte_level_vocabulary: Vocabulary,
) -> None:
    compiler = ConstraintCompiler(max_waiting=4)
    begun, gate = Event(), Event()
    done: list[str] = []

    def hold() -> None:
        begun.set()
        gate.wait()

    def submit(pattern: str, owner: str) -> Future[Program]:
        future = compiler.submit(constraint(regex=pattern), byte_level_vocabulary, owner=owner)
        future.add_done_callback(lambda _: done.append(pattern))
        return future

    try:
        compiler._quick.submit(hold)
        assert begun.wait(10)
        futures = [submit("a", "flooder"), submit("b", "flooder")]
        with pytest.raises(CompileQueueFull, match="2 constraints"):
            submit("c", "flooder")
        futures += [submit("d", "other"), submit("e", "another")]
        gate.set()
        for future in futures:
            future.result(timeout=60)
        assert done == ["a", "d", "e", "b"]
    finally:
        gate.set()
        compiler.close()


def test_what_nobody_waits_for_any_more_is_not_compiled_and_takes_no_place(
    byte_level_vocabulary: Vocabulary,
) -> None:
    compiler = ConstraintCompiler(max_waiting=1)
    begun, gate = Event(), Event()

    def hold() -> None:
        begun.set()
        gate.wait()

    try:
        compiler._quick.submit(hold)
        assert begun.wait(10)
        first = compiler.submit(constraint(regex="a"), byte_level_vocabulary)
        assert compiler.submit(constraint(regex="a"), byte_level_vocabulary) is first
        compiler.abandon(first)
        assert not first.done()  # somebody still waits
        compiler.abandon(first)
        assert first.cancelled()
        second = compiler.submit(constraint(regex="b"), byte_level_vocabulary)
        again = compiler.submit(constraint(regex="b"), byte_level_vocabulary)
        gate.set()
        assert second.result(timeout=60).backend == "llguidance"
        compiler.abandon(again)  # too late: it is done, and stays
        assert compiler.submit(constraint(regex="b"), byte_level_vocabulary).done()
        assert not compiler.submit(constraint(regex="a"), byte_level_vocabulary).cancelled()
    finally:
        gate.set()
        compiler.close()


def test_what_is_cheap_does_not_wait_for_what_may_take_long(
    byte_level_vocabulary: Vocabulary,
) -> None:
    compiler = ConstraintCompiler()
    gate = Event()
    try:
        compiler._compiling.submit(gate.wait)
        slow = compiler.submit(constraint(regex="a{9000}"), byte_level_vocabulary)
        compiler.compile(constraint(regex="a"), byte_level_vocabulary)
        assert not slow.done()
    finally:
        gate.set()
        compiler.close()


@pytest.mark.parametrize(
    ("option", "value"),
    [("whitespace", "compact"), ("rules_in_strings", True), ("allow_unsupported", True)],
)
def test_an_option_that_a_registered_type_has_no_use_for_is_refused(
    byte_level_vocabulary: Vocabulary, option: str, value: Any
) -> None:
    types = {"answer": constraint(choice=["yes", "no"]), "list": constraint(json_schema=ARRAY)}
    compiler = ConstraintCompiler(types)
    try:
        with pytest.raises(InvalidRecipe, match="the type is a choice") as refused:
            compiler.submit(
                constraint(python_type="answer", **{option: value}), byte_level_vocabulary
            )
        assert refused.value.field == option
        compiler.compile(constraint(python_type="list", **{option: value}), byte_level_vocabulary)
    finally:
        compiler.close()


def test_what_waits_is_cancelled_when_the_compiler_closes(
    byte_level_vocabulary: Vocabulary,
) -> None:
    compiler = ConstraintCompiler()
    gate = Event()
    try:
        compiler._compiling.submit(gate.wait)
        waiting = compiler.submit(constraint(regex="a{9000}"), byte_level_vocabulary)
        compiler.close()
        with pytest.raises(CancelledError):
            waiting.result(timeout=5)
    finally:
        gate.set()


def test_registered_types_are_resolved_by_name(byte_level_vocabulary: Vocabulary) -> None:
    compiler = ConstraintCompiler({"answer": constraint(choice=["yes", "no"])})
    try:
        program = compiler.compile(constraint(python_type="answer"), byte_level_vocabulary)
        assert accepts(program, "yes", byte_level_vocabulary)
        with pytest.raises(UnknownName, match="did you mean 'answer'"):
            compiler.submit(constraint(python_type="answr"), byte_level_vocabulary)
    finally:
        compiler.close()


WORST: dict[str, dict[str, Any]] = {
    "long run": {"regex": ".{0,10000}"},
    "counted tail": {"regex": "[ab]*a[ab]{18}"},
    "late a": {"regex": ".*a.{12}"},
    "large enum": {"json_schema": {"enum": [f"value number {n}" for n in range(3000)]}},
    "three long strings": {
        "json_schema": {
            "type": "array",
            "items": {"type": "string", "maxLength": 500},
            "minItems": 3,
            "maxItems": 3,
        }
    },
    "many items": {
        "json_schema": {
            "type": "array",
            "maxItems": 1000,
            "items": {"type": "object", "properties": {"a": {"type": "integer"}}},
        }
    },
    "forty optional": {
        "json_schema": {
            "type": "object",
            "properties": {f"p{n}": {"type": "integer"} for n in range(40)},
            "additionalProperties": False,
        }
    },
    "ambiguous": {"grammar": 'start: s\ns: s s | "a" | "b"'},
    "endless": {"grammar": 'start: "a" start'},
    "nested": {"json_schema": "[" * 5000},
}


@pytest.mark.parametrize("name", WORST)
def test_the_worst_cases_are_compiled_or_refused_and_walked(
    compiled: Compile, byte_level_vocabulary: Vocabulary, name: str
) -> None:
    try:
        program = compiled(**WORST[name])
    except (ConstraintTooLarge, ConstraintSyntax, ConstraintUnsatisfiable):
        return
    state = program.new_state()
    for _ in range(30):
        legal = legal_tokens(state, byte_level_vocabulary) - byte_level_vocabulary.eos_ids
        if not legal or state.failure:
            break
        state.advance(max(legal, key=lambda token: len(byte_level_vocabulary.token_bytes[token])))
    close = state.close_tokens(seconds=20)
    assert name == "endless" or state.failure or close is not None


def test_a_state_goes_back_over_the_end_of_the_text(
    compiled: Compile, byte_level_vocabulary: Vocabulary
) -> None:
    words = byte_level_vocabulary
    state = compiled(regex="ab?").new_state()
    letter_a, letter_b = words.token_bytes.index(b"a"), words.token_bytes.index(b"b")
    state.advance(letter_a)
    state.advance(0)
    state.rollback(1)
    assert legal_tokens(state, words) == {letter_b, 0}
    copy = state.fork()
    state.advance(letter_b)
    assert state.is_finished
    assert legal_tokens(state, words) == {0}
    state.rollback(2)
    assert legal_tokens(state, words) == {letter_a}
    assert legal_tokens(copy, words) == {letter_b, 0}
