"""Controls logits and draws tokens, batched over slots; depends on torch alone."""

from bosal_kernels.errors import InvalidSlotParams, InvalidTouchedTokens, KernelError
from bosal_kernels.layout import (
    MAX_STAGES,
    SlotParams,
    SlotState,
    Stage,
    TokenFlag,
    TouchedTokens,
)
from bosal_kernels.noise import choice_key

__all__ = [
    "MAX_STAGES",
    "InvalidSlotParams",
    "InvalidTouchedTokens",
    "KernelError",
    "SlotParams",
    "SlotState",
    "Stage",
    "TokenFlag",
    "TouchedTokens",
    "choice_key",
]
