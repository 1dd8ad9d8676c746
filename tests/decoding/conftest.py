"""Tiny real tokenizers of the two supported families."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from bosal_decoding.vocabulary import Vocabulary

SENTENCES = [
    "I think that we should go to the river, and I know the way.",
    "What should we do? We should read the book in the garden!",
    "Q: Name a river.\nA: The Rhine is a river.\n\nQ: Name a lake.\nA: A lake is water.",
    "* one\n* two\n- three\n# head\n## more\n  indented text, the cat sat on the mat.",
    "<|user|>\nHello there\n<|assistant|>\nHello! I am here.",
] * 4


def byte_level_tokenizer(*, bos: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|begin|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if bos:
        tokenizer.post_processor = TemplateProcessing(
            single="<|begin|> $A <|endoftext|>",
            special_tokens=[("<|begin|>", 1), ("<|endoftext|>", 0)],
        )
    return tokenizer


def sentence_piece_tokenizer() -> Tokenizer:
    """Llama-like: spaces as ▁, one put before the text, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    words = [word for sentence in SENTENCES for word in sentence.split()]
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    config = json.loads(tokenizer.to_str())
    vocabulary = config["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    config["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(config))


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    return byte_level_tokenizer()


@pytest.fixture(scope="session")
def sentence_piece() -> Tokenizer:
    return sentence_piece_tokenizer()


@pytest.fixture(scope="session")
def byte_level_with_bos() -> Tokenizer:
    return byte_level_tokenizer(bos=True)


@pytest.fixture(scope="session")
def vocabulary(byte_level: Tokenizer) -> Vocabulary:
    return Vocabulary.from_tokenizer(byte_level, eos_ids=[0])


@pytest.fixture(scope="session")
def spaced_vocabulary(sentence_piece: Tokenizer) -> Vocabulary:
    return Vocabulary.from_tokenizer(sentence_piece, eos_ids=[2])


@pytest.fixture(scope="session", params=["byte_level", "sentence_piece"])
def any_vocabulary(
    request: pytest.FixtureRequest, vocabulary: Vocabulary, spaced_vocabulary: Vocabulary
) -> Vocabulary:
    return vocabulary if request.param == "byte_level" else spaced_vocabulary
