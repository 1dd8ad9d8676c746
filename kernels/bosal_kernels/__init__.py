"""Controls logits and draws tokens, batched over slots; depends on torch alone."""

from bosal_kernels.bitmask import LegalTokens
from bosal_kernels.control import (
    YIELDED_BANS,
    YIELDED_MIN_TOKENS,
    YIELDED_REPEATS,
    Control,
    control,
)
from bosal_kernels.errors import InvalidSlotParams, InvalidTouchedTokens, KernelError
from bosal_kernels.layout import SlotState
from bosal_kernels.logprobs import TopTokens
from bosal_kernels.noise import choice_key, gumbel
from bosal_kernels.params import (
    MAX_RULES,
    MAX_STAGES,
    SlotParams,
    Stage,
    TokenFlag,
    TouchedTokens,
)
from bosal_kernels.scope import ACTIVE, DELTA, Region, Scope, ScopedValue
from bosal_kernels.select import Logprobs, Selection, select, temperature_of
from bosal_kernels.shift import RowShift, row_shift

__all__ = [
    "ACTIVE",
    "DELTA",
    "MAX_RULES",
    "MAX_STAGES",
    "YIELDED_BANS",
    "YIELDED_MIN_TOKENS",
    "YIELDED_REPEATS",
    "Control",
    "InvalidSlotParams",
    "InvalidTouchedTokens",
    "KernelError",
    "LegalTokens",
    "Logprobs",
    "Region",
    "RowShift",
    "Scope",
    "ScopedValue",
    "Selection",
    "SlotParams",
    "SlotState",
    "Stage",
    "TokenFlag",
    "TopTokens",
    "TouchedTokens",
    "choice_key",
    "control",
    "gumbel",
    "row_shift",
    "select",
    "temperature_of",
]
