"""The plain numbers of every slot, and which of them a scope can take away."""

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from bosal_kernels.params import SlotParams
from bosal_kernels.scope import ACTIVE, DELTA

# Every number of a slot: its neutral value and its type. Fields of `SlotParams` have their names.
_NUMBERS: Final[Mapping[str, tuple[float, torch.dtype]]] = MappingProxyType(
    {
        "key": (0, torch.int64),
        "position": (0, torch.int64),
        "repetition": (1, torch.float32),
        "presence": (0, torch.float32),
        "frequency": (0, torch.float32),
        "used_weight": (0, torch.float32),
        "eos_ramp_weight": (0, torch.float32),
        "eos_ramp_over": (1, torch.int64),
        "eos_decay_start": (0, torch.int64),
        "eos_decay_factor": (1, torch.float64),
        # Whether the ramp acts behind a finished sentence only.
        "eos_ramp_waits": (False, torch.bool),
        "min_tokens": (0, torch.int64),
        "ngram": (0, torch.int64),
        "dry_multiplier": (0, torch.float32),
        "dry_base": (1.75, torch.float64),
        "dry_allowed": (2, torch.int64),
        "dry_window": (0, torch.int64),
        "repetition_window": (0, torch.int64),
        "repetition_instruction": (1, torch.int64),
        "presence_window": (0, torch.int64),
        "presence_instruction": (0, torch.int64),
        "frequency_window": (0, torch.int64),
        "frequency_instruction": (0, torch.int64),
        "dynamic_exponent": (1, torch.float64),
        "logprobs": (-1, torch.int64),
        # Whether the choice's constraint has begun and not ended; set by whoever runs it.
        "in_constraint": (False, torch.bool),
        # Whether the output so far ends a sentence; set by whoever reads its text.
        "at_sentence_end": (False, torch.bool),
        # At which the last token was drawn, where the chain has a dynamic one.
        "last_temperature": (1, torch.float64),
        "n_touch": (0, torch.int64),
        "n_ban": (0, torch.int64),
    }
)

# What a scope can take away, with its neutral value.
SCOPED: Final[Mapping[str, float]] = MappingProxyType(
    {
        name: _NUMBERS[name][0]
        for name in SlotParams.__dataclass_fields__
        if name in _NUMBERS and name not in ("key", "logprobs")
    }
    | {"chain_stage": 0, DELTA: 0, ACTIVE: False, "allows": False}
)

_OF_PARAMS: Final = tuple(
    name for name in SlotParams.__dataclass_fields__ if name in _NUMBERS and name != "key"
)

_BY_TYPE: Final[Mapping[torch.dtype, tuple[str, ...]]] = MappingProxyType(
    {
        dtype: tuple(name for name, (_, own) in _NUMBERS.items() if own == dtype)
        for dtype in dict.fromkeys(dtype for _, dtype in _NUMBERS.values())
    }
)
# Slots of a table are a multiple of so many, so that every number begins at a multiple of 16 bytes:
# Triton compiles a kernel again for pointers that do not.
_ALIGNMENT: Final = 16


class SlotNumbers:
    """One tensor [S] per number; row s is slot s.

    Those of one type are rows of one table, so a slot is cleared by one copy for each type.
    """

    key: Tensor
    position: Tensor
    repetition: Tensor
    presence: Tensor
    frequency: Tensor
    used_weight: Tensor
    eos_ramp_weight: Tensor
    eos_ramp_over: Tensor
    eos_decay_start: Tensor
    eos_decay_factor: Tensor
    eos_ramp_waits: Tensor
    min_tokens: Tensor
    ngram: Tensor
    dry_multiplier: Tensor
    dry_base: Tensor
    dry_allowed: Tensor
    dry_window: Tensor
    repetition_window: Tensor
    repetition_instruction: Tensor
    presence_window: Tensor
    presence_instruction: Tensor
    frequency_window: Tensor
    frequency_instruction: Tensor
    dynamic_exponent: Tensor
    logprobs: Tensor
    in_constraint: Tensor
    at_sentence_end: Tensor
    last_temperature: Tensor
    n_touch: Tensor
    n_ban: Tensor

    def __init__(self, num_slots: int, device: torch.device) -> None:
        width = -(-num_slots // _ALIGNMENT) * _ALIGNMENT
        # A table [numbers, at least S] for each type, and its neutral column [numbers].
        self._tables: list[tuple[Tensor, Tensor]] = []
        for dtype, names in _BY_TYPE.items():
            values = [_NUMBERS[name][0] for name in names]
            neutral = torch.tensor(values, dtype=dtype, device=device)
            table = neutral[:, None].repeat(1, width)
            self._tables.append((table, neutral))
            for name, row in zip(names, table, strict=True):
                setattr(self, name, row[:num_slots])
        # The slots where a number is not neutral, or may become so: known on the host.
        self._users: defaultdict[str, set[int]] = defaultdict(set)

    def is_used(self, *names: str) -> bool:
        """Whether any of the numbers is, or may become, other than neutral in some slot."""
        return any(self._users[name] for name in names)

    def set_numbers(self, slot: int, params: SlotParams) -> None:
        """Store what a choice brings; every other number of the slot becomes neutral."""
        self.clear_numbers(slot)
        scoped = {value.param for value in params.scoped}
        # Few are not neutral.
        for name in _OF_PARAMS:
            value, neutral = getattr(params, name), _NUMBERS[name][0]
            if value != neutral:
                getattr(self, name)[slot] = value
            if value != neutral or name in scoped:
                self._users[name].add(slot)
        self.key[slot] = _signed64(params.key)

    def clear_numbers(self, slot: int) -> None:
        """Make every number neutral."""
        for table, neutral in self._tables:
            table[:, slot] = neutral
        for slots in self._users.values():
            slots.discard(slot)


def _signed64(value: int) -> int:
    """Reinterpret an unsigned 64-bit number as the int64 with the same bits."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    return value - (1 << 64) if value >> 63 else value
