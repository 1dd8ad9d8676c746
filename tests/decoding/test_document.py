"""YAML in, plain data out, without surprises."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal_decoding.document import read_yaml, write_yaml
from bosal_decoding.errors import InvalidRecipe
from bosal_decoding.limits import MAX_DOCUMENT_BYTES

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(document=DOCUMENTS)
def test_what_is_written_reads_back(document: object) -> None:
    assert read_yaml(write_yaml(document)) == document


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "n", "No", "OFF"])
def test_yaml_1_1_booleans_are_text(word: str) -> None:
    assert read_yaml(f"{{{word}: {word}}}") == {word: word}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-0012", -12),
        ("1e5", 1e5),
        (".5", 0.5),
        ("-1.5", -1.5),
        ("2020-01-01", "2020-01-01"),
        ("1:30", "1:30"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("'12'", "12"),
        ("=", "="),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    result = read_yaml(text)
    assert result == value
    assert type(result) is type(value)


def test_json_is_yaml() -> None:
    assert read_yaml('{"a": [1, 2.5, "x", null, true]}') == {"a": [1, 2.5, "x", None, True]}


def test_json_escapes_of_one_character_are_joined() -> None:
    assert read_yaml(json.dumps({"😀": "a😀"})) == {"😀": "a😀"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: key 'a' is given twice"),
        ("x: {y: 1, y: 2}", "key 'y' is given twice"),
        ("a: &x 1\nb: *x", "anchors and aliases are not allowed"),
        ("a: !!python/object/apply:os.getcwd []", "tags are not allowed"),
        ("a: !!binary aGk=", "tags are not allowed"),
        ("? [1, 2]\n: 3", "a key must be a scalar"),
        ("a: b: c", "mapping values are not allowed here"),
        ("a\n---\nb", "but found another document"),
        ("\x00", "not readable as YAML"),
        ("[" * 5000, "not readable as YAML: RecursionError"),
        ("9" * 5000, "not readable as YAML: ValueError"),
        ("x" * (MAX_DOCUMENT_BYTES + 1), f"larger than {MAX_DOCUMENT_BYTES} bytes"),
    ],
)
def test_bad_documents_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        read_yaml(text)
    assert message in str(caught.value)
