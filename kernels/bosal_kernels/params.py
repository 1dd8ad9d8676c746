"""What a choice brings to its slot: its numbers, its truncation chain and its touched tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag
from typing import Final, Self

import torch
from torch import Tensor

from bosal_kernels.allow import MAX_ALLOWED
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
    DYNAMIC_TEMPERATURE = 10
    MIROSTAT = 11


class TokenFlag(IntFlag):
    """What a touched token is, besides its delta."""

    NONE = 0
    EOS = 1
    BANNED = 2
    # Counted by the repetition penalty although not in the output.
    IN_PROMPT = 4
    # Counted by the used-token weight although not in the output.
    USED_AT_START = 8
    # In the list although nothing may edit it yet.
    LISTED = 16


# Numbers that need the history when they are not neutral.
_LOOKING_BACK: Final = ("ngram", "dry_multiplier")
# Numbers that count the output's tokens.
_OF_OUTPUT: Final = ("repetition", "presence", "frequency", "used_weight")
# What their counts are of, by the penalty that asks.
_COUNTING: Final = {
    name: (f"{name}_window", f"{name}_instruction")
    for name in ("repetition", "presence", "frequency")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotParams:
    """One choice's numbers; every default is neutral.

    `chain` holds (stage, value, second value) in order: TEMPERATURE T, TOP_K k, TOP_P p, MIN_P p,
    TYPICAL mass, TOP_N_SIGMA n, EPSILON eps, ETA eps, XTC (probability, threshold),
    DYNAMIC_TEMPERATURE (lowest, highest), MIROSTAT (target in bits, learning rate). The second
    value is 0 where there is one.
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
    # The ramp acts only where `SlotState.at_sentence_end` says so.
    eos_ramp_waits: bool = False
    min_tokens: int = 0
    # Tokens that would complete a run of `ngram` tokens that the history holds are masked.
    ngram: int = 0
    # z -= multiplier * base ** (run - allowed) for tokens that extend a run of at least `allowed`.
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed: int = 2
    # The last tokens a rule looks back at, 0 all; and whether the instruction counts.
    dry_window: int = 0
    repetition_window: int = 0
    repetition_instruction: int = 1
    presence_window: int = 0
    presence_instruction: int = 0
    frequency_window: int = 0
    frequency_instruction: int = 0
    # T = lowest + (highest - lowest) * (H / ln n) ** exponent, of the n tokens left in the chain.
    dynamic_exponent: float = 1.0
    chain: tuple[tuple[Stage, float, float], ...] = ()
    # Sets of allowed tokens in packed words (`allow.packed`); only what is in all of them is legal.
    allowed: tuple[tuple[int, ...], ...] = ()
    # -1: off, 0: the chosen token, n: the n best as well.
    logprobs: int = -1
    # Numbers that are not always in force; what they replace is neutral above.
    scoped: tuple[ScopedValue, ...] = ()

    def __post_init__(self) -> None:
        if len(self.chain) > MAX_STAGES:
            raise InvalidSlotParams(f"a chain has at most {MAX_STAGES} stages: {len(self.chain)}")
        always = [stage for stage, _, _ in self._always]
        if always.count(Stage.TEMPERATURE) + always.count(Stage.DYNAMIC_TEMPERATURE) > 1:
            raise InvalidSlotParams("a chain has at most one temperature")
        if self.eos_ramp_over < 1:
            raise InvalidSlotParams(f"eos_ramp_over must be at least 1: {self.eos_ramp_over}")
        if not self.eos_decay_factor > 0:
            raise InvalidSlotParams(f"eos_decay_factor must be positive: {self.eos_decay_factor}")
        if not self.repetition > 0:
            raise InvalidSlotParams(f"repetition must be positive: {self.repetition}")
        if len(self.allowed) > MAX_ALLOWED:
            raise InvalidSlotParams(f"at most {MAX_ALLOWED} sets of allowed tokens")
        if self.dry_allowed < 1:
            raise InvalidSlotParams(f"dry_allowed must be at least 1: {self.dry_allowed}")
        if not self.dry_base >= 1:
            raise InvalidSlotParams(f"dry_base must be at least 1: {self.dry_base}")

    @property
    def stages(self) -> frozenset[Stage]:
        """The stages of the chain, those that are not always in force among them."""
        scoped = (Stage(int(one.value)) for one in self.scoped if one.param == "chain_stage")
        return frozenset((*(stage for stage, _, _ in self.chain), *scoped))

    @property
    def is_greedy(self) -> bool:
        """Whether the best token is taken at every step, and nothing drawn."""
        return any(stage == Stage.TEMPERATURE and value <= 0 for stage, value, _ in self._always)

    @property
    def may_be_greedy(self) -> bool:
        """Whether the best token is taken at every step, or under some scope."""
        scoped = {value.column for value in self.scoped if value.param == "chain_stage"}
        return any(
            value <= 0 and (stage == Stage.TEMPERATURE or at in scoped)
            for at, (stage, value, _) in enumerate(self.chain)
        )

    @property
    def keeps_history(self) -> bool:
        """Whether any rule looks back at what was read and said."""
        return self.counts_history or self._has_any(_LOOKING_BACK)

    @property
    def counts_history(self) -> bool:
        """Whether a penalty that is on counts other tokens than all of the output."""
        return any(self._has_any((name,)) and self._has_any(of) for name, of in _COUNTING.items())

    @property
    def counts_output(self) -> bool:
        """Whether any rule asks how often a token is in the output."""
        return self._has_any(_OF_OUTPUT)

    @property
    def _always(self) -> list[tuple[Stage, float, float]]:
        """The part of the chain that is always in force."""
        now_and_then = {value.column for value in self.scoped if value.param == "chain_stage"}
        return [one for at, one in enumerate(self.chain) if at not in now_and_then]

    def _has_any(self, names: Sequence[str]) -> bool:
        if any(getattr(self, name) != _DEFAULTS[name] for name in names):
            return True
        # A scope that changes a number to its default changes nothing.
        return any(one.param in names and one.value != _DEFAULTS[one.param] for one in self.scoped)


# Of most choices; to make three tensors takes longer than anything else here.
_NO_TOKENS: Final = (
    torch.zeros(0, dtype=torch.int64),
    torch.zeros(0, dtype=torch.float32),
    torch.zeros(0, dtype=torch.int32),
)
_DEFAULTS: Final = {field.name: field.default for field in fields(SlotParams)}


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
        if not count:
            return cls(*_NO_TOKENS)
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
