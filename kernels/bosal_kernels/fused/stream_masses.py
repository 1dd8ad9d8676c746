"""What the streams of groups are normalised by: masses of tiles, merged by whoever needs them.

Only rows of groups whose log-probabilities are summed are read.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bosal_kernels.fused.exponential import exp2
from bosal_kernels.fused.lanes import (
    BLOCK,
    LANES,
    NUM_WARPS,
    lane_decay,
    lane_sum,
    lane_weights,
    load_lanes,
    widened,
)
from bosal_kernels.fused.numbers import LARGEST_INVERSE, LOG2E, MAX_STREAMS
from bosal_kernels.streams import CombineState, Space

# Numbers a tile leaves: its maximum, and its sum of exponentials below that.
_NUM_MASSES = tl.constexpr(2)
_LOGPROBS = tl.constexpr(int(Space.LOGPROBS))


@triton.jit
def is_normalised(slot, space):
    """Say whether a slot's streams are log-probabilities."""
    return tl.load(space + slot) == _LOGPROBS


@triton.jit
def normalizer(masses, row, inverse, num_tiles, TILES: tl.constexpr):
    """Return ln sum exp(x / T) of a row of `masses`, float32; tiles in their order.

    0 where the row has no token: its base has none either, or the group is no distribution.
    """
    tile = tl.arange(0, TILES)
    is_real = tile < num_tiles
    place = masses + (row * num_tiles + tile) * _NUM_MASSES
    best = tl.load(place, mask=is_real, other=float("-inf"))
    mass = tl.load(place + 1, mask=is_real, other=0.0)
    row_max = tl.max(best, 0)
    anchor = tl.where(row_max > float("-inf"), row_max, 0.0)
    factor = tl.minimum(inverse * LOG2E, LARGEST_INVERSE)
    total = tl.sum(mass * exp2((best - anchor) * factor), 0)
    total = tl.where(row_max > float("-inf"), total, 1.0)
    return tl.fma(anchor, inverse, tl.log(total))


# Of a number that changes as it serves Triton would compile one kernel for each divisibility.
@triton.jit(do_not_specialize=["vocab_size"])
def stream_masses_kernel(
    streams,
    base,
    depths,
    slots,
    space,
    inverse,
    masses,
    vocab_size,
    row_stride,
    STREAMS: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    number = tl.program_id(0) // STREAMS
    stream = tl.program_id(0) % STREAMS
    tile = tl.program_id(1)
    slot = tl.load(slots + number)
    if slot >= 0:
        if (stream < tl.load(depths + number)) & is_normalised(slot, space):
            row = streams + (tl.load(base + number) + stream) * row_stride
            x = widened(load_lanes(row, tile, vocab_size, BLOCK, LANES))
            factor = tl.load(inverse + slot * MAX_STREAMS + stream) * LOG2E
            factor = tl.minimum(factor, LARGEST_INVERSE)
            place = (tl.program_id(0) * tl.num_programs(1) + tile) * _NUM_MASSES
            best_of, _shifted, weight = lane_weights(x, factor)
            best = tl.max(best_of, 0)
            _gap, decay = lane_decay(best_of, best, factor)
            tl.store(masses + place, best)
            tl.store(masses + place + 1, tl.sum(lane_sum(weight) * decay, 0))


def stream_masses(
    streams: Tensor,
    coupling: CombineState,
    slots: Tensor,
    base: Tensor,
    depths: Tensor,
    *,
    max_depth: int,
    num_tokens: int,
) -> Tensor:
    """Of stream i of row b, over its temperature T, and of each tile of 4,096 tokens:

        max x, sum exp((x - max x) / T)

    float32 [B max_depth, NT, 2], row b max_depth + i; `normalizer` makes ln sum exp(x / T) of them.
    Rows are those of `control_reduce`. What is no log-probability stays unwritten.
    """
    num_tiles = triton.cdiv(num_tokens, BLOCK)
    shape = (len(slots) * max_depth, num_tiles, _NUM_MASSES.value)
    masses = torch.empty(shape, dtype=torch.float32, device=streams.device)
    if len(slots):
        stream_masses_kernel[(len(slots) * max_depth, num_tiles)](
            streams=streams,
            base=base,
            depths=depths,
            slots=slots,
            space=coupling.space,
            inverse=coupling.inverse,
            masses=masses,
            vocab_size=num_tokens,
            row_stride=streams.stride(0),
            STREAMS=max_depth,
            BLOCK=BLOCK,
            LANES=LANES,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
        )
    return masses
