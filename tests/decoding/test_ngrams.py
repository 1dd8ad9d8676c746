"""The index of n-grams against a search through the whole history."""

from hypothesis import given
from hypothesis import strategies as st

from bosal_decoding.ngrams import NgramIndex

TOKENS = st.lists(st.integers(0, 2), max_size=20)


def searched(length: int, tokens: list[int]) -> set[int]:
    last = tokens[len(tokens) - length + 1 :]
    if len(tokens) < length:
        return set()
    return {
        tokens[at + length - 1]
        for at in range(len(tokens) - length + 1)
        if tokens[at : at + length - 1] == last
    }


@given(
    length=st.integers(2, 5),
    history=TOKENS,
    steps=st.lists(TOKENS | st.integers(0, 25), max_size=8),
)
def test_the_index_finds_what_a_search_finds(
    length: int, history: list[int], steps: list[list[int] | int]
) -> None:
    index = NgramIndex(length, history)
    tokens = list(history)
    for step in steps:
        if isinstance(step, int):
            count = min(step, len(tokens))
            index.drop_last(count)
            del tokens[len(tokens) - count :]
        else:
            index.extend(step)
            tokens += step
        repeating = index.repeating()
        assert len(set(repeating)) == len(repeating)
        assert set(repeating) == searched(length, tokens)
