"""What tiles of controlled rows leave, and what is made of all of a row's."""

import triton
import triton.language as tl

from bosal_kernels.fused.interval import rounded_up
from bosal_kernels.fused.lanes import both_max, both_sum, lane_decay, lane_sum, lane_weights
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
def store_stats(out, z, inverse, raw, MOMENTS: tl.constexpr, RAW: tl.constexpr):
    """Write what `select` needs of controlled logits z [parts, lanes, n]; -inf takes no part.

    Where RAW, `raw` holds the maxima of the base's row by lane and its sums of exponentials below
    them. A NaN or +inf is a fault: no sum hides those. Each lane is reduced by itself, then lanes
    are merged in their order.
    """
    factor = tl.minimum(inverse * LOG2E, LARGEST_INVERSE)
    best_of, shifted, weight = lane_weights(z, factor)
    mass_of = lane_sum(weight)
    if MOMENTS:
        is_left = z > float("-inf")
        # Near a temperature of 0 what is far off may be -inf: it weighs nothing.
        moment_of = lane_sum(weight * tl.maximum(shifted * inverse, FAR))
        count_of = lane_sum(tl.where(is_left, 1.0, 0.0))
        off = tl.where(is_left, shifted, 0.0)
        mean_of = lane_sum(off) / tl.maximum(count_of, 1.0)
        # Of so few numbers, taken from one of them, the difference of squares keeps its digits.
        spread_of = lane_sum(off * off) - count_of * mean_of * mean_of
    if RAW:
        raw_best_of, raw_mass_of = raw
        best, raw_best = both_max(best_of, raw_best_of)
        gap, decay = lane_decay(best_of, best, factor)
        _gap, raw_decay = lane_decay(raw_best_of, raw_best, LOG2E)
        mass, raw_mass = both_sum(mass_of * decay, raw_mass_of * raw_decay)
        tl.store(out + 6, raw_best)
        tl.store(out + 7, raw_mass)
        is_sound = (mass < float("inf")) & (raw_mass < float("inf"))
    else:
        best = tl.max(best_of, 0)
        gap, decay = lane_decay(best_of, best, factor)
        mass = tl.sum(mass_of * decay, 0)
        is_sound = mass < float("inf")
    tl.store(out, best)
    tl.store(out + 1, mass)
    tl.store(out + 8, tl.where(is_sound, 0.0, 1.0))
    if MOMENTS:
        moment_of = (moment_of + mass_of * tl.maximum(gap * inverse, FAR)) * decay
        centre_of = tl.where(count_of > 0.0, gap + mean_of, 0.0)
        moment, count = both_sum(moment_of, count_of)
        total, spread = both_sum(count_of * centre_of, spread_of)
        mean = total / tl.maximum(count, 1.0)
        away = centre_of - mean
        tl.store(out + 2, moment)
        tl.store(out + 3, count)
        tl.store(out + 4, mean)
        tl.store(out + 5, spread + tl.sum(count_of * away * away, 0))


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
