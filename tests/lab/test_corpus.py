from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from bosal_lab import corpus
from bosal_lab.errors import DamagedFileError
from bosal_lab.genesis import Size, make_world
from bosal_lab.tokenizer import end_of, train_tokenizer
from bosal_lab.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0, Size().scaled(0.1))


@pytest.fixture(scope="module")
def trained(world: World) -> Tokenizer:
    return train_tokenizer(
        (text for text, _ in zip(corpus.texts(world, 0), range(300), strict=False)), 600
    )


def test_two_writes_give_the_same_ids(world: World, trained: Tokenizer, tmp_path: Path) -> None:
    one, other = tmp_path / "one.bin", tmp_path / "other.bin"
    counts = [corpus.write_corpus(path, world, 0, trained, 1000) for path in (one, other)]
    assert counts[0] == counts[1] >= 1000
    assert one.read_bytes() == other.read_bytes()


def test_validation_documents_are_not_in_the_corpus(
    world: World, trained: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "corpus.bin"
    corpus.write_corpus(path, world, 0, trained, 1000)
    first = next(corpus.texts(world, 0, start=corpus.HELD_OUT))
    ids = corpus.read_corpus(path)
    expected = trained.encode(first).ids
    assert list(ids[: len(expected)]) == expected
    held_out = corpus.held_out(world, 0, trained)
    assert int(np.sum(held_out == end_of(trained))) == corpus.HELD_OUT


def test_a_damaged_corpus_is_named(tmp_path: Path) -> None:
    path = tmp_path / "corpus.bin"
    path.write_bytes(b"odd")
    with pytest.raises(DamagedFileError, match=r"corpus\.bin"):
        corpus.read_corpus(path)
