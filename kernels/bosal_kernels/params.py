"""What a choice brings to its slot: its numbers, its truncation chain and its touched tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Self

import torch
from torch import Tensor

from bosal_kernels.errors import InvalidSlotParams, InvalidTouchedTokens
from bosal_kernels.scope import ScopedValue

MAX_STAGES = 12
# Rules of one recipe.
MAX_RULES = 64


class Stage(IntEnum):
    """Codes of the truncation chain, in their default order; the numbering is public."""

    NONE = 0
    TEMPERATURE = 1
    TOP_K = 2
    TOP_P = 3
    MIN_P = 4
    TYPICAL = 5
    TOP_N_SIGMA = 6
    EPSILON = 7
    ETA = 8
    XTC = 9


class TokenFlag(IntFlag):
    """What a touched token is, besides its delta."""

    NONE = 0
    EOS = 1
    BANNED = 2
    # Counted by the repetition penalty although not in the output.
    IN_PROMPT = 4
    # Counted by the used-token weight although not in the output.
    USED_AT_START = 8
    # Its weight is not always in force.
    SCOPED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotParams:
    """One choice's numbers; every default is neutral.

    `chain` holds (stage, value, second value) in order: TEMPERATURE T, TOP_K k, TOP_P p, MIN_P p,
    TYPICAL mass, TOP_N_SIGMA n, EPSILON eps, ETA eps, XTC (probability, threshold). The second
    value is XTC's alone and 0 elsewhere.
    """

    # Noise key, see `noise.choice_key`.
    key: int
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    # Added once to every token that is already in the output.
    used_weight: float = 0.0
    # z[eos] += weight * min(output length, over) / over.
    eos_ramp_weight: float = 0.0
    eos_ramp_over: int = 1
    # z[eos] += |z[eos]| (factor ** (output length - start) - 1) once the output is longer.
    eos_decay_start: int = 0
    eos_decay_factor: float = 1.0
    min_tokens: int = 0
    chain: tuple[tuple[Stage, float, float], ...] = ()
    # -1: off, 0: the chosen token, n: the n best as well.
    logprobs: int = -1
    # Numbers that are not always in force; what they replace is neutral above.
    scoped: tuple[ScopedValue, ...] = ()

    def __post_init__(self) -> None:
        if len(self.chain) > MAX_STAGES:
            raise InvalidSlotParams(f"a chain has at most {MAX_STAGES} stages: {len(self.chain)}")
        now_and_then = {value.column for value in self.scoped if value.param == "chain_stage"}
        always = [stage for at, (stage, _, _) in enumerate(self.chain) if at not in now_and_then]
        if always.count(Stage.TEMPERATURE) > 1:
            raise InvalidSlotParams("a chain has at most one temperature")
        if self.eos_ramp_over < 1:
            raise InvalidSlotParams(f"eos_ramp_over must be at least 1: {self.eos_ramp_over}")
        if not self.eos_decay_factor > 0:
            raise InvalidSlotParams(f"eos_decay_factor must be positive: {self.eos_decay_factor}")
        if not self.repetition > 0:
            raise InvalidSlotParams(f"repetition must be positive: {self.repetition}")


@dataclass(frozen=True, slots=True, eq=False)
class TouchedTokens:
    """Tokens whose logits a choice edits from its first step: unique ids, deltas and flags."""

    ids: Tensor  # [n] int64, unique
    deltas: Tensor  # [n] float32
    flags: Tensor  # [n] int32, TokenFlag bits

    @classmethod
    def of(
        cls,
        ids: Sequence[int] = (),
        deltas: Sequence[float] | float = 0.0,
        flags: Sequence[int] | int = 0,
    ) -> Self:
        """Build from plain numbers; a repeated token gets its deltas summed, its flags united."""
        count = len(ids)
        delta_list = [deltas] * count if isinstance(deltas, int | float) else list(deltas)
        flag_list = [flags] * count if isinstance(flags, int) else list(flags)
        if not len(delta_list) == len(flag_list) == count:
            raise InvalidTouchedTokens("ids, deltas and flags differ in length")
        merged: dict[int, tuple[float, int]] = {}
        for token, delta, flag in zip(ids, delta_list, flag_list, strict=True):
            old_delta, old_flag = merged.get(token, (0.0, 0))
            merged[token] = (old_delta + delta, old_flag | int(flag))
        return cls(
            ids=torch.tensor(list(merged), dtype=torch.int64),
            deltas=torch.tensor([delta for delta, _ in merged.values()], dtype=torch.float32),
            flags=torch.tensor([flag for _, flag in merged.values()], dtype=torch.int32),
        )

    def merge(self, other: Self) -> Self:
        """Return the union: deltas of a shared token are added, its flags united."""
        return type(self).of(
            self.ids.tolist() + other.ids.tolist(),
            self.deltas.tolist() + other.deltas.tolist(),
            self.flags.tolist() + other.flags.tolist(),
        )
