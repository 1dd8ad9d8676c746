"""How a group's streams become one row: its numbers, by slot, and what comes out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor

from bosal_kernels.errors import InvalidCombineParams
from bosal_kernels.scope import NO_LIMIT, Region, Scope
from bosal_kernels.transfer import on_device

MAX_STREAMS = 4


class Space(IntEnum):
    """What is summed; the numbering is public."""

    NONE = 0
    LOGITS = 1
    LOGPROBS = 2
    PROBABILITIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CombineParams:
    """How one choice's k streams become one row; stream 0 is the base.

    A stream's weight is `weights[i] + strength * slopes[i]`. The strength goes linearly from
    `strength` to `final_strength` over the first `over` output tokens and stays there.
    """

    space: Space
    weights: tuple[float, ...]
    slopes: tuple[float, ...]
    strength: float
    final_strength: float | None = None
    over: int = 1
    # Divide each stream's logits first; empty is all 1.
    temperatures: tuple[float, ...] = ()
    # Where the streams have a say; the base's own row elsewhere.
    scope: Scope = field(default_factory=Scope)
    # Scale the strength by how sure stream 1 is beside the base.
    by_confidence: bool = False
    # Keep tokens that the base finds at least this share as likely as its best one; 0 is all.
    plausibility: float = 0.0
    # Keep the base's nucleus of this mass; 1 is all.
    nucleus: float = 1.0

    def __post_init__(self) -> None:
        count = len(self.weights)
        if not 2 <= count <= MAX_STREAMS or len(self.slopes) != count:
            raise InvalidCombineParams(f"2 to {MAX_STREAMS} streams, each with weight and slope")
        if self.temperatures and len(self.temperatures) != count:
            raise InvalidCombineParams("one temperature for each stream, or none at all")
        if any(not value > 0 for value in self.temperatures):
            raise InvalidCombineParams(f"temperatures must be positive: {self.temperatures}")
        if self.over < 1:
            raise InvalidCombineParams(f"over must be at least 1: {self.over}")
        if not 0 <= self.plausibility <= 1 or not 0 < self.nucleus <= 1:
            raise InvalidCombineParams("plausibility lies in [0, 1], nucleus in (0, 1]")

    @property
    def num_streams(self) -> int:
        return len(self.weights)

    def weights_at(self, position: int) -> tuple[float, ...]:
        """Every stream's weight behind so many output tokens, before any confidence."""
        end = self.strength if self.final_strength is None else self.final_strength
        progress = min(position, self.over) / self.over
        strength = self.strength + (end - self.strength) * progress
        return tuple(
            w + strength * slope for w, slope in zip(self.weights, self.slopes, strict=True)
        )

    def gains(self, rows: Tensor, position: int, token: int, other: int) -> list[float]:
        """What each stream's row, of [k, V], adds to `token` over `other`."""
        x = rows.double()
        if self.temperatures:
            x = x / torch.tensor(self.temperatures, device=rows.device)[:, None]
        if self.space is Space.PROBABILITIES:
            x = x.softmax(1)
        gaps = (x[:, token] - x[:, other]).tolist()
        return [w * gap for w, gap in zip(self.weights_at(position), gaps, strict=True)]

    @property
    def is_masking(self) -> bool:
        """Tokens may be removed from the row."""
        return self.plausibility > 0 or self.nucleus < 1


class CombineState:
    """The combine parameters of all slots; row s of every tensor is slot s."""

    def __init__(self, num_slots: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

        def full(shape: tuple[int, ...], value: float, dtype: torch.dtype) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=self.device)

        slots, streams = (num_slots,), (num_slots, MAX_STREAMS)
        # On the host: they decide shapes, and reading them from a device would wait for it.
        self.params: list[CombineParams | None] = [None] * num_slots
        self.space = full(slots, Space.NONE, torch.int64)
        self.weights = full(streams, 0, torch.float64)
        self.slopes = full(streams, 0, torch.float64)
        self.inverse = full(streams, 1, torch.float32)
        self.strength = full(slots, 0, torch.float64)
        self.final_strength = full(slots, 0, torch.float64)
        self.over = full(slots, 1, torch.int64)
        self.after = full(slots, 0, torch.int64)
        self.until = full(slots, NO_LIMIT, torch.int64)
        self.region = full(slots, Region.ANY, torch.int64)
        self.top1_below = full(slots, math.inf, torch.float64)
        self.entropy_above = full(slots, -math.inf, torch.float64)
        self.by_confidence = full(slots, 0, torch.bool)
        self.log_plausibility = full(slots, -math.inf, torch.float32)
        self.nucleus = full(slots, 1, torch.float64)

    def num_streams(self, slot: int) -> int:
        params = self.params[slot]
        return 1 if params is None else params.num_streams

    def admit(self, slot: int, params: CombineParams | None) -> None:
        """Give the slot to a new choice; None is a choice of one stream."""
        self.params[slot] = params
        if params is None:
            return
        count = params.num_streams
        self.space[slot] = params.space
        for table, values in (
            (self.weights, params.weights),
            (self.slopes, params.slopes),
            (self.inverse, [1 / value for value in params.temperatures] or [1.0] * count),
        ):
            table[slot] = 0
            table[slot, :count] = on_device(values, self.device, table.dtype)
        self.strength[slot] = params.strength
        final = params.strength if params.final_strength is None else params.final_strength
        self.final_strength[slot] = final
        self.over[slot] = params.over
        self.after[slot] = params.scope.after
        self.until[slot] = params.scope.until
        self.region[slot] = params.scope.region
        self.top1_below[slot] = params.scope.top1_below
        self.entropy_above[slot] = params.scope.entropy_above
        self.by_confidence[slot] = params.by_confidence
        alpha = params.plausibility
        self.log_plausibility[slot] = math.log(alpha) if alpha > 0 else -math.inf
        self.nucleus[slot] = params.nucleus


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """One row for each group, and the rows it came from."""

    rows: Tensor  # [B, V] float32, contiguous
    # [B] bool: the streams had a say at this step; None where every group has one stream.
    acted: Tensor | None
    streams: Tensor  # [R, V] the streams' own rows, group after group
    base: Tensor  # [B] int64, the base's place among them
    # Places in the batch whose row may lack tokens that the base held implausible.
    masked: Sequence[int]

    @property
    def is_coupled(self) -> bool:
        return self.acted is not None
