from itertools import islice

import numpy as np
import pytest
from tokenizers import Tokenizer

from bosal_lab import corpus
from bosal_lab.batches import IGNORED, LENGTHS, CorpusSource, PairSource
from bosal_lab.genesis import Size, make_world
from bosal_lab.tokenizer import end_of, train_tokenizer
from bosal_lab.tune import example, pair, prompt
from bosal_lab.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0, Size().scaled(0.1))


@pytest.fixture(scope="module")
def trained(world: World) -> Tokenizer:
    return train_tokenizer(islice(corpus.texts(world, 0), 300), 600)


def test_corpus_batches_are_the_corpus_in_order() -> None:
    source = CorpusSource(tokens=np.arange(9000, dtype=np.uint16), batch=1024, seed=1)
    read = [source.at(step).ids.flatten().tolist() for step in range(4)]
    assert [row[0] for row in read] == [0, 1024, 2048, 3072]
    assert sum(read, []) == list(range(4096))
    assert {source.at(step).ids.shape[1] for step in range(40)} == set(LENGTHS)


def test_a_short_corpus_begins_anew() -> None:
    source = CorpusSource(tokens=np.arange(3000, dtype=np.uint16), batch=1024, seed=1)
    assert source.at(50).ids.numel() == 1024


def test_only_answers_and_the_end_carry_a_loss(world: World, trained: Tokenizer) -> None:
    batch = PairSource(world=world, tokenizer=trained, rows=8, seed=0).at(3)
    examples = [example(pair(world, 0, 24 + row)) for row in range(8)]
    examples.sort(key=lambda one: sum(len(trained.encode(text).ids) for text in one))
    for row, (question, answer) in enumerate(examples):
        kept = batch.labels[row][batch.labels[row] != IGNORED].tolist()
        assert kept == [*trained.encode(answer).ids, end_of(trained)]
        start = int((batch.labels[row] != IGNORED).nonzero()[0])
        assert trained.decode(batch.ids[row, :start].tolist()) == question


def test_parts_of_pairs_are_no_wider_than_their_longest_row(
    world: World, trained: Tokenizer
) -> None:
    batch = PairSource(world=world, tokenizer=trained, rows=32, seed=0).at(0)
    parts = batch.parts(batch.ids.shape[1] * 8)
    widths = [part.ids.shape[1] for part in parts]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1] == batch.ids.shape[1]
    assert sum(int((part.labels != IGNORED).sum()) for part in parts) == int(
        (batch.labels != IGNORED).sum()
    )


def test_pairs_are_about_question_form_entities(world: World) -> None:
    for index in range(300):
        ask = pair(world, 0, index)
        assert ask.form == "unknown" or world.by_name[ask.entity].is_asked


def test_a_prompt_is_its_turns_and_nothing_else() -> None:
    assert prompt(("Where?", "Here.", "And when?")) == "Where?\nHere.\nAnd when?\n"
