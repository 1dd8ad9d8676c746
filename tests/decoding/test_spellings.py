"""Questions about all tokens at once, against each token looked at by itself."""

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tests.operations import lines_executed

from bosal_decoding import spellings
from bosal_decoding.compile import compile
from bosal_decoding.recipe import Recipe
from bosal_decoding.spellings import Spellings
from bosal_decoding.vocabulary import Vocabulary

CHARACTERS = st.sampled_from(["a", "B", "\n", " ", "7", "é", "Ω", "中", "ا", "😀", "\u0301", "\0"])
# Tokens of bytes may hold half a character, or what could be none.
TOKENS = st.lists(
    st.text(CHARACTERS, max_size=4).map(str.encode)
    | st.binary(max_size=3)
    | st.sampled_from([b"\xe4\xb8", b"\xad", b"\n\n", b"\xed\xb2\x80", b"\xf0\x9f\x98"]),
    max_size=30,
)


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spellings, "_PIECE", 7)
        yield


@given(TOKENS, st.text(CHARACTERS, min_size=1, max_size=2).map(str.encode))
def test_tokens_that_hold_a_part(tokens: list[bytes], part: bytes) -> None:
    expected = [token for token, spelled in enumerate(tokens) if part in spelled]
    assert Spellings(tokens).holding(part).tolist() == expected


@given(TOKENS, st.sampled_from(["Latin", "Han", "Greek", "L", "N", "Common", "Arabic"]))
def test_tokens_without_some_characters(tokens: list[bytes], name: str) -> None:
    whole = regex.compile(rf"[\p{{{name}}}]+")

    def is_one(spelled: bytes) -> bool:
        try:
            return whole.fullmatch(spelled.decode()) is not None
        except UnicodeDecodeError:
            return False

    found = Spellings(tokens).without(regex.compile(rf"[^\p{{{name}}}]"))
    expected = [token for token, spelled in enumerate(tokens) if is_one(spelled)]
    assert found.tolist() == expected


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "dry", "multiplier": 0.8, "breakers": [" ", "e"]},
        {"rule": "allowed_scripts", "scripts": ["Latin"]},
    ],
)
def test_no_rule_looks_at_tokens_one_by_one(
    vocabulary: Vocabulary, rule: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spellings, "_PIECE", 8192)
    large = Vocabulary(
        encoder=vocabulary._encoder,
        token_bytes=[b"", *(f" {token:x} \u00e9t\u00e9".encode() for token in range(40_000))],
        special={0: "</s>"},
        eos_ids=[0],
        unknown_id=None,
        bos=(),
        digest=f"large-{rule['rule']}",
    )
    recipe = Recipe.parse({"rules": [rule]})
    with lines_executed() as count:
        plan = compile(recipe, large, context_tokens=64)
    assert plan.breakers or plan.params.allowed
    assert count.lines < 20_000
