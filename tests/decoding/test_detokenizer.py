from hypothesis import given
from hypothesis import strategies as st

from bosal_decoding.detokenizer import Detokenizer


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[begin:end] for begin, end in zip(places, places[1:], strict=False)]


@given(text=st.text(), cuts=st.lists(st.integers(0, 100)))
def test_text_comes_out_whole_however_it_is_cut(text: str, cuts: list[int]) -> None:
    detokenizer = Detokenizer()
    given_out = []
    read = b""
    for piece in pieces_of(text.encode(), cuts):
        read += piece
        given_out.append(detokenizer.feed(piece))
        assert text.startswith("".join(given_out))
        # Every character whose last byte was read is out.
        assert len("".join(given_out).encode()) > len(read) - 4 or not read
    assert detokenizer.flush() == ""
    assert "".join(given_out) == text


@given(data=st.binary(), cuts=st.lists(st.integers(0, 100)))
def test_bytes_that_are_no_text_become_replacement_characters(data: bytes, cuts: list[int]) -> None:
    detokenizer = Detokenizer()
    text = "".join(detokenizer.feed(piece) for piece in pieces_of(data, cuts))
    assert text + detokenizer.flush() == data.decode(errors="replace")


def test_half_a_character_waits_and_is_replaced_at_the_end() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.feed("é".encode()[:1]) == ""
    assert detokenizer.feed("é".encode()[1:]) == "é"
    assert detokenizer.feed("🙂".encode()[:3]) == ""
    assert detokenizer.flush() == "\ufffd"


def test_the_lead_is_dropped_once_and_only_at_the_beginning() -> None:
    detokenizer = Detokenizer(" ")
    pieces = [detokenizer.feed(piece) for piece in (b"", b" ", b" Paris", b" is")]
    assert "".join(pieces) == " Paris is"
    assert Detokenizer(" ").feed(b"Paris is") == "Paris is"
