"""What tiles of controlled rows leave, and what is made of all of a row's."""

import triton
import triton.language as tl

from bosal_kernels.fused.exponential import exp2
from bosal_kernels.fused.interval import rounded_up
from bosal_kernels.fused.numbers import (
    FAR,
    LARGEST_INVERSE,
    LOG2E,
    MAX_STAGES,
    STAGE_PLACES,
)
from bosal_kernels.params import Stage

_TEMPERATURE = tl.constexpr(int(Stage.TEMPERATURE))

# Numbers a tile leaves, in this order: max z, sum exp(scaled), sum exp(scaled) scaled, count,
# mean and sum of squared deviations of z - max z, max and sum exp of the base's row, faults.
NUM_STATS = 9


@triton.jit
def inverse_temperature(slot, chain_stage, chain_value):
    """Return 1 / T of a slot's chain, float32; 1 where it is greedy or has none."""
    place = tl.arange(0, STAGE_PLACES)
    is_stage = place < MAX_STAGES
    stage = tl.load(chain_stage + slot * MAX_STAGES + place, mask=is_stage, other=0)
    value = tl.load(chain_value + slot * MAX_STAGES + place, mask=is_stage, other=0.0)
    heat = tl.sum(tl.where((stage == _TEMPERATURE) & (value > 0.0), value, 0.0), 0)
    heat = tl.where(heat > 0.0, heat, 1.0)
    return tl.minimum(1.0 / heat, LARGEST_INVERSE).to(tl.float32)


@triton.jit
def store_stats(out, z, inverse, MOMENTS: tl.constexpr):
    """Write what `select` needs of controlled logits; -inf takes no part.

    Returns whether a NaN or +inf is among them, 1 or 0: no sum hides those.
    """
    best = tl.max(z, 0)
    anchor = tl.where(best == float("-inf"), 0.0, best)
    shifted = z - anchor
    weight = exp2(shifted * tl.minimum(inverse * LOG2E, LARGEST_INVERSE))
    mass = tl.sum(weight, 0)
    tl.store(out, best)
    tl.store(out + 1, mass)
    if MOMENTS:
        is_left = z > float("-inf")
        count = tl.sum(tl.where(is_left, 1, 0), 0).to(tl.float32)
        # Near a temperature of 0 what is far off may be -inf: it weighs nothing.
        share = weight * tl.maximum(shifted * inverse, FAR)
        tl.store(out + 2, tl.sum(tl.where(is_left, share, 0.0), 0))
        tl.store(out + 3, count)
        mean = tl.sum(tl.where(is_left, shifted, 0.0), 0) / tl.maximum(count, 1.0)
        off = tl.where(is_left, shifted - mean, 0.0)
        tl.store(out + 4, mean)
        tl.store(out + 5, tl.sum(off * off, 0))
    return tl.where(mass < float("inf"), 0, 1)


@triton.jit
def sigma_floor(out, is_tile, row_max, value):
    """Return the least float32 within `value` standard deviations of a row's maximum.

    `out` points to the statistics of each of a row's tiles; their deviations are merged by counts
    (Chan et al.).
    """
    best = tl.load(out, mask=is_tile, other=float("-inf"))
    count = tl.load(out + 3, mask=is_tile, other=0.0).to(tl.float64)
    mean_of_tile = tl.load(out + 4, mask=is_tile, other=0.0).to(tl.float64)
    off = tl.load(out + 5, mask=is_tile, other=0.0).to(tl.float64)
    is_filled = count > 0.0
    centre = (best - row_max).to(tl.float64) + mean_of_tile
    centre = tl.where(is_filled, centre, 0.0)
    total = tl.sum(count, 0)
    mean = tl.sum(count * centre, 0) / total
    away = centre - mean
    spread = tl.sum(tl.where(is_filled, off + count * away * away, 0.0), 0)
    sigma = tl.sqrt(spread / total)
    return rounded_up(row_max.to(tl.float64) - value * sigma)
