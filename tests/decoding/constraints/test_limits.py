"""Every limit of docs/constraints.md: what exceeds it is refused by field, with the limit."""

import json
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
from tests.decoding.constraints.conftest import Compile

from bosal_decoding.constraints import Constraint, constrained_slot
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.constrained_slot import ConstrainedSlot, Verdict
from bosal_decoding.constraints.errors import CompileTimeout, ConstraintTooLarge
from bosal_decoding.constraints.limits import CLOSE_SECONDS
from bosal_decoding.constraints.llguidance_program import LlguidanceProgram, LlguidanceState
from bosal_decoding.constraints.trial import TrialKilled
from bosal_decoding.errors import DecodingError, InvalidRecipe
from bosal_decoding.vocabulary import Vocabulary


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("fields", "error", "field", "number"),
    [
        ({"json_schema": {"const": "x" * 65_536}}, InvalidRecipe, "json_schema", "65536"),
        ({"grammar": "x" * 65_537}, InvalidRecipe, "grammar", "65536"),
        ({"regex": "x" * 8_193}, InvalidRecipe, "regex", "8192"),
        ({"choice": [str(n) for n in range(10_001)]}, InvalidRecipe, "choice", "10000"),
        ({"json_schema": nested(65)}, ConstraintTooLarge, "json_schema", "64"),
        ({"json_schema": {"enum": [*range(10_001)]}}, ConstraintTooLarge, "json_schema", "10000"),
        ({"json_schema": {"maxLength": 10_001}}, ConstraintTooLarge, "json_schema", "10000"),
        ({"regex": "x{10001}"}, ConstraintTooLarge, "regex", "10000"),
        ({"regex": "((x{200}){200}){200}"}, ConstraintTooLarge, "regex", "1000000"),
        (
            {"grammar": "\n".join(f'r{n}: "a"' for n in range(501))},
            ConstraintTooLarge,
            "grammar",
            "500",
        ),
        ({"regex": "x{501}", "backend": "outlines_core"}, ConstraintTooLarge, "regex", "500"),
    ],
)
def test_what_exceeds_a_limit_is_refused_by_field(
    compiler: ConstraintCompiler,
    byte_level_vocabulary: Vocabulary,
    fields: dict[str, Any],
    error: type[DecodingError],
    field: str,
    number: str,
) -> None:
    with pytest.raises(error) as refused:
        compiler.compile(Constraint.read(fields, ""), byte_level_vocabulary)
    assert refused.value.field == field
    assert number in str(refused.value).replace(",", "").replace("_", "")


def test_a_compilation_that_is_killed_names_its_field(
    byte_level_vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = ConstraintCompiler()

    def ask(request: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert json.loads(request["grammar"])
        raise TrialKilled(f"no answer within {seconds:g} s")

    try:
        monkeypatch.setattr(compiler._llguidance._trial, "ask", ask)
        with pytest.raises(CompileTimeout, match="no answer within 2 s") as refused:
            compiler.compile(Constraint.read({"regex": ".{0,9000}x"}, ""), byte_level_vocabulary)
        assert refused.value.field == "regex"
        assert refused.value.code == "DEADLINE_EXCEEDED"
    finally:
        compiler.close()


def test_a_choice_whose_masks_are_slow_ends_and_says_so(
    compiled: Compile, byte_level_vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constrained_slot, "SLOW_FILL_SECONDS", -1.0)
    words = byte_level_vocabulary
    slot = ConstrainedSlot(compiled(regex="[ab]{20}"), 30, words.eos_ids)
    mask = np.zeros(words.size // 32 + 1, np.int32)
    letter = words.token_bytes.index(b"a")
    verdicts = []
    for _ in range(6):
        slot.fill(mask)
        slot.commit([letter])
        verdicts.append(slot.settle())
    assert verdicts[:4] == [Verdict.GO_ON] * 4
    assert verdicts[4:] == [Verdict.TOO_SLOW] * 2


def test_searches_that_run_out_of_time_become_few_and_short(
    compiled: Compile, byte_level_vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = byte_level_vocabulary
    program = compiled(grammar="start: /[ab]{900}/")
    assert isinstance(program, LlguidanceProgram)
    limits: list[float] = []

    def search(state: LlguidanceState, seconds: float) -> None:
        limits.append(seconds)

    monkeypatch.setattr(LlguidanceState, "close_tokens", search)
    # By the clock every search takes a little longer than the longest may.
    clock = count()
    monkeypatch.setattr(
        constrained_slot, "thread_time", lambda: next(clock) * (CLOSE_SECONDS + 1e-4)
    )
    slot = ConstrainedSlot(replace(program, close=None), 800, words.eos_ids)
    letter = words.token_bytes.index(b"a")
    for _ in range(800):
        slot.commit([letter])
        assert slot.settle() is Verdict.GO_ON
    assert limits[0] == CLOSE_SECONDS / 8
    assert sum(limits) < 3 * CLOSE_SECONDS


def test_far_from_the_budget_nothing_is_searched_for_once_a_token_is_drawn(
    compiled: Compile, byte_level_vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = byte_level_vocabulary
    program = compiled(json_schema={"type": "array", "items": {"type": "string"}})
    slot = ConstrainedSlot(program, 400, words.eos_ids)
    searches = 0
    close_tokens = LlguidanceState.close_tokens

    def search(state: LlguidanceState, seconds: float) -> list[int] | None:
        nonlocal searches
        searches += 1
        return close_tokens(state, seconds)

    monkeypatch.setattr(LlguidanceState, "close_tokens", search)
    for byte in b'["ab","cd","' + b"e" * 60:
        slot.look_ahead()
        before = searches
        slot.commit([words.token_bytes.index(bytes([byte]))])
        assert slot.settle() is Verdict.GO_ON
        slot.queue = []
        assert searches == before
    assert searches > 0
