"""The noise specification against plain integers, published vectors and its own law."""

import numpy as np
import pytest
import torch
from scipy import stats
from tests.kernels import oracle

from bosal_kernels import choice_key, gumbel
from bosal_kernels.noise import (
    Source,
    coin,
    exponential,
    group_noise,
    negative_log,
    pair_noise,
    philox4x32,
)

# Random123 1.14, tests/kat_vectors: rounds, counter, key, words.
PUBLISHED = (
    (7, "0 0 0 0", "0 0", "5f6fb709 0d893f64 4f121f81 4f730a48"),
    (7, "ffffffff " * 4, "ffffffff " * 2, "5207ddc2 45165e59 4d8ee751 8c52f662"),
    (
        7,
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "4dfccaba 190a87f0 c47362ba b6b5242a",
    ),
    (10, "0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (10, "ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        10,
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
)


def signed(key: int) -> int:
    return key - 2**64 if key >= 2**63 else key


def parsed(words: str) -> list[int]:
    return [int(word, 16) for word in words.split()]


@pytest.mark.parametrize(("rounds", "counter", "key", "words"), PUBLISHED)
def test_philox_gives_the_published_words(rounds: int, counter: str, key: str, words: str) -> None:
    for kind in (torch.tensor, np.array):
        got = philox4x32(
            [kind([word]) for word in parsed(counter)],
            [kind([word]) for word in parsed(key)],
            rounds=rounds,
        )
        assert [word.item() for word in got] == parsed(words)
    assert oracle.philox(parsed(counter), parsed(key), rounds) == parsed(words)


def test_every_token_gets_the_specified_noise() -> None:
    rng = np.random.default_rng(0)
    for vocab_size in (1, 63, 64, 65, 1000):
        key, position = int(rng.integers(2**63)) * 2 + 1, int(rng.integers(2**40))
        tokens = torch.arange(vocab_size)
        got = gumbel(
            torch.full_like(tokens, signed(key)), torch.full_like(tokens, position), tokens
        )
        assert np.array_equal(got.numpy(), oracle.gumbel_row(key, position, vocab_size))


def test_a_block_is_the_scalar_philox_of_its_counter() -> None:
    key, position = 0xFEDCBA9876543210, 0x123456789
    blocks = oracle.philox_blocks(np.array([0, 5, 12563]), position, 1, key)
    for first, block in zip((0, 5, 12563), blocks, strict=True):
        counter = [first, position % 2**32, position >> 32, 1]
        assert block.tolist() == oracle.philox(counter, [key % 2**32, key >> 32], 7)


def test_group_noise_is_the_same_alone_and_in_pairs() -> None:
    key, position = torch.tensor([3, -7]), torch.tensor([0, 2**33 + 5])
    source = Source(key, position)
    row, pair = torch.ones(2, 4).nonzero(as_tuple=True)
    pairs = pair_noise(source, row, pair)
    group = torch.stack([2 * pair, 2 * pair + 1], 1).flatten()
    row = row.repeat_interleave(2)
    alone = group_noise(source, row, group)
    assert torch.equal(pairs.smallest.flatten(), alone.smallest)
    assert torch.equal(pairs.bound.flatten(), alone.bound)
    assert torch.equal(pairs.lane.flatten(), alone.lane)


def test_noise_never_exceeds_the_bound_of_its_group() -> None:
    tokens = torch.arange(64 * 500)
    key, position = torch.full_like(tokens, 11), torch.full_like(tokens, 4)
    of_group = group_noise(Source(key, position), tokens, tokens >> 6)
    noise = gumbel(key, position, tokens)
    assert bool((noise <= of_group.bound).all())
    assert torch.equal(noise.view(-1, 64).amax(1), of_group.bound.view(-1, 64)[:, 0])


def test_extreme_words_give_finite_noise() -> None:
    words = torch.tensor([0, 1, 2**32 - 129, 2**32 - 128, 2**32 - 1])
    values = exponential(words)
    assert bool(torch.isfinite(values).all())
    assert bool((values > 0).all())
    assert bool(torch.isfinite(negative_log(values / 64)).all())
    assert np.array_equal(values.numpy(), oracle.exponential(words.numpy().astype(np.uint64)))


def test_the_noise_of_a_token_does_not_depend_on_its_company() -> None:
    tokens = torch.arange(5000)
    key, position = torch.full_like(tokens, 99), torch.full_like(tokens, 3)
    whole = gumbel(key, position, tokens)
    some = torch.tensor([4999, 17, 17, 64])
    assert torch.equal(gumbel(key[:4], position[:4], some), whole[some])


def test_noise_follows_the_gumbel_law_and_tokens_are_independent() -> None:
    # One group at many positions: its own law, and every pair of lanes far from a line.
    count = 3000
    token = torch.arange(64).repeat(count)
    position = torch.arange(count).repeat_interleave(64)
    noise = gumbel(torch.full_like(token, 12345), position, token).view(count, 64).double()
    uniform = torch.exp(-torch.exp(-noise))
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-4
    assert float(np.abs(np.corrcoef(uniform.T.numpy()) - np.eye(64)).max()) < 5.5 / count**0.5


@pytest.mark.parametrize("step", ["position", "seed", "choice"])
def test_neighbouring_streams_are_independent(step: str) -> None:
    count = 4000
    number = torch.arange(count)
    if step == "position":
        key, position = torch.full_like(number, 7), number
    elif step == "seed":
        key, position = number, torch.zeros_like(number)
    else:
        key = torch.tensor([signed(choice_key(5, choice)) for choice in range(count)])
        position = torch.zeros_like(number)
    noise = gumbel(key, position, torch.full_like(number, 130)).double()
    uniform = torch.exp(-torch.exp(-noise)).numpy()
    cells = np.histogram2d(uniform[:-1], uniform[1:], bins=8, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.flatten()).pvalue > 1e-4


def test_choice_zero_keeps_the_seed_and_other_choices_mix_it() -> None:
    assert choice_key(42, 0) == 42
    assert choice_key(-1, 0) == 2**64 - 1
    keys = {choice_key(42, choice) for choice in range(1000)}
    assert len(keys) == 1000
    # Vigna's splitmix64 seeded with 0: its first two outputs.
    assert choice_key(0, 1) == 0xE220A8397B1DCDAF
    assert choice_key(0, 2) == 0x6E789E6AA1B965F4


def test_the_coin_is_its_own_stream() -> None:
    position = torch.arange(20000)
    key = torch.full_like(position, 9)
    got = coin(key, position)
    assert float(got[123]) == oracle.coin(9, 123)
    assert stats.kstest(got.numpy(), "uniform").pvalue > 1e-4
