"""Runners between the engine and the one that computes."""

from collections.abc import Callable

import torch

from bosal_server.engine.runner import ModelRunner
from bosal_server.engine.step import StepPlan


class WrappedRunner:
    """A runner that does what another does; a test's own says where it differs."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.kind = runner.kind
        self.dtype = runner.dtype
        self.device = runner.device
        self.vocab_size = runner.vocab_size
        self.block_size = runner.block_size
        self.num_blocks = runner.num_blocks

    def forward(self, plan: StepPlan) -> torch.Tensor:
        return self._runner.forward(plan)

    def close(self) -> None:
        self._runner.close()


class ChangedRunner(WrappedRunner):
    """A runner whose logits a test changes."""

    def __init__(
        self, runner: ModelRunner, change: Callable[[StepPlan, torch.Tensor], None]
    ) -> None:
        super().__init__(runner)
        self._change = change

    def forward(self, plan: StepPlan) -> torch.Tensor:
        logits = super().forward(plan)
        self._change(plan, logits)
        return logits
