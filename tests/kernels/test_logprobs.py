"""Log-probabilities, ranks and best tokens against a float64 log-softmax."""

import numpy as np
import pytest
import torch
from tests.kernels import oracle, rows
from tests.kernels.batch import Row, admitted, run

from bosal_kernels import (
    LegalTokens,
    Stage,
    TokenFlag,
    TouchedTokens,
    control,
    score,
    select,
)


def edited(kind: str, vocab_size: int, seed: int, temperature: float, wanted: int) -> Row:
    """A row whose touched tokens include its best ones."""
    rng = np.random.default_rng(seed)
    z = rows.logits(kind, vocab_size, seed)
    ids = np.unique(np.concatenate([z.argsort()[-5:], rng.integers(0, vocab_size, 40)]))
    deltas = rng.normal(0, 3, len(ids))
    flags = np.where(rng.random(len(ids)) < 0.2, int(TokenFlag.BANNED), 0)
    return Row(
        logits=z,
        chain=((Stage.TOP_K, 9.0, 0.0), (Stage.TEMPERATURE, temperature, 0.0)),
        key=seed,
        logprobs=wanted,
        touched=TouchedTokens.of(ids.tolist(), deltas.tolist(), flags.tolist()),
        repetition=1.2,
    )


@pytest.mark.parametrize("vocab_size", [7, 64, 100, 4097])
def test_logprobs_ranks_and_best_tokens_before_and_after_control(vocab_size: int) -> None:
    batch = [
        edited(kind, vocab_size, seed, (1.0, 0.0, 0.4, 3.0)[seed % 4], (0, 3, 20)[seed % 3])
        for seed, kind in enumerate(rows.KINDS * 2)
    ]
    quiet = Row(logits=rows.logits("normal", vocab_size, 99), key=1)
    originals = [row.logits.copy() for row in [*batch[:10], quiet, *batch[10:]]]
    controlled, selection = run([*batch[:10], quiet, *batch[10:]])
    found = selection.logprobs
    assert found is not None
    assert found.rows.tolist() == [place for place in range(len(originals)) if place != 10]
    for number, place in enumerate(found.rows.tolist()):
        row = batch[number]
        token = int(selection.tokens[place])
        raw, shaped = originals[place], controlled.logits[place].numpy()
        after = oracle.log_softmax(shaped, row.chain[1][1])
        before = oracle.log_softmax(raw)
        assert found.raw_logprob[number].item() == pytest.approx(before[token], rel=2e-6, abs=2e-6)
        assert found.controlled_logprob[number].item() == pytest.approx(
            after[token], rel=2e-6, abs=2e-6
        )
        assert int(found.raw_rank[number]) == 1 + int((raw > raw[token]).sum())
        assert int(found.controlled_rank[number]) == 1 + int((shaped > shaped[token]).sum())
        for top, z, logprobs in (
            (found.top_raw, raw, before),
            (found.top_controlled, shaped, after),
        ):
            best = oracle.in_order(z)
            best = best[z[best] > -np.inf][: row.logprobs]
            assert top.ids[number, : len(best)].tolist() == best.tolist()
            np.testing.assert_allclose(
                top.logprobs[number, : len(best)], logprobs[best], rtol=2e-6, atol=2e-6
            )
            assert bool((top.ids[number, len(best) :] == -1).all())
            assert bool(torch.isnan(top.logprobs[number, len(best) :]).all())


def test_the_best_tokens_of_tied_rows_are_those_of_lowest_id() -> None:
    z = np.zeros(500, dtype=np.float32)
    z[400] = 1.0
    _, selection = run([Row(logits=z, logprobs=4), Row(logits=z.copy(), logprobs=100)])
    assert selection.logprobs is not None
    assert selection.logprobs.top_raw.ids[0, :4].tolist() == [400, 0, 1, 2]
    assert selection.logprobs.top_raw.ids[1].tolist() == [400, *range(99)]


def test_a_raw_rank_counts_tokens_that_a_mask_rules_out() -> None:
    z = rows.logits("normal", 200, 4)
    state = admitted([Row(logits=z, logprobs=2)], [0], 1)
    bits = torch.randint(-(2**31), 2**31, (1, 7), generator=torch.Generator().manual_seed(2)).int()
    slots = torch.tensor([0])
    legal = LegalTokens(torch.tensor([0]), bits)
    controlled = control(torch.from_numpy(z.copy())[None], state, slots, legal)
    illegal = int((controlled.logits[0] == -torch.inf).nonzero()[0])
    for token in (int(select(controlled, state, slots).tokens[0]), illegal):
        found = score(controlled, state, torch.tensor([token]))
        assert int(found.raw_rank[0]) == 1 + int((z > z[token]).sum())
        wanted = oracle.log_softmax(z)[token]
        assert found.raw_logprob[0].item() == pytest.approx(wanted, abs=2e-6)


def test_nobody_asking_gets_no_logprobs() -> None:
    row = Row(logits=rows.logits("normal", 100, 0))
    assert run([row])[1].logprobs is None


def test_asking_does_not_change_the_token() -> None:
    z = rows.logits("model", 4097, 3)
    chain = ((Stage.TEMPERATURE, 0.8, 0.0), (Stage.TOP_P, 0.9, 0.0))
    for position in range(20):
        tokens = {
            int(
                run([Row(logits=z, chain=chain, key=2, position=position, logprobs=asked)])[
                    1
                ].tokens[0]
            )
            for asked in (-1, 0, 5)
        }
        assert len(tokens) == 1
