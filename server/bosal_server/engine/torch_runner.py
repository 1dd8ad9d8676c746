"""Runs an unmodified Hugging Face model over packed batches, on CPU or CUDA."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from bosal_server.engine.attention import use_block_attention
from bosal_server.engine.attention_batch import AttentionBatch
from bosal_server.engine.kv_pool import KVPool, LayerShape
from bosal_server.engine.step import StepPlan

BLOCK_SIZE = 32
# All but cuDNN, which torch prefers on Hopper and Blackwell: it builds a plan for every new number
# of rows and keys, for tens to hundreds of milliseconds, and here they change from step to step.
_BACKENDS: Final = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class TorchRunner:
    """The reference runner: eager torch, exact attention over blocks."""

    kind = "torch"
    block_size = BLOCK_SIZE

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[LayerShape], *, num_blocks: int
    ) -> None:
        weight = next(model.parameters())
        self._model = model
        self._device = weight.device
        self._dtype = weight.dtype
        self._pool = KVPool(
            layers,
            num_blocks=num_blocks,
            block_size=BLOCK_SIZE,
            dtype=weight.dtype,
            device=weight.device,
        )
        use_block_attention(model)

    @property
    def dtype(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def vocab_size(self) -> int:
        return int(self._model.config.get_text_config().vocab_size)

    @property
    def num_blocks(self) -> int:
        return self._pool.num_blocks

    @torch.inference_mode()
    def forward(self, plan: StepPlan) -> Tensor:
        batch = AttentionBatch(plan, self._pool, self._device)
        with self._kernels():
            output = self._model(
                input_ids=batch.input_ids,
                position_ids=batch.positions,
                use_cache=False,
                logits_to_keep=batch.logits_rows,
                bosal_batch=batch,
            )
        logits: Tensor = output.logits[0]
        # Kernels read rows of any type: on a device nothing as wide is written again.
        return logits.float() if self._device.type == "cpu" else logits

    def _kernels(self) -> AbstractContextManager[None]:
        """Choose what computes attention while the model runs."""
        if self._device.type == "cpu":
            return nullcontext()
        kernels: AbstractContextManager[None] = sdpa_kernel(_BACKENDS)
        return kernels

    def close(self) -> None:
        self._pool.close()
