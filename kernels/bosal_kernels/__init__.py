"""Controls logits and draws tokens, batched over slots; depends on torch and numpy alone."""

from bosal_kernels.allow import MAX_ALLOWED, packed
from bosal_kernels.bitmask import LegalTokens
from bosal_kernels.combine import combine
from bosal_kernels.control import (
    YIELDED_BANS,
    YIELDED_MIN_TOKENS,
    YIELDED_PLAUSIBILITY,
    YIELDED_REPEATS,
    Control,
    control,
)
from bosal_kernels.delivery import on_host
from bosal_kernels.errors import (
    InvalidCombineParams,
    InvalidSlotParams,
    InvalidTouchedTokens,
    KernelError,
)
from bosal_kernels.host_scopes import HostScopes
from bosal_kernels.layout import SlotState
from bosal_kernels.logprobs import TopTokens
from bosal_kernels.merge import merged
from bosal_kernels.noise import choice_key, gumbel
from bosal_kernels.params import (
    MAX_RULES,
    MAX_STAGES,
    SlotParams,
    Stage,
    TokenFlag,
    TouchedTokens,
)
from bosal_kernels.resolve import certainty
from bosal_kernels.scope import ACTIVE, DELTA, Region, Scope, ScopedValue
from bosal_kernels.select import Logprobs, Selection, score, select, temperature_of
from bosal_kernels.shift import RowShift, row_shift
from bosal_kernels.streams import MAX_STREAMS, Combined, CombineParams, CombineState, Space
from bosal_kernels.transfer import delivered, on_device, sent

__all__ = [
    "ACTIVE",
    "DELTA",
    "MAX_ALLOWED",
    "MAX_RULES",
    "MAX_STAGES",
    "MAX_STREAMS",
    "YIELDED_BANS",
    "YIELDED_MIN_TOKENS",
    "YIELDED_PLAUSIBILITY",
    "YIELDED_REPEATS",
    "CombineParams",
    "CombineState",
    "Combined",
    "Control",
    "HostScopes",
    "InvalidCombineParams",
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
    "Space",
    "Stage",
    "TokenFlag",
    "TopTokens",
    "TouchedTokens",
    "certainty",
    "choice_key",
    "combine",
    "control",
    "delivered",
    "gumbel",
    "merged",
    "on_device",
    "on_host",
    "packed",
    "row_shift",
    "score",
    "select",
    "sent",
    "temperature_of",
]
