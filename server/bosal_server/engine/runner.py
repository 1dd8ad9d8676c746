"""The interface between the engine and whatever computes a model."""

from typing import Protocol

from torch import Tensor

from bosal_server.engine.step import StepPlan


class ModelRunner(Protocol):
    """One model with its key-value blocks. Only the engine thread calls `forward`."""

    @property
    def kind(self) -> str:
        """Name of the implementation, for example `torch`."""
        ...

    @property
    def dtype(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def vocab_size(self) -> int:
        """Width of a row of logits."""
        ...

    @property
    def block_size(self) -> int:
        """Tokens in a key-value block, the runner's own choice."""
        ...

    @property
    def num_blocks(self) -> int: ...

    def forward(self, plan: StepPlan) -> Tensor:
        """Write the new tokens' keys and values; return logits [R, vocab_size].

        They are float32, or on a device of any type that its kernels read.
        """
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...
