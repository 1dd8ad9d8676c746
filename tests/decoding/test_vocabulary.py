"""Tokens as bytes, checked against the tokenizers library's own decoding."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.decoders import Decoder
from transformers import PreTrainedTokenizerFast

from bosal_decoding.errors import InvalidText, SpecialTokenInText, UnsupportedTokenizer
from bosal_decoding.vocabulary import Vocabulary

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=40)


@given(text=TEXT)
def test_byte_level_tokens_spell_the_text(vocabulary: Vocabulary, text: str) -> None:
    assert vocabulary.bytes_of(vocabulary.encode(text)) == text.encode()


@given(text=TEXT.filter(bool))
def test_sentence_piece_tokens_spell_the_text_behind_one_space(
    spaced_vocabulary: Vocabulary, text: str
) -> None:
    assert spaced_vocabulary.bytes_of(spaced_vocabulary.encode(text)) == b" " + text.encode()


def test_single_tokens_decode_as_the_library_decodes_them(
    byte_level: Tokenizer, vocabulary: Vocabulary
) -> None:
    for token in range(vocabulary.size):
        expected = byte_level.decode([token], skip_special_tokens=True)
        assert vocabulary.token_bytes[token].decode(errors="replace") == expected


@pytest.mark.parametrize("family", ["vocabulary", "spaced_vocabulary"])
def test_every_byte_has_a_token(request: pytest.FixtureRequest, family: str) -> None:
    vocabulary: Vocabulary = request.getfixturevalue(family)
    assert {bytes([byte]) for byte in range(256)} <= set(vocabulary.token_bytes)


def test_ids_of_names_every_token_of_those_bytes(spaced_vocabulary: Vocabulary) -> None:
    # Once as a character of the text, once as a fallback byte.
    ids = spaced_vocabulary.ids_of("t")
    brute = [token for token, text in enumerate(spaced_vocabulary.token_bytes) if text == b"t"]
    assert list(ids) == brute
    assert len(ids) == 2


def test_ids_of_tells_a_leading_space_apart(vocabulary: Vocabulary) -> None:
    assert vocabulary.ids_of("I") != vocabulary.ids_of(" I")
    assert vocabulary.ids_of("no such token") == ()
    assert vocabulary.ids_of("") == ()


@pytest.mark.parametrize(
    ("family", "literal"),
    [
        ("byte_level", "<|endoftext|>"),
        ("byte_level", "<|begin|>"),
        ("sentence_piece", "<s>"),
        ("sentence_piece", "</s>"),
    ],
)
def test_special_tokens_in_text_are_plain_text(
    request: pytest.FixtureRequest, family: str, literal: str
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(family)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    control = tokenizer.token_to_id(literal)
    text = f"say {literal} twice {literal}"
    assert control in tokenizer.encode(text, add_special_tokens=False).ids
    ids = vocabulary.encode(text)
    assert vocabulary.bytes_of(ids).strip() == text.encode()
    assert ids.count(control) == (1 if literal == "<s>" else 0)


def test_reading_leaves_the_callers_tokenizer_alone(byte_level: Tokenizer) -> None:
    before = byte_level.to_str()
    Vocabulary.from_tokenizer(byte_level)
    assert byte_level.to_str() == before
    assert not byte_level.encode_special_tokens


def test_bos_comes_once_and_only_if_the_tokenizer_adds_it(
    byte_level: Tokenizer, byte_level_with_bos: Tokenizer
) -> None:
    assert Vocabulary.from_tokenizer(byte_level).encode("Hello")[0] != 1
    ids = Vocabulary.from_tokenizer(byte_level_with_bos).encode("Hello")
    assert ids.count(1) == 1
    assert ids[0] == 1


def test_an_end_that_the_tokenizer_adds_is_left_away(byte_level_with_bos: Tokenizer) -> None:
    assert byte_level_with_bos.encode("Hello").ids[-1] == 0
    assert 0 not in Vocabulary.from_tokenizer(byte_level_with_bos).encode("Hello")


def test_truncation_and_padding_of_the_tokenizer_are_ignored(byte_level: Tokenizer) -> None:
    limited = Tokenizer.from_str(byte_level.to_str())
    limited.enable_truncation(3)
    limited.enable_padding(length=50)
    text = "the river and the lake and the garden"
    expected = byte_level.encode(text).ids
    assert Vocabulary.from_tokenizer(limited).encode(text) == expected


def test_special_and_eos_tokens_spell_nothing(byte_level: Tokenizer) -> None:
    (eos,) = Vocabulary.from_tokenizer(byte_level).ids_of("!")
    vocabulary = Vocabulary.from_tokenizer(byte_level, eos_ids=[0, eos])
    assert vocabulary.eos_ids == {0, eos}
    assert [vocabulary.token_bytes[token] for token in (0, 1, eos)] == [b"", b"", b""]
    assert eos not in vocabulary.ids_of("!")


def test_the_wrapper_of_transformers_brings_its_own_eos(byte_level: Tokenizer) -> None:
    wrap: Callable[..., Any] = PreTrainedTokenizerFast
    wrapper = wrap(tokenizer_object=byte_level, eos_token="<|endoftext|>")
    vocabulary = Vocabulary.from_tokenizer(wrapper)
    assert vocabulary.eos_ids == {0}
    assert vocabulary.size == len(wrapper)


def test_added_tokens_that_are_not_special_are_text(byte_level: Tokenizer) -> None:
    extended = Tokenizer.from_str(byte_level.to_str())
    extended.add_tokens(["é thought"])
    vocabulary = Vocabulary.from_tokenizer(extended)
    assert vocabulary.token_bytes[vocabulary.size - 1] == "é thought".encode()
    assert vocabulary.size == byte_level.get_vocab_size() + 1


@given(text=TEXT)
def test_offsets_cover_the_characters_that_tokens_spell(vocabulary: Vocabulary, text: str) -> None:
    ids, offsets = vocabulary.encode_with_offsets(text)
    starts = [len(text[:place].encode()) for place in range(len(text) + 1)]
    spelled = 0
    for token, (start, end) in zip(ids, offsets, strict=True):
        length = len(vocabulary.token_bytes[token])
        assert starts[start] <= spelled
        assert spelled + length <= starts[end]
        spelled += length
    assert spelled == starts[-1]


def test_digest_follows_tokens_and_eos(byte_level: Tokenizer, sentence_piece: Tokenizer) -> None:
    digest = Vocabulary.from_tokenizer(byte_level, eos_ids=[0]).digest
    assert Vocabulary.from_tokenizer(byte_level, eos_ids=[0]).digest == digest
    assert Vocabulary.from_tokenizer(byte_level, eos_ids=[0, 1]).digest != digest
    assert Vocabulary.from_tokenizer(sentence_piece, eos_ids=[0]).digest != digest


def test_metaspace_with_unigram_is_read_and_its_control_pieces_are_refused_in_text() -> None:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -1.0), ("▁a", -0.5)]
    pieces += [(char, -5.0) for char in "</s>ab"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    assert vocabulary.bytes_of(vocabulary.encode("a b")) == b" a b"
    with pytest.raises(SpecialTokenInText, match="</s>"):
        vocabulary.encode("a</s>")
    assert vocabulary.encode("é")[-1] == 0


@pytest.mark.parametrize("decoder", [decoders.WordPiece(), decoders.CTC(), None])
def test_other_tokenizers_are_refused_by_name(decoder: Decoder | None) -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    if decoder is not None:
        tokenizer.decoder = decoder
    with pytest.raises(UnsupportedTokenizer, match="WordPiece") as caught:
        Vocabulary.from_tokenizer(tokenizer)
    assert caught.value.code == "FAILED_PRECONDITION"


def test_a_slow_tokenizer_is_refused_by_name() -> None:
    class SlowTokenizer:
        pass

    with pytest.raises(UnsupportedTokenizer, match="SlowTokenizer"):
        Vocabulary.from_tokenizer(SlowTokenizer())


def test_a_lone_surrogate_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(InvalidText):
        vocabulary.encode("a\ud800")
    with pytest.raises(InvalidText):
        vocabulary.ids_of("\ud800")
