"""Run by its test under Triton's interpreter: the row kernels against torch and float64."""

from tests.kernels import interpreter  # noqa: F401, I001

import numpy as np
import torch
from tests.kernels import oracle, rows

from bosal_kernels import gumbel_topk as torch_draws
from bosal_kernels import row_logprobs as torch_logprobs
from bosal_kernels.fused.gumbel_topk import gumbel_topk
from bosal_kernels.fused.row_logprobs import row_logprobs

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def batch(vocab_size: int, seed: int, kinds: tuple[str, ...]) -> torch.Tensor:
    """Rows of kinds, and some that are no distribution, in a longer stride."""
    found = [rows.logits(kind, vocab_size, seed) for kind in kinds]
    nothing = np.full(vocab_size, -np.inf, dtype=np.float32)
    with_nan, with_inf = found[0].copy(), found[0].copy()
    with_nan[-1], with_inf[vocab_size // 2] = np.nan, np.inf
    stacked = torch.from_numpy(np.stack([*found, nothing, with_nan, with_inf]))
    wide = torch.full((len(stacked), vocab_size + 5), 99.0)
    wide[:, :vocab_size] = stacked
    return wide[:, :vocab_size]


def check_logprobs(logits: torch.Tensor, tokens: torch.Tensor, n: int) -> None:
    found, wanted = row_logprobs(logits, tokens, n), torch_logprobs.row_logprobs(logits, tokens, n)
    assert torch.equal(found.ranks, wanted.ranks)
    assert torch.equal(found.top.ids, wanted.top.ids)
    for ours, theirs in (
        (found.logprobs, wanted.logprobs),
        (found.log_normalizers, wanted.log_normalizers),
        (found.top.logprobs, wanted.top.logprobs),
    ):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-6, atol=2e-6)
    for place, token in enumerate(tokens.tolist()):
        z = logits[place].float().numpy()
        if token < 0 or not np.isfinite(z.max()):
            assert int(found.ranks[place]) == 0
            assert bool(found.logprobs[place].isnan())
            continue
        truth = oracle.log_softmax(z)
        np.testing.assert_allclose(float(found.logprobs[place]), truth[token], rtol=1e-6, atol=2e-6)
        order = oracle.in_order(z)
        order = order[z[order] > -np.inf][:n]
        assert found.top.ids[place, : len(order)].tolist() == order.tolist()


def check_draws(logits: torch.Tensor, keys: torch.Tensor, positions: torch.Tensor, n: int) -> None:
    found = gumbel_topk(logits, keys, positions, n)
    assert torch.equal(found, torch_draws.gumbel_topk(logits, keys, positions, n))
    for place in range(len(logits)):
        z = logits[place].float().numpy()
        wanted = oracle.choose(z, (), int(keys[place]) % 2**64, int(positions[place]))
        assert int(found[place, 0]) == wanted


for number, size in enumerate((1, 31, 64, 65, 4097, 9001)):
    generator = torch.Generator().manual_seed(size)
    kinds = rows.KINDS[number % 6 :: 6]
    dtype = DTYPES[number % 3]
    logits = batch(size, number, kinds).to(dtype)
    tokens = torch.randint(-1, size, (len(logits),), generator=generator)
    check_logprobs(logits, tokens, (0, 3, 20)[number % 3])
    keys = torch.randint(-(2**62), 2**62, (len(logits),), generator=generator)
    positions = torch.randint(0, 2**40, (len(logits),), generator=generator)
    check_draws(logits, keys, positions, (1, 2, 5)[number % 3])
for dtype in DTYPES:
    logits = batch(321, 3, ("normal", "ties", "equal", "half_left")).to(dtype)
    tokens = torch.tensor([5, 0, 320, 7, 1, 1, 1])
    check_logprobs(logits, tokens, 4)
    keys = torch.arange(7) * 0x1234567
    check_draws(logits, keys, keys % 5, 3)
alone = row_logprobs(logits[1:2], tokens[1:2], 4)
together = row_logprobs(logits, tokens, 4)
assert torch.equal(alone.logprobs, together.logprobs[1:2])
assert torch.equal(alone.top.logprobs, together.top.logprobs[1:2])
# And so are draws, in any order.
draws = gumbel_topk(logits, keys, keys % 5, 2)
assert torch.equal(gumbel_topk(logits.flip(0), keys.flip(0), keys.flip(0) % 5, 2).flip(0), draws)
assert torch.equal(gumbel_topk(logits[1:2], keys[1:2], keys[1:2] % 5, 2), draws[1:2])
