"""The keys and values of one model, in blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Heads of one attention layer."""

    num_kv_heads: int
    head_dim: int


class KVPool:
    """Per layer one tensor [rows, 2, kv heads, head dim]; token p of block b is row b * size + p.

    Keys and values of a token lie side by side: one write and one gather serve both.
    """

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.layers: list[Tensor] = [
            torch.zeros(
                num_blocks * block_size,
                2,
                layer.num_kv_heads,
                layer.head_dim,
                dtype=dtype,
                device=device,
            )
            for layer in layers
        ]

    @staticmethod
    def bytes_per_token(layers: Sequence[LayerShape], dtype: torch.dtype) -> int:
        return sum(2 * layer.num_kv_heads * layer.head_dim * dtype.itemsize for layer in layers)

    def close(self) -> None:
        self.layers = []
