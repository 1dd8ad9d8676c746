"""Which slots the fused kernels serve, and what each asks of a launch."""

from dataclasses import dataclass
from typing import Final

from bosal_kernels import CombineParams, SlotParams, Space, Stage
from bosal_kernels.fusible import is_fusible

# Rules that the kernels execute, unless under a scope; others go through the torch path.
FUSED_RULES: Final = (
    "banned_strings",
    "context_aware",
    "contrastive",
    "dry",
    "eos_ramp",
    "epsilon",
    "eta",
    "exponential_decay_length",
    "frequency_penalty",
    "guidance",
    "logit_bias",
    "min_p",
    "min_tokens",
    "no_repeat_ngram",
    "presence_penalty",
    "proxy_tuning",
    "realign",
    "repetition_penalty",
    "temperature",
    "token_weights",
    "top_k",
    "top_n_sigma",
    "top_p",
    "used_token_weight",
    "xtc",
)


@dataclass(frozen=True, slots=True)
class Features:
    """What one fused slot asks of a launch."""

    has_moments: bool
    looks_back: bool
    is_plausible: bool
    is_normed: bool
    logprobs: int


class FusedSlots:
    """The slots of a pipeline that the kernels can draw for."""

    def __init__(self) -> None:
        self._features: dict[int, Features] = {}

    def admit(self, slot: int, params: SlotParams, coupling: CombineParams | None) -> None:
        """Learn what a slot's new choice needs."""
        self._features.pop(slot, None)
        if is_fusible(params, coupling):
            stages = params.stages
            self._features[slot] = Features(
                has_moments=bool(stages & {Stage.TOP_N_SIGMA, Stage.ETA}),
                looks_back=params.keeps_history,
                is_plausible=coupling is not None and coupling.plausibility > 0,
                is_normed=coupling is not None and coupling.space is Space.LOGPROBS,
                logprobs=params.logprobs,
            )

    def __contains__(self, slot: int) -> bool:
        return slot in self._features

    def __getitem__(self, slot: int) -> Features:
        return self._features[slot]
