"""`bosal_server`, but its engine's thread ends at a sequence longer than 200 tokens."""

import runpy
from typing import Any

from torch import Tensor

from bosal_server.engine.step import StepPlan
from bosal_server.engine.torch_runner import TorchRunner

_forward = TorchRunner.forward


def forward(self: Any, plan: StepPlan) -> Tensor:
    if plan.max_context_len > 200:
        # No Exception: the engine isolates those.
        raise SystemExit("the device is gone")
    return _forward(self, plan)


TorchRunner.forward = forward  # type: ignore[method-assign]
runpy.run_module("bosal_server", run_name="__main__")
