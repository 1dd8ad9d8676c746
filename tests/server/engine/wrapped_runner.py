"""A runner between the engine and the one that computes."""

from collections.abc import Callable

import torch

from bosal_server.engine.runner import ModelRunner
from bosal_server.engine.step import StepPlan


class WrappedRunner:
    """A runner whose forward pass a test changes."""

    def __init__(
        self, runner: ModelRunner, change: Callable[[StepPlan, torch.Tensor], None]
    ) -> None:
        self._runner = runner
        self._change = change
        self.kind = runner.kind
        self.dtype = runner.dtype
        self.device = runner.device
        self.vocab_size = runner.vocab_size
        self.block_size = runner.block_size
        self.num_blocks = runner.num_blocks

    def forward(self, plan: StepPlan) -> torch.Tensor:
        logits = self._runner.forward(plan)
        self._change(plan, logits)
        return logits

    def close(self) -> None:
        self._runner.close()
