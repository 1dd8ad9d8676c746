"""The radix cut against a sort."""

import numpy as np
import pytest
import torch

from bosal_kernels.cut import last_kept
from bosal_kernels.floats import descending_key, value_of_descending_key


@pytest.mark.parametrize("levels", [1, 3, 1000])
@pytest.mark.parametrize("by_mass", [False, True])
def test_a_cut_ends_where_a_sorted_prefix_reaches_its_target(levels: int, by_mass: bool) -> None:
    rng = np.random.default_rng(levels)
    lengths = [1, 2, 70, 900]
    values = [rng.integers(0, levels, n).astype(np.float32) / levels - 0.5 for n in lengths]
    weights = [np.exp(v.astype(np.float64)) if by_mass else np.ones(len(v)) for v in values]
    for share in (0.0, 0.0013, 0.31, 0.777, 2.0):
        targets = [share * w.sum() for w in weights]
        last = last_kept(
            torch.from_numpy(np.repeat(np.arange(4), lengths)),
            descending_key(torch.from_numpy(np.concatenate(values))),
            torch.from_numpy(np.concatenate(weights)),
            torch.tensor(targets, dtype=torch.float64),
            key_bits=32,
        )
        start = 0
        for number, v in enumerate(values):
            order = np.argsort(-v, kind="stable")
            before = np.concatenate([[0.0], weights[number][order].cumsum()[:-1]])
            kept = max(1, int((before < targets[number] * (1 - 1e-12)).sum()))
            assert int(last[number]) == start + order[kept - 1]
            start += len(v)


def test_descending_keys_order_floats_and_invert() -> None:
    values = torch.tensor([torch.inf, 3e38, 1.0, 1e-45, 0.0, -0.0, -1e-45, -1.0, -3e38, -torch.inf])
    keys = descending_key(values)
    assert keys.tolist() == sorted(keys.tolist())
    assert keys[4] == keys[5]
    assert torch.equal(value_of_descending_key(keys), values + 0.0)
