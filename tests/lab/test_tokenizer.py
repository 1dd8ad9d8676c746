from itertools import islice
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from bosal_lab import corpus
from bosal_lab.errors import LabError
from bosal_lab.genesis import make_world
from bosal_lab.tokenizer import END, end_of, load_tokenizer, save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    texts = list(islice(corpus.texts(make_world(0), 0), 1500))
    return train_tokenizer(texts, vocabulary=1500)


def test_any_text_survives(trained: Tokenizer) -> None:
    for text in ("Orla\n\nQ: a\tb  c", "naïve — 東京 🙂", "  two  spaces ", "<|endoftex|>"):
        assert trained.decode(trained.encode(text).ids) == text


def test_nothing_is_added_to_a_text(trained: Tokenizer) -> None:
    assert trained.encode("").ids == []
    assert end_of(trained) not in trained.encode("Where was she born?").ids


@pytest.mark.parametrize("text", ["\n", "\n\n", "I", " I", "We", " -", " *", "-", "Q", ":"])
def test_what_rules_name_is_one_token(trained: Tokenizer, text: str) -> None:
    assert len(trained.encode(text).ids) == 1


def test_digits_stand_alone(trained: Tokenizer) -> None:
    assert trained.encode("in 1712.").tokens == ["in", "Ġ1", "7", "1", "2", "."]


def test_the_end_token_is_one_token_and_closes_documents(trained: Tokenizer) -> None:
    ids = corpus.encode(trained, ["one", "two"])
    assert list(ids).count(end_of(trained)) == 2
    assert ids[-1] == end_of(trained)


def test_transformers_reads_it_with_its_end_token(trained: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(trained, tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert read.eos_token == END
    assert read("Q: Where?").input_ids == trained.encode("Q: Where?").ids
    assert load_tokenizer(tmp_path).get_vocab() == trained.get_vocab()


def test_a_tokenizer_without_the_end_token_is_refused() -> None:
    from tokenizers import models

    with pytest.raises(LabError, match="endoftext"):
        end_of(Tokenizer(models.BPE()))
