"""The kernel behind `control_reduce`: tiles of rows, and lists of their edited tokens."""

import triton
import triton.language as tl

from bosal_kernels.edits import LARGEST_GAIN
from bosal_kernels.fused.lanes import (
    are_set,
    group_maxima,
    lane_sum,
    lane_weights,
    load_lanes,
    load_octets,
    widened,
)
from bosal_kernels.fused.numbers import LOG2E, NO_LIMIT
from bosal_kernels.fused.rows import GROUP, key_of
from bosal_kernels.fused.streams import bits_at, scaled, stream_terms
from bosal_kernels.fused.tile_stats import inverse_temperature, store_stats
from bosal_kernels.params import TokenFlag

_EOS = tl.constexpr(int(TokenFlag.EOS))
_BANNED = tl.constexpr(int(TokenFlag.BANNED))
_IN_PROMPT = tl.constexpr(int(TokenFlag.IN_PROMPT))
_USED = tl.constexpr(int(TokenFlag.USED_AT_START))
_LARGEST = tl.constexpr(LARGEST_GAIN)


# Of numbers that change as it serves Triton would compile one kernel for each divisibility.
@triton.jit(
    do_not_specialize=[
        "vocab_size",
        "touched_stride",
        "ban_stride",
        "num_groups",
        "num_tiles",
        "num_lists",
    ]
)
def control_reduce_kernel(
    streams,
    base,
    depths,
    masses,
    slots,
    legal_rows,
    legal_bits,
    touched_bits,
    t_tok,
    t_out_count,
    t_delta,
    t_flag,
    runs,
    repeats,
    shaped,
    maxima,
    raw_maxima,
    stats,
    position,
    repetition,
    presence,
    frequency,
    used_weight,
    eos_ramp_weight,
    eos_ramp_over,
    eos_ramp_waits,
    at_sentence_end,
    eos_decay_start,
    eos_decay_factor,
    min_tokens,
    dry_multiplier,
    dry_base,
    dry_allowed,
    n_touch,
    n_ban,
    ban_index,
    ban_position,
    chain_stage,
    chain_value,
    weights,
    slopes,
    inverse,
    strength,
    final_strength,
    over,
    after,
    until,
    region,
    space,
    in_constraint,
    vocab_size,
    row_stride,
    bit_stride,
    legal_stride,
    touched_stride,
    ban_stride,
    num_groups,
    num_tiles,
    num_lists,
    STREAMS: tl.constexpr,
    NORMED: tl.constexpr,
    TILES: tl.constexpr,
    LEGAL: tl.constexpr,
    HISTORY: tl.constexpr,
    RAW: tl.constexpr,
    MOMENTS: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    LIST_BLOCK: tl.constexpr,
    NUM_STATS: tl.constexpr,
):
    number = tl.program_id(0)
    place = tl.program_id(1)
    slot = tl.load(slots + number)
    # Volatile: not put off until the slot is here, so that both are waited for once.
    first = tl.load(base + number, volatile=True)
    given = tl.load(depths + number)
    if slot >= 0:
        row = streams + first * row_stride
        here = tl.load(position + slot)
        coupling = (
            weights, slopes, inverse, strength, final_strength, over, after, until, region, space,
        )  # fmt: skip
        legal_row = tl.full((), -1, tl.int32)
        if LEGAL:
            legal_row = tl.load(legal_rows + number)
        legal = legal_bits + legal_row.to(tl.int64) * legal_stride
        touched = touched_bits + slot * bit_stride
        num_touched = tl.load(n_touch + slot)
        # Lists come first: their way is longer than a tile's, and tiles fill the time.
        if place >= num_lists:
            # All that is far is asked for before anything is waited for.
            tile = place - num_lists
            near = load_lanes(row, tile, vocab_size, BLOCK, LANES)
            far = near
            further = near
            if STREAMS > 1:
                if given > 1:
                    far = load_lanes(row + row_stride, tile, vocab_size, BLOCK, LANES)
            if STREAMS > 2:
                if given > 2:
                    further = load_lanes(row + 2 * row_stride, tile, vocab_size, BLOCK, LANES)
            PARTS: tl.constexpr = near.shape[0]
            WIDE: tl.constexpr = near.shape[2]
            kept = ~load_octets(touched, tile, vocab_size, LANES, PARTS, WIDE)
            if LEGAL:
                if legal_row >= 0:
                    kept = kept & load_octets(legal, tile, vocab_size, LANES, PARTS, WIDE)
            heat = inverse_temperature(slot, chain_stage, chain_value)
            x = widened(near)
            group = tile * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
            of_group = number.to(tl.int64) * num_groups + group
            raw = (0, 0)
            if RAW:
                tl.store(raw_maxima + of_group, key_of(group_maxima(x)), mask=group < num_groups)
                raw_best, _shifted, raw_weight = lane_weights(x, LOG2E)
                raw = (raw_best, lane_sum(raw_weight))
            terms = stream_terms(
                slot, number, here, depths, masses, coupling, in_constraint, num_tiles,
                STREAMS, NORMED, TILES,
            )  # fmt: skip
            depth, w0, w1, w2, i0, i1, i2, n0, n1, n2 = terms
            z = x
            if STREAMS > 1:
                if depth > 1:
                    other = widened(far)
                    is_sound = (x < float("inf")) & (other < float("inf"))
                    z = scaled(x, i0, n0, w0) + scaled(other, i1, n1, w1)
                    if STREAMS > 2:
                        if depth > 2:
                            third = widened(further)
                            is_sound = is_sound & (third < float("inf"))
                            z = z + scaled(third, i2, n2, w2)
                    z = tl.where(x == float("-inf"), float("-inf"), z)
                    z = tl.where(is_sound, z, float("nan"))
            if (num_touched > 0) | (legal_row >= 0):
                # By a sum, which lets no NaN and no +inf disappear.
                z = z + tl.where(are_set(kept, WIDE), 0.0, float("-inf"))
            tl.store(maxima + of_group, key_of(group_maxima(z)), mask=group < num_groups)
            out = stats + (number * tl.num_programs(1) + tile) * NUM_STATS
            store_stats(out, z, heat, raw, MOMENTS, RAW)
        else:
            heat = inverse_temperature(slot, chain_stage, chain_value)
            terms = stream_terms(
                slot, number, here, depths, masses, coupling, in_constraint, num_tiles,
                STREAMS, NORMED, TILES,
            )  # fmt: skip
            depth, w0, w1, w2, i0, i1, i2, n0, n1, n2 = terms
            list_row = slot * touched_stride
            index = place * LIST_BLOCK + tl.arange(0, LIST_BLOCK)
            is_one = index < num_touched
            token = tl.load(t_tok + list_row + index, mask=is_one, other=0)
            count = tl.load(t_out_count + list_row + index, mask=is_one, other=0)
            delta = tl.load(t_delta + list_row + index, mask=is_one, other=0.0)
            flag = tl.load(t_flag + list_row + index, mask=is_one, other=0)
            v = tl.load(row + token, mask=is_one, other=0.0).to(tl.float32)
            mixed = v
            if STREAMS > 1:
                if depth > 1:
                    a = tl.load(row + row_stride + token, mask=is_one, other=0.0).to(tl.float32)
                    mixed = scaled(v, i0, n0, w0) + scaled(a, i1, n1, w1)
                    if STREAMS > 2:
                        if depth > 2:
                            far = row + 2 * row_stride + token
                            b = tl.load(far, mask=is_one, other=0.0).to(tl.float32)
                            mixed = mixed + scaled(b, i2, n2, w2)
                    mixed = tl.where(v == float("-inf"), float("-inf"), mixed)
            y = mixed
            said = count > 0
            penalty = tl.load(repetition + slot)
            seen = said | ((flag & _IN_PROMPT) != 0)
            y = tl.where(seen, tl.where(y > 0.0, tl.div_rn(y, penalty), y * penalty), y)
            y = y - tl.where(said, tl.load(presence + slot), 0.0)
            y = y - tl.load(frequency + slot) * count.to(tl.float32)
            used = said | ((flag & _USED) != 0)
            y = y + tl.where(used, tl.load(used_weight + slot), 0.0)
            y = y + delta
            masked = (flag & _BANNED) != 0
            if HISTORY:
                seen_row = number.to(tl.int64) * touched_stride
                run = tl.load(runs + seen_row + index, mask=is_one, other=0)
                base_ = tl.load(dry_base + slot)
                excess = (run.to(tl.int64) - tl.load(dry_allowed + slot)).to(tl.float64)
                grown = tl.exp(tl.log(base_) * excess)
                loss = tl.load(dry_multiplier + slot).to(tl.float64) * grown
                loss = tl.minimum(loss, _LARGEST).to(tl.float32)
                y = tl.where(run > 0, y - loss, y)
                masked = masked | (tl.load(repeats + seen_row + index, mask=is_one, other=0) != 0)
            is_eos = (flag & _EOS) != 0
            span = tl.load(eos_ramp_over + slot)
            share = tl.div_rn(tl.minimum(here, span).to(tl.float32), span.to(tl.float32))
            waits = tl.load(eos_ramp_waits + slot) != 0
            is_time = (tl.load(at_sentence_end + slot) != 0) | (waits == 0)
            ramp = tl.where(is_time, tl.load(eos_ramp_weight + slot) * share, 0.0)
            y = y + tl.where(is_eos, ramp, 0.0)
            factor = tl.load(eos_decay_factor + slot)
            later = tl.maximum(here - tl.load(eos_decay_start + slot), 0).to(tl.float64)
            growth = tl.minimum(tl.exp(tl.log(factor) * later) - 1.0, _LARGEST).to(tl.float32)
            gain = tl.minimum(tl.abs(y) * growth, _LARGEST)
            grows = is_eos & (tl.abs(y) < float("inf"))
            y = tl.where(grows, y + gain, y)
            # Blocks of truth values meet blocks only: the interpreter cannot widen single ones.
            masked = masked | (tl.where(is_eos, here, NO_LIMIT) < tl.load(min_tokens + slot))
            for entry in range(tl.load(n_ban + slot)):
                place_ = slot * ban_stride + entry
                is_here = tl.load(ban_position + place_) == here
                masked = masked | (index == tl.where(is_here, tl.load(ban_index + place_), -1))
            if LEGAL:
                if legal_row >= 0:
                    masked = masked | (bits_at(legal, token, is_one) == 0)
            wrong = tl.where(v < float("inf"), 0, 1) + tl.where(mixed < float("inf"), 0, 1)
            wrong += tl.where(masked | (y < float("inf")), 0, 1)
            wrong = tl.where(is_one, wrong, 0)
            y = tl.where(is_one & (masked == 0) & (y < float("inf")), y, float("-inf"))
            tl.store(shaped + number.to(tl.int64) * touched_stride + index, y, mask=is_one)
            out = stats + (number * tl.num_programs(1) + num_tiles + place) * NUM_STATS
            y = tl.where(tl.max(wrong, 0) > 0, float("nan"), y)
            store_stats(out, tl.reshape(y, [1, LIST_BLOCK, 1]), heat, (0, 0), MOMENTS, False)
            if RAW:
                tl.store(out + 6, float("-inf"))
                tl.store(out + 7, 0.0)
