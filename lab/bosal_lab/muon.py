"""Muon: momentum whose every matrix is made orthogonal before it is applied.

torch.optim.Muon multiplies in bfloat16 wherever it runs. A CPU that has to emulate that type spends
a third of a training step there; this one multiplies in the type that its device is fast in, and
matrices of one shape together.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
ITERATIONS = 5
EPSILON = 1e-7


def orthogonalise(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (n, rows, columns) matrices with their singular values brought near 1.

    Five Newton-Schulz iterations in `dtype`; singular values end between about 0.7 and 1.2.
    Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.size(1) > matrices.size(2)
    found = (matrices.mT if is_tall else matrices).to(dtype)
    found = found / torch.linalg.matrix_norm(found, keepdim=True).clamp(min=EPSILON)
    for _ in range(ITERATIONS):
        gram = found @ found.mT
        found = torch.baddbmm(
            found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a
        )
    return (found.mT if is_tall else found).to(matrices.dtype)


class Muon:
    """Steps matrices by orthogonal Nesterov momentum with decoupled weight decay."""

    def __init__(
        self,
        matrices: list[Tensor],
        *,
        dtype: torch.dtype,
        momentum: float = 0.95,
        decay: float = 0.01,
    ) -> None:
        self._dtype = dtype
        self._momentum = momentum
        self._decay = decay
        self._velocities = [torch.zeros_like(matrix) for matrix in matrices]
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for matrix, velocity in zip(matrices, self._velocities, strict=True):
            alike.setdefault(matrix.shape, []).append((matrix, velocity))
        self._alike = alike

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take one step; a matrix without a gradient stands still."""
        for (rows, columns), pairs in self._alike.items():
            moving = [pair for pair in pairs if pair[0].grad is not None]
            if not moving:
                continue
            gradients = torch.stack([matrix.grad for matrix, _ in moving])  # type: ignore[misc]
            for (_, velocity), gradient in zip(moving, gradients, strict=True):
                velocity.lerp_(gradient, 1 - self._momentum)
                gradient.lerp_(velocity, self._momentum)
            updates = orthogonalise(gradients, self._dtype)
            scaled = rate * math.sqrt(max(1.0, rows / columns))
            for (matrix, _), update in zip(moving, updates, strict=True):
                matrix.mul_(1 - rate * self._decay).add_(update, alpha=-scaled)

    def state_dict(self) -> dict[str, Any]:
        """Return what a later `load_state_dict` needs."""
        return {"velocities": self._velocities}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        for velocity, found in zip(self._velocities, state["velocities"], strict=True):
            velocity.copy_(found)
