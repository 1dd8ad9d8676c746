"""Sentences and paragraphs counted as a text comes and goes: as if it were read anew each time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal_decoding.counted_ends import ParagraphWatcher, SentenceWatcher
from bosal_decoding.sentences import find_sentences
from bosal_decoding.watching import num_trailing_spaces

# Marks, what may belong to them, what makes them none, spaces, halves of characters, no text.
PIECES = [
    b"a", b" ", b"\n", b"\n\n", b" \n", b".", b"!", b"?", b"...", b'"', b")", b"_____", b". ",
    b" Mr.", b" e.g", b" J", b"\n1.", b" 12", b"12. ", "\u2026".encode(), "\u3002".encode(),
    "\uff01\u300d".encode(), "\u3000".encode(), b"\xe3", b"\x80", b"\x82", b"\xff", b"word " * 30,
]  # fmt: skip


def sentences(text: bytes, count: int) -> int | None:
    """Where the n-th sentence ends, read from the whole text."""
    said = text.decode(errors="surrogateescape")
    ends = [end for _, end in find_sentences(said)]
    if len(ends) < count:
        return None
    return len(said[: ends[count - 1]].encode(errors="surrogateescape"))


def paragraphs(text: bytes, count: int) -> int | None:
    """Where the n-th paragraph ends, read from the whole text."""
    place, number, is_inside = 0, 0, False
    for line in text.split(b"\n")[:-1]:
        if line.strip():
            is_inside = True
        elif is_inside:
            number, is_inside = number + 1, False
            if number == count:
                return len(text[:place].rstrip(b" \t\n\r\f\v"))
        place += len(line) + 1
    return None


@pytest.mark.parametrize(
    ("kind", "oracle"), [(SentenceWatcher, sentences), (ParagraphWatcher, paragraphs)]
)
@given(
    # A piece, or how many pieces are taken back.
    moves=st.lists(st.sampled_from(PIECES) | st.integers(1, 4), max_size=60),
    count=st.integers(1, 5),
)
def test_counting_equals_reading_anew(
    kind: Any, oracle: Any, moves: list[bytes | int], count: int
) -> None:
    watch = kind(count).watch()
    text, ends = bytearray(), [0]
    for move in moves:
        if isinstance(move, int):
            del ends[max(len(ends) - move, 1) :]
            del text[ends[-1] :]
            watch.rewind(len(text))
            continue
        text += move
        ends.append(len(text))
        cut = watch.look(text, len(move), ())
        expected = oracle(bytes(text), count)
        assert (None if cut is None else cut.start) == expected
        if cut is not None:
            # The answer would end here; it goes on if what ended it is taken back.
            ends.pop()
            del text[ends[-1] :]
            watch.rewind(len(text))


def test_a_token_costs_what_it_adds() -> None:
    """Of a long text only the end is read, and what may still change it."""

    class Measured(bytearray):
        num_read = 0

        def __getitem__(self, key: Any) -> Any:
            part = super().__getitem__(key)
            self.num_read += len(part) if isinstance(key, slice) else 1
            return part

    for watcher in (SentenceWatcher(10_000), ParagraphWatcher(10_000)):
        watch = watcher.watch()
        text = Measured()
        for _ in range(2000):
            for piece in (b"So it was.", b" Then", b"\n\n"):
                text += piece
                watch.look(text, len(piece), ())
                watch.num_held(text)
        assert text.num_read < 2000 * 3 * 1000
        assert len(text) == 2000 * 17


def test_spaces_at_the_end_are_counted_however_many() -> None:
    for number in (0, 1, 255, 256, 257, 5000):
        assert num_trailing_spaces(bytearray(b"a" + b" \n" * number)) == 2 * number
    assert num_trailing_spaces(bytearray(b" " * 300)) == 300
    assert num_trailing_spaces(bytearray()) == 0
