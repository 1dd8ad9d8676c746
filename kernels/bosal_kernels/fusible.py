"""Which choices the fused kernels serve; the others are for the torch path, on any device."""

from typing import Final

from bosal_kernels.params import SlotParams, Stage
from bosal_kernels.streams import CombineParams, Space

# Streams of a group that the kernels combine.
MAX_FUSED_STREAMS: Final = 3
# Stages of a chain that the kernels execute.
FUSED_STAGES: Final = frozenset(
    {
        Stage.NONE,
        Stage.TEMPERATURE,
        Stage.TOP_K,
        Stage.TOP_P,
        Stage.MIN_P,
        Stage.TOP_N_SIGMA,
        Stage.EPSILON,
        Stage.ETA,
        Stage.XTC,
    }
)


def is_fusible(params: SlotParams, coupling: CombineParams | None) -> bool:
    """Say whether the kernels execute all that a choice asks for.

    They do not yet: numbers under a gate, penalties with a window, sets of allowed tokens, typical
    sampling, dynamic temperature and mirostat; of streams, sums of probabilities, a base's
    nucleus, a strength by confidence, gates.
    """
    if params.counts_history or params.allowed:
        return False
    if any(one.scope.is_gated for one in params.scoped):
        return False
    stages = params.stages
    if not stages <= FUSED_STAGES:
        return False
    if coupling is None:
        return True
    if coupling.plausibility > 0 and Stage.TOP_N_SIGMA in stages:
        return False
    is_plain = coupling.nucleus == 1 and not coupling.by_confidence
    is_plain = is_plain and not coupling.scope.is_gated
    few = coupling.num_streams <= MAX_FUSED_STREAMS
    return is_plain and few and coupling.space in (Space.LOGITS, Space.LOGPROBS)
