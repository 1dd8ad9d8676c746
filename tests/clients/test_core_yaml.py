"""The client's YAML is the server's: two readers, one language."""

import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bosal_client.core_yaml import read_yaml
from bosal_decoding import document
from bosal_decoding.errors import InvalidRecipe

NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=9,
)
# What YAML's versions, or two readers, may take for different things.
SCALARS = st.from_regex(r"[-+.0-9eE_xXoOnNaAiIfFyYsStTrRuUlL~:]{1,9}", fullmatch=True)


def outcome(text: str) -> tuple[str, Any]:
    try:
        return "read", read_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return "refused", None


def theirs(text: str) -> tuple[str, Any]:
    try:
        return "read", document.read_yaml(text)
    except InvalidRecipe:
        return "refused", None


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    "text",
    [
        '"\\ud83d\\ude42"',  # one character, as JSON writes it
        '"\\ud83d"',
        "a: 1\na: 2",
        "&a [1, *a]",
        "!!str 1",
        "[on, off, yes, no, y, n, True, TRUE, tRue, NULL, ~]",
        "[1_000, 0x10, 010, 0o7, 12:30, 2001-01-01, 1e5, 1., .5, +.inf, .NaN, .nan]",
        "? [a]\n: 1",
        "{a: , b}",
        "",
        "- - 1\n  -",
        "<<: {a: 1}",
        "%YAML 1.1\n---\na",
        "a\n---\nb",
        "\t",
    ],
)
def test_both_read_the_same_of_what_is_odd(text: str) -> None:
    assert same(outcome(text), theirs(text)), (outcome(text), theirs(text))


@given(NESTED)
def test_both_read_what_json_and_yaml_write(value: Any) -> None:
    for text in (json.dumps(value), yaml.safe_dump(value, allow_unicode=True)):
        assert same(outcome(text), theirs(text)), text


@given(SCALARS)
def test_both_take_a_scalar_for_the_same(text: str) -> None:
    assert same(outcome(text), theirs(text))
