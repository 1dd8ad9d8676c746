import pytest
import torch
from torch import Tensor

from bosal_lab.muon import Muon, orthogonalise

SHAPES = [(48, 32), (32, 48), (48, 32), (16, 16)]


@pytest.mark.parametrize("shape", [(3, 24, 64), (2, 64, 24), (1, 32, 32)])
def test_the_singular_values_come_near_one_and_the_directions_stay(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalise(matrices, torch.float32)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ found @ right.mT  # the found matrix in the old one's directions
    values = turned.diagonal(dim1=-2, dim2=-1)
    assert values.min() > 0.5
    assert values.max() < 1.3
    assert (turned - torch.diag_embed(values)).abs().max() < 1e-3


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert torch.equal(orthogonalise(torch.zeros(1, 4, 6), torch.float32), torch.zeros(1, 4, 6))


def peers(dtype: torch.dtype) -> tuple[list[Tensor], Muon, list[Tensor], torch.optim.Muon]:
    seeds = torch.Generator().manual_seed(2)
    ours = [torch.randn(shape, generator=seeds) for shape in SHAPES]
    theirs = [torch.nn.Parameter(matrix.clone()) for matrix in ours]
    library = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.01, momentum=0.95)
    return ours, Muon(ours, dtype=dtype), list(theirs), library


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_five_steps_are_those_of_torch(dtype: torch.dtype) -> None:
    ours, muon, theirs, library = peers(dtype)
    seeds = torch.Generator().manual_seed(3)
    before = [matrix.clone() for matrix in ours]
    for _ in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=seeds)
            other.grad = mine.grad.clone()
        muon.step(0.02)
        library.step()  # type: ignore[no-untyped-call]
    for start, mine, other in zip(before, ours, theirs, strict=True):
        moved = (other - start).norm()
        assert (mine - other).norm() < 0.02 * moved  # the library rounds to bfloat16
        assert moved > 0.05


def test_a_restored_state_goes_on_as_the_saved_one() -> None:
    ours, muon, _, _ = peers(torch.float32)
    gradients = [torch.randn(shape, generator=torch.Generator().manual_seed(4)) for shape in SHAPES]
    for matrix, gradient in zip(ours, gradients, strict=True):
        matrix.grad = gradient
    muon.step(0.02)
    copies = [matrix.clone() for matrix in ours]
    restored = Muon(copies, dtype=torch.float32)
    restored.load_state_dict(muon.state_dict())
    for matrix, copy in zip(ours, copies, strict=True):
        copy.grad = matrix.grad
    muon.step(0.02)
    restored.step(0.02)
    assert all(torch.equal(*both) for both in zip(ours, copies, strict=True))


def test_a_matrix_without_a_gradient_stands_still() -> None:
    ours, muon, _, _ = peers(torch.float32)
    before = [matrix.clone() for matrix in ours]
    ours[0].grad = torch.ones_like(ours[0])
    muon.step(0.02)
    assert not torch.equal(ours[0], before[0])
    assert all(torch.equal(*both) for both in zip(ours[1:], before[1:], strict=True))
