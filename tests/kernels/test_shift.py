"""Statistics of rows before and after control, in float64."""

from typing import Any

import pytest
import torch

from bosal_kernels import row_shift


def log_softmax(row: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(row.double(), 0)


@pytest.mark.parametrize("size", [1, 33, 64, 100, 4097])
@pytest.mark.parametrize(("offset", "spread"), [(0.0, 3.0), (1e4, 3.0), (-50.0, 0.01), (0.0, 40.0)])
def test_statistics_are_those_of_float64(size: int, offset: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(size)
    # Rounded, so that ties are common.
    raw = ((torch.randn((5, size), generator=generator) * spread) * 4).round() / 4 + offset
    controlled = raw.clone()
    edited = torch.randint(0, size, (max(size // 5, 1),), generator=generator)
    controlled[:, edited] += 2.0
    if size > 1:
        masked = torch.randint(0, size, (size // 3,), generator=generator)
        controlled[1:3, masked] = -torch.inf
        raw[4, masked] = controlled[4, masked] = -torch.inf
    inverse = torch.tensor([1.0, 0.5, 2.0, 1e3, 1.0], dtype=torch.float64)
    tokens = torch.stack([row.argmax() for row in controlled])
    tokens[0] = size - 1
    shift = row_shift(raw, controlled, inverse, tokens)
    for row in range(5):
        before, after = raw[row].double(), controlled[row].double()
        token = int(tokens[row])
        p, q = log_softmax(before), log_softmax(after * inverse[row])

        def near(value: float) -> Any:
            return pytest.approx(value, abs=1e-3 if offset > 1e3 else 1e-4, rel=1e-4)

        assert int(shift.raw_argmax[row]) == int((before == before.max()).nonzero()[0])
        assert float(shift.raw_logprob[row]) == near(float(p[token]))
        assert float(shift.controlled_logprob[row]) == near(float(q[token]))
        assert int(shift.raw_rank[row]) == 1 + int((before > before[token]).sum())
        assert int(shift.controlled_rank[row]) == 1 + int((after > after[token]).sum())
        entropy = -float((p.exp() * p.clamp(min=-1e9)).sum())
        assert float(shift.entropy[row]) == near(entropy)
        mass = q.exp()
        terms = torch.where(mass > 0, mass * (q - p), 0.0)
        assert float(shift.divergence[row]) == near(float(terms.sum()))


def test_rows_do_not_influence_each_other() -> None:
    raw = torch.randn((7, 300))
    controlled = raw + torch.randn((7, 300))
    inverse, tokens = torch.ones(7), torch.arange(7)
    together = row_shift(raw, controlled, inverse, tokens)
    for row in range(7):
        at = slice(row, row + 1)
        alone = row_shift(raw[at], controlled[at], inverse[at], tokens[at])
        assert torch.equal(alone.divergence, together.divergence[at])
        assert torch.equal(alone.raw_rank, together.raw_rank[at])
