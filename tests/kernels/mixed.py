"""Batches in which every row has other rules, for kernels and the torch path alike."""

from dataclasses import dataclass

import numpy as np
import torch
from tests.kernels import rows
from tests.kernels.oracle import Array

from bosal_kernels import (
    CombineParams,
    CombineState,
    Control,
    LegalTokens,
    Scope,
    SlotParams,
    SlotState,
    Space,
    Stage,
    TouchedTokens,
    combine,
    control,
)

NUM_SLOTS = 9


@dataclass(frozen=True)
class Batch:
    state: SlotState
    coupling: CombineState
    slots: torch.Tensor
    streams: torch.Tensor
    base: torch.Tensor
    depths: torch.Tensor
    max_depth: int
    legal: LegalTokens | None

    @property
    def legal_rows(self) -> torch.Tensor | None:
        if self.legal is None:
            return None
        found = torch.full_like(self.slots, -1, dtype=torch.int32)
        found[self.legal.rows] = torch.arange(len(self.legal.rows), device=found.device).int()
        return found

    @property
    def legal_bits(self) -> torch.Tensor | None:
        return None if self.legal is None else self.legal.bits

    def masses(self) -> torch.Tensor | None:
        """What the kernels normalise streams by, where there are several."""
        from bosal_kernels.fused.stream_masses import stream_masses

        if self.max_depth == 1:
            return None
        return stream_masses(
            self.streams,
            self.coupling,
            self.slots,
            self.base,
            self.depths,
            max_depth=self.max_depth,
            num_tokens=self.streams.shape[1],
        )

    def torch_control(self) -> Control:
        """The torch path on float32 copies of the rows."""
        copies = self.streams.float().contiguous()
        combined = combine(copies, self.coupling, self.state, self.slots.tolist())
        given = combined if combined.is_coupled else None
        raw = combined.rows.clone()
        return control(raw, self.state, self.slots, self.legal, combined=given)


# What the fused selection executes.
FUSED_STAGES = (
    Stage.TOP_K,
    Stage.TOP_P,
    Stage.MIN_P,
    Stage.TOP_N_SIGMA,
    Stage.EPSILON,
    Stage.ETA,
    Stage.XTC,
)


def chain(seed: int, max_stages: int = 4) -> tuple[tuple[Stage, float, float], ...]:
    """Some stages in any order, with a temperature before, among or behind them, or none."""
    rng = np.random.default_rng(seed)
    stages = rng.permutation(np.array(FUSED_STAGES))[: rng.integers(0, max_stages + 1)]
    found = []
    for code in stages:
        values = rows.VALUES[Stage(code)]
        found.append((Stage(code), *values[rng.integers(len(values))]))
    if rng.random() < 0.8:
        heat = rows.TEMPERATURES[rng.choice(5, p=[0.05, 0.2, 0.25, 0.25, 0.25])]
        place = 0 if rng.random() < 0.6 else int(rng.integers(len(found) + 1))
        found.insert(place, (Stage.TEMPERATURE, heat, 0.0))
    return tuple(found)


def at_times(rng: np.random.Generator, off: float, value: float) -> float:
    """Turn a number off now and then, whatever else its rule says."""
    return off if rng.random() < 0.3 else value


def coupled(rng: np.random.Generator, count: int, plausibility: float) -> CombineParams:
    return CombineParams(
        space=Space.LOGITS if rng.random() < 0.5 else Space.LOGPROBS,
        weights=(1.0, 0.0, 0.0)[:count],
        slopes=((1.0, -1.0), (0.0, 1.0, -1.0))[count - 2],
        strength=at_times(rng, 0.0, float(rng.uniform(0.2, 1.5))),
        final_strength=at_times(rng, 0.0, float(rng.uniform(0.2, 1.5))),
        over=int(rng.integers(1, 9)),
        temperatures=(1.0, 0.5, 1.5)[:count] if rng.random() < 0.5 else (),
        scope=Scope(after=int(rng.integers(0, 3))),
        plausibility=at_times(rng, 0.0, plausibility),
    )


def batch(
    vocab_size: int,
    seed: int,
    *,
    num_rows: int = 5,
    dtype: torch.dtype = torch.float32,
    max_depth: int = 1,
    plausibility: float = 0.0,
    is_legal: bool = True,
    max_stages: int = 4,
    logprobs: int = -1,
) -> Batch:
    """Rows of all kinds whose choices have said something, in slots in no order."""
    rng = np.random.default_rng(seed)
    state = SlotState(
        num_slots=NUM_SLOTS, vocab_size=vocab_size, touched_capacity=8, packs_touched=True
    )
    coupling = CombineState(NUM_SLOTS)
    slots = rng.permutation(NUM_SLOTS)[:num_rows]
    streams: list[Array] = []
    base, depths = [], []
    for place, slot in enumerate(slots.tolist()):
        own = seed * 100 + place
        kind = rows.KINDS[own % len(rows.KINDS)]
        count = int(rng.integers(0, min(vocab_size, 40) + 1))
        ids = rng.permutation(vocab_size)[:count]
        touched = TouchedTokens.of(
            ids.tolist(), rng.normal(0, 3, count).tolist(), rng.integers(0, 16, count).tolist()
        )
        params = SlotParams(
            key=int(rng.integers(2**63)),
            chain=chain(own, max_stages),
            repetition=at_times(rng, 1.0, float(rng.uniform(0.8, 2))),
            presence=at_times(rng, 0.0, float(rng.normal())),
            frequency=at_times(rng, 0.0, float(rng.normal())),
            used_weight=at_times(rng, 0.0, float(rng.normal())),
            eos_ramp_weight=at_times(rng, 0.0, float(rng.normal(0, 5))),
            eos_ramp_over=7,
            eos_decay_start=2,
            eos_decay_factor=at_times(rng, 1.0, float(rng.uniform(0.9, 1.3))),
            eos_ramp_waits=bool(rng.integers(2)),
            min_tokens=int(at_times(rng, 0, int(rng.integers(0, 12)))),
            logprobs=logprobs,
        )
        state.admit(slot, params, touched)
        depth = int(rng.integers(1, max_depth + 1))
        depths.append(depth)
        base.append(len(streams))
        coupling.admit(slot, coupled(rng, depth, plausibility) if depth > 1 else None)
        z = rows.logits(kind, vocab_size, own)
        streams.append(z)
        streams.extend(
            z + rng.normal(0, 1, vocab_size).astype(np.float32) for _ in range(depth - 1)
        )
        for token in rng.integers(0, vocab_size, rng.integers(0, 12)).tolist():
            state.advance([slot], [token])
        state.ban_at(slot, int(state.position[slot]), [int(rng.integers(vocab_size))])
        state.ban_at(slot, 99, [int(rng.integers(vocab_size))])
        state.at_sentence_end[slot] = bool(rng.integers(2))
    legal = None
    if is_legal:
        some = torch.from_numpy(rng.permutation(num_rows)[: max(1, num_rows // 2)])
        bits = torch.randint(
            -(2**31), 2**31, (len(some), -(-vocab_size // 32)), generator=_generator(seed)
        ).int()
        legal = LegalTokens(some, bits)
    wide = torch.full((len(streams), vocab_size + 11), 99.0)
    wide[:, :vocab_size] = torch.from_numpy(np.stack(streams))
    return Batch(
        state=state,
        coupling=coupling,
        slots=torch.from_numpy(slots),
        streams=wide.to(dtype)[:, :vocab_size],
        base=torch.tensor(base),
        depths=torch.tensor(depths, dtype=torch.int32),
        max_depth=max_depth,
        legal=legal,
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
