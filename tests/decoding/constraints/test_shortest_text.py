"""The shortest text of a pattern, against every shorter text and `re.fullmatch`."""

import re
from itertools import product

import pytest
from tests.decoding.constraints.conftest import Compile, accepts
from tests.decoding.constraints.test_regex import PATTERNS

from bosal_decoding.constraints.shortest_text import shortest_text
from bosal_decoding.vocabulary import Vocabulary


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@pytest.mark.parametrize("pattern", [*PATTERNS, r".{0,9000}3x", r"(a{3}|bb|ccc){2}", r"[\n]+"])
def test_it_matches_and_none_is_shorter(pattern: str) -> None:
    text = shortest_text(pattern)
    assert text is not None
    assert re.fullmatch(pattern, text, re.ASCII)
    alphabet = sorted(set(text) | set("ab0-.@x "))
    for size in range(min(len(text), 4)):
        for chars in product(alphabet, repeat=size):
            assert not re.fullmatch(pattern, "".join(chars), re.ASCII)


@pytest.mark.parametrize("pattern", ["a{5000}", "(a{90}){90}", "(a{5000}|b{6000})"])
def test_a_long_one_is_not_written_out(pattern: str) -> None:
    assert shortest_text(pattern) is None


def test_a_short_branch_beside_a_long_one_is_found() -> None:
    assert shortest_text("(a{5000}|bb|é)") == "bb"
    assert shortest_text("[\ud800-\ue001]") == "\ue001"


def test_a_program_knows_it_where_a_search_would_not_find_it(
    compile_for: Compile, words: Vocabulary
) -> None:
    program = compile_for(words, " ", regex=r".{0,9000}3x7")
    assert program.close is not None
    assert words.bytes_of(program.close) == b" 3x7"
    assert accepts(program, " ab3x7", words)
    # It ends the text wherever the repetition stands.
    state = program.new_state()
    for token in words.encode_fragment(" hello there"):
        state.advance(token)
    close = state.close_tokens(seconds=0)
    assert close is not None
    assert words.bytes_of(close) == b"3x7"
