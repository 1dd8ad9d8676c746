"""Truncates, draws and reports, one program a row, reading only the groups that matter.

The algorithm and its order are those of `bosal_kernels.select`, whose token this is.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bosal_kernels.fused.control_reduce import NUM_STATS, Reduced, inverse_temperature
from bosal_kernels.fused.interval import (
    LAST_TOKEN,
    contains,
    least_logit,
    raised,
    rounded_up,
)
from bosal_kernels.fused.noise import coin, group_noise, token_noise
from bosal_kernels.fused.rows import (
    CHUNK,
    CHUNK_GROUPS,
    LEAST_KEY,
    NO_KEY,
    best_groups,
    chunk_groups,
    key_of,
    list_groups,
    nth_key,
    packed,
    packed_value,
    token_of,
    value_of,
)
from bosal_kernels.fused.streams import is_in_force, stream_weight, strength_of, value_at
from bosal_kernels.layout import SlotState
from bosal_kernels.logprobs import TopTokens
from bosal_kernels.params import Stage
from bosal_kernels.streams import CombineState

NUM_WARPS = 8
# Up to so many tokens a top-k is enumerated from the best groups.
_MAX_ENUMERATED = tl.constexpr(1024)
# Tokens kept aside while a cut is searched among them; a longer list is read from its row.
_KEPT_ASIDE = tl.constexpr(4096)
KEPT_ASIDE = 4096
_NOTHING = tl.constexpr(-(2**63))
_LOG2E = tl.constexpr(1.4426950408889634)
_TEMPERATURE = tl.constexpr(int(Stage.TEMPERATURE))
_TOP_K = tl.constexpr(int(Stage.TOP_K))
_TOP_P = tl.constexpr(int(Stage.TOP_P))
_MIN_P = tl.constexpr(int(Stage.MIN_P))
_TYPICAL = tl.constexpr(int(Stage.TYPICAL))
_TOP_N_SIGMA = tl.constexpr(int(Stage.TOP_N_SIGMA))
_EPSILON = tl.constexpr(int(Stage.EPSILON))
_ETA = tl.constexpr(int(Stage.ETA))
_XTC = tl.constexpr(int(Stage.XTC))

# `Selected.status`: a row with any has no token and is for the torch path (`fusible` says which
# chains are not executed here).
INVALID = 1
EMPTY = 2
UNFUSED = 4


@triton.jit
def asks_mass(stage):
    """Say whether a stage needs what an earlier one left, beyond its end."""
    is_indifferent = (stage <= _TOP_K) | (stage == _MIN_P) | (stage == _TOP_N_SIGMA)
    return is_indifferent == 0


@triton.jit
def select_kernel(
    streams,
    base,
    depths,
    normalizers,
    slots,
    legal_rows,
    legal_bits,
    touched_bits,
    t_pos,
    t_tok,
    t_out_count,
    shaped,
    maxima,
    raw_maxima,
    stats,
    listed,
    aside_values,
    aside_tokens,
    forced,
    tokens,
    status,
    raw_logprobs,
    logprobs,
    raw_ranks,
    ranks,
    raw_top_ids,
    raw_top_logprobs,
    top_ids,
    top_logprobs,
    key,
    position,
    n_touch,
    wanted,
    last_temperature,
    chain_stage,
    chain_value,
    chain_second,
    weights,
    slopes,
    inverse,
    strength,
    final_strength,
    over,
    after,
    until,
    region,
    in_constraint,
    log_plausibility,
    vocab_size,
    row_stride,
    bit_stride,
    legal_stride,
    touched_stride,
    index_stride,
    num_groups,
    num_stats,
    top_width,
    STREAMS: tl.constexpr,
    NORMED: tl.constexpr,
    LEGAL: tl.constexpr,
    PLAUSIBLE: tl.constexpr,
    MOMENTS: tl.constexpr,
    FORCED: tl.constexpr,
    LOGPROBS: tl.constexpr,
    COMMIT: tl.constexpr,
    GROUPS: tl.constexpr,
    STATS: tl.constexpr,
    NUM_STATS: tl.constexpr,
):
    number = tl.program_id(0)
    slot = tl.load(slots + number)
    token = tl.full((), -1, tl.int32)
    outcome = tl.full((), 0, tl.int32)
    if LOGPROBS:
        # What a row without a token, or one that asks nothing, has.
        tl.store(logprobs + number, float("nan"))
        tl.store(raw_logprobs + number, float("nan"))
        tl.store(ranks + number, 0)
        tl.store(raw_ranks + number, 0)
        for column in range(top_width):
            spot = number * top_width + column
            tl.store(top_ids + spot, -1)
            tl.store(raw_top_ids + spot, -1)
            tl.store(top_logprobs + spot, float("nan"))
            tl.store(raw_top_logprobs + spot, float("nan"))
        tl.debug_barrier()
    if slot >= 0:
        here = tl.load(position + slot)
        noise_key = tl.load(key + slot)
        heat = inverse_temperature(slot, chain_stage, chain_value)
        first_row = tl.load(base + number)
        row = streams + first_row * row_stride
        depth = tl.load(depths + number)
        w0, w1, w2, i0, i1, i2, n0, n1, n2 = 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0
        if STREAMS > 1:
            acts = is_in_force(slot, here, after, until, region, in_constraint)
            depth = tl.where(acts, depth, 1)
            pull = strength_of(slot, here, strength, final_strength, over)
            w0 = stream_weight(slot, 0, pull, weights, slopes)
            w1 = stream_weight(slot, 1, pull, weights, slopes)
            i0 = tl.load(inverse + slot * 4)
            i1 = tl.load(inverse + slot * 4 + 1)
            if NORMED:
                n0 = tl.load(normalizers + first_row)
                n1 = tl.load(normalizers + first_row + 1, mask=depth > 1, other=0.0)
            if STREAMS > 2:
                w2 = stream_weight(slot, 2, pull, weights, slopes)
                i2 = tl.load(inverse + slot * 4 + 2)
                if NORMED:
                    n2 = tl.load(normalizers + first_row + 2, mask=depth > 2, other=0.0)
        legal_row = tl.full((), -1, tl.int32)
        if LEGAL:
            legal_row = tl.load(legal_rows + number)
        legal = legal_bits + legal_row.to(tl.int64) * legal_stride
        touched = touched_bits + slot * bit_stride
        index_row = t_pos + slot * index_stride
        shaped_row = shaped + number.to(tl.int64) * touched_stride
        list_row = listed + number.to(tl.int64) * num_groups
        maxima_row = maxima + number.to(tl.int64) * num_groups
        aside = number.to(tl.int64) * _KEPT_ASIDE
        lanes = tl.arange(0, CHUNK) % 64
        group = tl.arange(0, GROUPS)
        is_group = group < num_groups
        floor_x = tl.full((), float("-inf"), tl.float32)

        # The statistics of tiles, merged in their order.
        tile = tl.arange(0, STATS)
        is_tile = tile < num_stats
        out = stats + (number * num_stats + tile) * NUM_STATS
        tile_best = tl.load(out, mask=is_tile, other=float("-inf"))
        tile_mass = tl.load(out + 1, mask=is_tile, other=0.0).to(tl.float64)
        faults = tl.sum(tl.load(out + 8, mask=is_tile, other=0.0), 0)

        # The maxima of groups, edited tokens now among them.
        num_touched = tl.load(n_touch + slot).to(tl.int32)
        for piece in range(tl.cdiv(num_touched, CHUNK)):
            index = piece * CHUNK + tl.arange(0, CHUNK)
            is_one = index < num_touched
            edited = tl.load(t_tok + slot * touched_stride + index, mask=is_one, other=0)
            value = tl.load(shaped_row + index, mask=is_one, other=float("-inf"))
            tl.atomic_max(maxima_row + (edited >> 6), key_of(value), mask=is_one, sem="relaxed")
        tl.debug_barrier()
        keys = tl.load(maxima_row + group, mask=is_group, other=NO_KEY, volatile=True)
        raw_keys = keys
        if PLAUSIBLE or LOGPROBS:
            raw_place = raw_maxima + number.to(tl.int64) * num_groups + group
            raw_keys = tl.load(raw_place, mask=is_group, other=NO_KEY)
        if PLAUSIBLE:
            cut = tl.load(log_plausibility + slot)
            if (depth > 1) & (cut > float("-inf")):
                # Maxima are bounds only; those of groups with a plausible token are found again.
                floor_x = value_of(tl.max(raw_keys, 0)) + cut
                is_read = (raw_keys >= key_of(floor_x)) & (raw_keys > LEAST_KEY)
                count = list_groups(is_read, list_row, GROUPS)
                for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
                    of_group, is_real = chunk_groups(list_row, chunk, count)
                    t = of_group * 64 + lanes
                    z = value_at(
                        t, is_real & (t < vocab_size), row, row_stride, depth, w0, w1, w2,
                        i0, i1, i2, n0, n1, n2, floor_x, legal, legal_row, touched, index_row,
                        shaped_row, STREAMS, LEGAL,
                    )  # fmt: skip
                    best = tl.max(tl.reshape(z, [CHUNK_GROUPS, 64]), 1)
                    which = chunk * CHUNK_GROUPS + tl.arange(0, CHUNK_GROUPS)
                    is_one = which < count
                    place = tl.load(list_row + which, mask=is_one, other=0)
                    tl.store(maxima_row + place, key_of(best), mask=is_one)
                tl.debug_barrier()
                again = tl.load(maxima_row + group, mask=is_read, other=LEAST_KEY, volatile=True)
                keys = tl.where(is_read, again, tl.where(is_group, LEAST_KEY, NO_KEY))
        is_open = keys > LEAST_KEY
        best_key = tl.max(keys, 0)
        row_max = value_of(best_key)
        anchor = tl.where(best_key > LEAST_KEY, row_max, 0.0)
        gap = (tile_best - anchor) * heat
        decay = tl.exp(gap.to(tl.float64))
        row_mass = tl.sum(tile_mass * decay, 0)
        row_moment = tl.full((), 0.0, tl.float64)
        are_moments_known = tl.full((), 0, tl.int32)
        if MOMENTS:
            tile_moment = tl.load(out + 2, mask=is_tile, other=0.0).to(tl.float64)
            # An empty tile weighs nothing, however far away.
            far = tl.maximum(gap, -1e30).to(tl.float64)
            row_moment = tl.sum((tile_moment + tile_mass * far) * decay, 0)
            are_moments_known = tl.full((), 1, tl.int32)

        place = tl.arange(0, 16)
        stages = tl.load(chain_stage + slot * 12 + place, mask=place < 12, other=0).to(tl.int32)
        values = tl.load(chain_value + slot * 12 + place, mask=place < 12, other=0.0)
        is_strange = (stages == _TYPICAL) | (stages > _XTC)
        if MOMENTS == 0:
            is_strange = is_strange | (stages == _TOP_N_SIGMA)
        if PLAUSIBLE:
            # The deviation was summed over tokens that are no longer there.
            is_strange = is_strange | (
                tl.where(stages == _TOP_N_SIGMA, floor_x, float("-inf")) > float("-inf")
            )
        if tl.max(tl.where(is_strange, 1, 0), 0) > 0:
            outcome = tl.full((), 4, tl.int32)
        if best_key <= LEAST_KEY:
            outcome = tl.full((), 2, tl.int32)
        if faults > 0:
            outcome = tl.full((), 1, tl.int32)
        is_cold = (stages == _TEMPERATURE) & (values <= 0.0)
        is_greedy = tl.max(tl.where(is_cold, 1, 0), 0)

        if outcome == 0:
            # The first token of the row.
            top_group = tl.min(tl.where(keys == best_key, group, GROUPS), 0)
            lane = top_group * 64 + tl.arange(0, 64)
            z_first = value_at(
                lane, lane < vocab_size, row, row_stride, depth, w0, w1, w2, i0, i1, i2,
                n0, n1, n2, floor_x, legal, legal_row, touched, index_row, shaped_row, STREAMS,
                LEGAL,
            )  # fmt: skip
            first_token = tl.min(tl.where(z_first == row_max, lane, LAST_TOKEN), 0)
            first = row_max
            token = first_token
            value_of_token = row_max
            if PLAUSIBLE:
                if floor_x > float("-inf"):
                    # The tiles' sums knew nothing of plausibility.
                    count = list_groups(is_open, list_row, GROUPS)
                    row_mass = tl.full((), 0.0, tl.float64)
                    are_moments_known = tl.full((), 0, tl.int32)
                    for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
                        of_group, is_real = chunk_groups(list_row, chunk, count)
                        t = of_group * 64 + lanes
                        z = value_at(
                            t, is_real & (t < vocab_size), row, row_stride, depth, w0, w1, w2,
                            i0, i1, i2, n0, n1, n2, floor_x, legal, legal_row, touched,
                            index_row, shaped_row, STREAMS, LEGAL,
                        )  # fmt: skip
                        weight = tl.exp2((z - row_max) * heat * _LOG2E)
                        row_mass += tl.sum(weight.to(tl.float64), 0)
            if is_greedy == 0:
                low = tl.full((), float("-inf"), tl.float32)
                low_token = tl.full((), -1, tl.int32)
                high = tl.full((), float("inf"), tl.float32)
                high_token = tl.full((), -1, tl.int32)
                scale = tl.full((), 1.0, tl.float32)
                mass = row_mass
                moment = row_moment
                # Whether they are those of the interval at its temperature.
                is_mass_known = tl.where(heat == 1.0, 1, 0)
                is_moment_known = is_mass_known * are_moments_known
                lazy_target = tl.full((), float("inf"), tl.float64)
                lazy_scale = tl.full((), 1.0, tl.float32)
                for step in range(12):
                    stage = tl.load(chain_stage + slot * 12 + step).to(tl.int32)
                    value = tl.load(chain_value + slot * 12 + step)
                    second = tl.load(chain_second + slot * 12 + step)
                    is_later = tl.where((place > step) & asks_mass(stages), 1, 0)
                    asks_later = tl.max(is_later, 0)
                    # Which stages do anything, and what they need.
                    is_top_k = (stage == _TOP_K) & (value >= 1.0) & (value < vocab_size)
                    is_top_p = (stage == _TOP_P) & (value < 1.0)
                    is_min_p = (stage == _MIN_P) & (value > 0.0)
                    is_sigma = (stage == _TOP_N_SIGMA) & (value >= 0.0)
                    is_share = (value > 0.0) & (value < 1.0)
                    is_epsilon = (stage == _EPSILON) & is_share
                    is_eta = (stage == _ETA) & is_share
                    is_xtc = stage == _XTC
                    if is_xtc:
                        is_xtc = coin(noise_key, here) < value
                    if stage == _TEMPERATURE:
                        scale = tl.minimum(1.0 / value, 3e38).to(tl.float32)
                        is_whole = (low == float("-inf")) & (high == float("inf"))
                        is_mass_known = tl.where(is_whole & (scale == heat), 1, 0)
                        mass = tl.where(is_mass_known != 0, row_mass, mass)
                        is_moment_known = is_mass_known * are_moments_known
                        moment = tl.where(is_moment_known != 0, row_moment, moment)
                    is_cut = high < float("inf")
                    offset = tl.where(is_cut, (first - row_max) * scale, 0.0)
                    needs = is_top_p | is_epsilon | is_xtc
                    is_stale = (needs & (is_mass_known == 0)) | (is_eta & (is_moment_known == 0))
                    if is_stale:
                        chosen = is_open & (keys >= key_of(low))
                        count = list_groups(chosen, list_row, GROUPS)
                        mass = tl.full((), 0.0, tl.float64)
                        moment = tl.full((), 0.0, tl.float64)
                        for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
                            of_group, is_real = chunk_groups(list_row, chunk, count)
                            t = of_group * 64 + lanes
                            z = value_at(
                                t, is_real & (t < vocab_size), row, row_stride, depth,
                                w0, w1, w2, i0, i1, i2, n0, n1, n2, floor_x, legal, legal_row,
                                touched, index_row, shaped_row, STREAMS, LEGAL,
                            )  # fmt: skip
                            inside = contains(z, t, low, low_token, high, high_token)
                            relative = (z - row_max) * scale - offset
                            weight = tl.where(inside, tl.exp2(relative * _LOG2E), 0.0)
                            mass += tl.sum(weight.to(tl.float64), 0)
                            share = weight * tl.maximum(relative, -1e30)
                            moment += tl.sum(tl.where(inside, share, 0.0).to(tl.float64), 0)
                        is_mass_known = tl.full((), 1, tl.int32)
                        is_moment_known = tl.full((), 1, tl.int32)
                    floor = tl.full((), float("-inf"), tl.float32)
                    log_value = tl.log(tl.where(value > 0.0, value, 1.0))
                    log_mass = tl.log(tl.where(mass > 0.0, mass, 1.0))
                    if is_min_p | is_epsilon | is_eta | is_xtc:
                        least = offset + log_value.to(tl.float32)
                        if is_min_p == 0:
                            log_share = log_value
                            if is_eta:
                                entropy = log_mass - moment / mass
                                log_share = tl.minimum(log_value, 0.5 * log_value - entropy)
                            if is_xtc:
                                log_share = tl.log(second)
                            least = rounded_up(offset.to(tl.float64) + (log_share + log_mass))
                        floor = least_logit(least, row_max, scale)
                    if is_sigma:
                        # Deviations of tiles, merged by counts (Chan et al.).
                        number_t = tl.load(out + 3, mask=is_tile, other=0.0).to(tl.float64)
                        mean_t = tl.load(out + 4, mask=is_tile, other=0.0).to(tl.float64)
                        off_t = tl.load(out + 5, mask=is_tile, other=0.0).to(tl.float64)
                        is_filled = number_t > 0.0
                        centre = (tile_best - row_max).to(tl.float64) + mean_t
                        centre = tl.where(is_filled, centre, 0.0)
                        total = tl.sum(number_t, 0)
                        mean = tl.sum(number_t * centre, 0) / total
                        away = centre - mean
                        spread = tl.sum(tl.where(is_filled, off_t + number_t * away * away, 0.0), 0)
                        sigma = tl.sqrt(spread / total)
                        floor = rounded_up(row_max.to(tl.float64) - value * sigma)
                    if is_min_p | is_epsilon | is_eta | is_sigma:
                        low, low_token = raised(
                            low, low_token, floor, LAST_TOKEN, first, first_token
                        )
                        is_mass_known = tl.full((), 0, tl.int32)
                        is_moment_known = tl.full((), 0, tl.int32)
                    if is_xtc:
                        chosen = is_open & (keys >= key_of(tl.maximum(low, floor)))
                        count = list_groups(chosen, list_row, GROUPS)
                        choices = tl.full((), 0, tl.int32)
                        end = tl.full((), float("inf"), tl.float32)
                        end_token = tl.full((), -1, tl.int32)
                        for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
                            of_group, is_real = chunk_groups(list_row, chunk, count)
                            t = of_group * 64 + lanes
                            z = value_at(
                                t, is_real & (t < vocab_size), row, row_stride, depth,
                                w0, w1, w2, i0, i1, i2, n0, n1, n2, floor_x, legal, legal_row,
                                touched, index_row, shaped_row, STREAMS, LEGAL,
                            )  # fmt: skip
                            inside = contains(z, t, low, low_token, high, high_token)
                            inside = inside & (z >= floor)
                            choices += tl.sum(tl.where(inside, 1, 0), 0)
                            lowest = tl.min(tl.where(inside, z, float("inf")), 0)
                            last = tl.max(tl.where(inside & (z == lowest), t, -1), 0)
                            # Later pieces have greater ids.
                            is_end = lowest <= end
                            end_token = tl.where(is_end & (last >= 0), last, end_token)
                            end = tl.where(is_end, lowest, end)
                        if choices >= 2:
                            high, high_token, first, first_token = end, end_token, end, end_token
                            is_mass_known = tl.full((), 0, tl.int32)
                            is_moment_known = tl.full((), 0, tl.int32)
                    if is_top_p & (asks_later == 0):
                        lazy_target = value * mass
                        lazy_scale = scale
                    is_resolved = is_top_p & (asks_later != 0)
                    if is_top_k | is_resolved:
                        k = tl.minimum(value, 2147483000.0).to(tl.int32)
                        least = low
                        chosen = is_open & (keys >= key_of(low))
                        is_listed = is_top_k & (is_cut == 0) & (k <= _MAX_ENUMERATED)
                        is_listed = is_listed & (k <= num_groups)
                        if is_listed:
                            # The k best tokens lie in the k best groups.
                            edge_key = nth_key(keys, k)
                            least = tl.maximum(low, value_of(tl.maximum(edge_key, LEAST_KEY)))
                            chosen = best_groups(keys, k) & chosen
                        count = list_groups(chosen, list_row, GROUPS)
                        num_chunks = tl.cdiv(count, CHUNK_GROUPS)
                        target = tl.where(is_top_k, k.to(tl.float64), value * mass)
                        # Members that may stay, set aside if they are few.
                        found = tl.full((), 0, tl.int32)
                        for chunk in range(num_chunks):
                            of_group, is_real = chunk_groups(list_row, chunk, count)
                            t = of_group * 64 + lanes
                            z = value_at(
                                t, is_real & (t < vocab_size), row, row_stride, depth,
                                w0, w1, w2, i0, i1, i2, n0, n1, n2, floor_x, legal, legal_row,
                                touched, index_row, shaped_row, STREAMS, LEGAL,
                            )  # fmt: skip
                            inside = contains(z, t, low, low_token, high, high_token)
                            ones = tl.where(inside & (z >= least), 1, 0)
                            spot = found + tl.cumsum(ones, 0) - 1
                            fits = (ones != 0) & (spot < _KEPT_ASIDE)
                            tl.store(aside_values + aside + spot, z, mask=fits)
                            tl.store(aside_tokens + aside + spot, t, mask=fits)
                            found += tl.sum(ones, 0)
                        tl.debug_barrier()
                        is_aside = found <= _KEPT_ASIDE
                        num_pieces = tl.where(is_aside, tl.cdiv(found, CHUNK), num_chunks)
                        # The greatest key that enough weight reaches, from the first bit in which
                        # the first and the least member differ.
                        top_key = key_of(first)
                        differ = top_key ^ key_of(least)
                        bit = tl.full((), NO_KEY, tl.int32)
                        while ((bit & differ) == 0) & (bit != 0):
                            bit = (bit >> 1) & 0x7FFFFFFF
                        edge = tl.where(bit == NO_KEY, NO_KEY, top_key & ~((bit << 1) - 1))
                        edge = tl.where(bit == 0, top_key, edge)
                        above = tl.full((), 0.0, tl.float64)
                        edge_token = tl.full((), -1, tl.int32)
                        weight_of_edge = tl.full((), 1.0, tl.float64)
                        missing = tl.full((), 0, tl.int32)
                        ties = tl.full((), 0, tl.int32)
                        # Then once what lies above it, and once its ties by id.
                        rounds_left = tl.full((), 2, tl.int32)
                        while rounds_left > 0:
                            is_searching = bit != 0
                            trial = tl.where(is_searching, edge ^ bit, edge)
                            reached = tl.full((), 0.0, tl.float64)
                            for piece in range(num_pieces):
                                if is_aside:
                                    spot_ = piece * CHUNK + tl.arange(0, CHUNK)
                                    is_kept = spot_ < found
                                    at = aside + spot_
                                    z = tl.load(
                                        aside_values + at, mask=is_kept, other=float("-inf")
                                    )
                                    t = tl.load(aside_tokens + at, mask=is_kept, other=0)
                                    inside = is_kept
                                else:
                                    of_group, is_real = chunk_groups(list_row, piece, count)
                                    t = of_group * 64 + lanes
                                    z = value_at(
                                        t, is_real & (t < vocab_size), row, row_stride, depth,
                                        w0, w1, w2, i0, i1, i2, n0, n1, n2, floor_x, legal,
                                        legal_row, touched, index_row, shaped_row, STREAMS, LEGAL,
                                    )  # fmt: skip
                                    inside = contains(z, t, low, low_token, high, high_token)
                                    inside = inside & (z >= least)
                                z_key = key_of(z)
                                is_tie = inside & (z_key == trial)
                                if is_searching:
                                    inside = inside & (z_key >= trial)
                                else:
                                    inside = inside & (z_key > trial)
                                weight = tl.full([CHUNK], 1.0, tl.float32)
                                if is_resolved:
                                    relative = (z - row_max) * scale - offset
                                    weight = tl.exp2(relative * _LOG2E)
                                reached += tl.sum(tl.where(inside, weight, 0.0).to(tl.float64), 0)
                                if rounds_left == 1:
                                    rank = ties + tl.cumsum(tl.where(is_tie, 1, 0), 0)
                                    stays = tl.where(is_tie, rank, LAST_TOKEN) <= missing
                                    last = tl.max(tl.where(stays, t, -1), 0)
                                    edge_token = tl.maximum(edge_token, last)
                                    ties += tl.sum(tl.where(is_tie, 1, 0), 0)
                            if is_searching:
                                edge = tl.where(reached >= target, trial, edge)
                                bit = (bit >> 1) & 0x7FFFFFFF
                            else:
                                if rounds_left == 2:
                                    above = reached
                                    if is_resolved:
                                        relative_ = (value_of(edge) - row_max) * scale - offset
                                        weight_of_edge = tl.exp2(relative_ * _LOG2E).to(tl.float64)
                                    quota = (target - above) / tl.maximum(weight_of_edge, 1e-300)
                                    quota = tl.minimum(tl.ceil(quota), 2147483000.0)
                                    missing = tl.maximum(quota, 1.0).to(tl.int32)
                                rounds_left -= 1
                        # Without any weight to reach, the first token alone is left.
                        has_target = target > 0.0
                        edge = tl.maximum(edge, LEAST_KEY)
                        edge_value = tl.where(has_target, value_of(edge), first)
                        edge_token = tl.where(has_target, edge_token, first_token)
                        low, low_token = raised(
                            low, low_token, edge_value, edge_token, first, first_token
                        )
                        is_mass_known = tl.full((), 0, tl.int32)
                        is_moment_known = tl.full((), 0, tl.int32)

                # The draw. On each group's lane its noise is greatest: those scores are floors.
                tl.store(last_temperature + slot, 1.0 / scale.to(tl.float64))
                _smallest, limit, lane_of = group_noise(noise_key, here, GROUPS)
                holder = group * 64 + lane_of
                pivot = value_at(
                    holder, is_open & (holder < vocab_size), row, row_stride, depth, w0, w1, w2,
                    i0, i1, i2, n0, n1, n2, floor_x, legal, legal_row, touched, index_row,
                    shaped_row, STREAMS, LEGAL,
                )  # fmt: skip
                pivot_score = (pivot - row_max) * scale + limit
                bound = (tl.minimum(value_of(keys), high) - row_max) * scale + limit
                bound = tl.where(is_open, bound, float("-inf"))
                is_pending = tl.full((), 1, tl.int32)
                while is_pending != 0:
                    is_member = contains(pivot, holder, low, low_token, high, high_token)
                    beaten = tl.max(tl.where(is_member, pivot_score, float("-inf")), 0)
                    chosen = is_open & (keys >= key_of(low)) & (bound >= beaten)
                    count = list_groups(chosen, list_row, GROUPS)
                    winner = tl.full((), _NOTHING, tl.int64)
                    for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
                        of_group, is_real = chunk_groups(list_row, chunk, count)
                        t = of_group * 64 + lanes
                        z = value_at(
                            t, is_real & (t < vocab_size), row, row_stride, depth, w0, w1, w2,
                            i0, i1, i2, n0, n1, n2, floor_x, legal, legal_row, touched,
                            index_row, shaped_row, STREAMS, LEGAL,
                        )  # fmt: skip
                        inside = contains(z, t, low, low_token, high, high_token)
                        score = (z - row_max) * scale
                        score = score + token_noise(noise_key, here, of_group, CHUNK)
                        pack = tl.where(inside, packed(score, t), _NOTHING)
                        best = tl.max(pack, 0)
                        if best > winner:
                            winner = best
                            value_of_token = tl.max(tl.where(pack == best, z, float("-inf")), 0)
                    token = token_of(winner)
                    is_pending = tl.full((), 0, tl.int32)
                    if (lazy_target < float("inf")) & (token != first_token):
                        chosen = is_open & (keys >= key_of(value_of_token))
                        count = list_groups(chosen, list_row, GROUPS)
                        ahead = tl.full((), 0.0, tl.float64)
                        offset = (first - row_max) * lazy_scale
                        for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
                            of_group, is_real = chunk_groups(list_row, chunk, count)
                            t = of_group * 64 + lanes
                            z = value_at(
                                t, is_real & (t < vocab_size), row, row_stride, depth, w0, w1, w2,
                                i0, i1, i2, n0, n1, n2, floor_x, legal, legal_row, touched,
                                index_row, shaped_row, STREAMS, LEGAL,
                            )  # fmt: skip
                            inside = contains(z, t, value_of_token, token - 1, high, high_token)
                            relative = (z - row_max) * lazy_scale - offset
                            weight = tl.where(inside, tl.exp2(relative * _LOG2E), 0.0)
                            ahead += tl.sum(weight.to(tl.float64), 0)
                        if ahead >= lazy_target:
                            low, low_token = raised(
                                low, low_token, value_of_token, token - 1, first, first_token
                            )
                            is_pending = tl.full((), 1, tl.int32)
            if FORCED:
                wish = tl.load(forced + number).to(tl.int32)
                if wish >= 0:
                    one = wish + tl.full([1], 0, tl.int32)
                    given = value_at(
                        one, one >= 0, row, row_stride, depth, w0, w1, w2, i0, i1, i2, n0, n1, n2,
                        floor_x, legal, legal_row, touched, index_row, shaped_row, STREAMS, LEGAL,
                    )  # fmt: skip
                    if tl.max(given, 0) > float("-inf"):
                        token = wish
                        value_of_token = tl.max(given, 0)
            if LOGPROBS:
                asked = tl.load(wanted + slot).to(tl.int32)
                if asked >= 0:
                    normalizer = tl.log(row_mass) + row_max.to(tl.float64) * heat.to(tl.float64)
                    raw_best = tl.load(out + 6, mask=is_tile, other=float("-inf"))
                    raw_part = tl.load(out + 7, mask=is_tile, other=0.0).to(tl.float64)
                    raw_max = tl.max(raw_best, 0)
                    raw_mass = tl.sum(raw_part * tl.exp((raw_best - raw_max).to(tl.float64)), 0)
                    raw_normalizer = raw_max.to(tl.float64) + tl.log(raw_mass)
                    raw_value = tl.load(row + token).to(tl.float32)
                    mine = value_of_token.to(tl.float64) * heat.to(tl.float64) - normalizer
                    tl.store(logprobs + number, mine.to(tl.float32))
                    theirs = raw_value.to(tl.float64) - raw_normalizer
                    tl.store(raw_logprobs + number, theirs.to(tl.float32))
                    # Once for the row as controlled, once as the base gave it.
                    for is_raw in range(2):
                        edge_value = tl.where(is_raw != 0, raw_value, value_of_token)
                        scale_ = tl.where(is_raw != 0, 1.0, heat).to(tl.float64)
                        norm = tl.where(is_raw != 0, raw_normalizer, normalizer)
                        now = keys
                        if is_raw != 0:
                            now = raw_keys
                        # Above the token; then the best ones.
                        count = list_groups(now > key_of(edge_value), list_row, GROUPS)
                        rank = tl.full((), 1, tl.int32)
                        for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
                            of_group, is_real = chunk_groups(list_row, chunk, count)
                            t = of_group * 64 + lanes
                            is_real = is_real & (t < vocab_size)
                            if is_raw != 0:
                                z = tl.load(row + t, mask=is_real, other=float("-inf")).to(
                                    tl.float32
                                )
                            else:
                                z = value_at(
                                    t, is_real, row, row_stride, depth, w0, w1, w2, i0, i1, i2,
                                    n0, n1, n2, floor_x, legal, legal_row, touched, index_row,
                                    shaped_row, STREAMS, LEGAL,
                                )  # fmt: skip
                            rank += tl.sum(tl.where(z > edge_value, 1, 0), 0)
                        rank_place = ranks
                        id_place = top_ids
                        logprob_place = top_logprobs
                        if is_raw != 0:
                            rank_place = raw_ranks
                            id_place = raw_top_ids
                            logprob_place = raw_top_logprobs
                        tl.store(rank_place + number, rank.to(tl.int64))
                        if asked > 0:
                            count = list_groups(best_groups(now, asked), list_row, GROUPS)
                            last_pack = tl.full((), 2**63 - 1, tl.int64)
                            for place_ in range(asked):
                                winner = tl.full((), _NOTHING, tl.int64)
                                for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
                                    of_group, is_real = chunk_groups(list_row, chunk, count)
                                    t = of_group * 64 + lanes
                                    is_real = is_real & (t < vocab_size)
                                    if is_raw != 0:
                                        z = tl.load(row + t, mask=is_real, other=float("-inf")).to(
                                            tl.float32
                                        )
                                    else:
                                        z = value_at(
                                            t, is_real, row, row_stride, depth, w0, w1, w2,
                                            i0, i1, i2, n0, n1, n2, floor_x, legal, legal_row,
                                            touched, index_row, shaped_row, STREAMS, LEGAL,
                                        )  # fmt: skip
                                    pack = tl.where(z > float("-inf"), packed(z, t), _NOTHING)
                                    pack = tl.where(pack < last_pack, pack, _NOTHING)
                                    winner = tl.maximum(winner, tl.max(pack, 0))
                                if winner > _NOTHING:
                                    spot = number * top_width + place_
                                    tl.store(id_place + spot, token_of(winner).to(tl.int64))
                                    scored = packed_value(winner).to(tl.float64) * scale_ - norm
                                    tl.store(logprob_place + spot, scored.to(tl.float32))
                                last_pack = winner
            if COMMIT:
                listed_at = tl.load(index_row + token)
                if listed_at < 0:
                    listed_at = num_touched
                    tl.store(t_tok + slot * touched_stride + listed_at, token)
                    tl.store(index_row + token, listed_at)
                    tl.store(n_touch + slot, (num_touched + 1).to(tl.int64))
                    word = tl.load(touched + (token >> 5))
                    tl.store(touched + (token >> 5), word | (1 << (token & 31)))
                spoken = t_out_count + slot * touched_stride + listed_at
                tl.store(spoken, tl.load(spoken) + 1)
                tl.store(position + slot, here + 1)
    tl.store(tokens + number, token.to(tl.int64))
    tl.store(status + number, outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedLogprobs:
    """What rows think of their tokens; NaN, 0 and -1 where the slot asks for nothing."""

    raw_logprobs: Tensor  # [B] float32
    logprobs: Tensor  # [B] float32
    raw_ranks: Tensor  # [B] int64
    ranks: Tensor  # [B] int64
    raw_top: TopTokens  # [B, n]
    top: TopTokens  # [B, n]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """What the kernel chose."""

    tokens: Tensor  # [B] int64, -1 where `status` is not 0
    # [B] int32: INVALID, EMPTY or UNFUSED; such a row is for the torch path.
    status: Tensor
    logprobs: SelectedLogprobs | None


def select(
    reduced: Reduced,
    state: SlotState,
    coupling: CombineState,
    *,
    forced: Tensor | None = None,
    top_n: int = -1,
    is_plausible: bool = False,
    commits: bool = False,
) -> Selected:
    """Choose a token for every row of `reduced`, by the formulas of `bosal_kernels.select.select`.

        token = argmax over the kept set of fl(fl((z - max z) / T) + g), lowest id on ties

    `forced` [B] int64 on the device: tokens taken instead where legal, -1 for none. `top_n` is the
    most log-probabilities that any slot asks, -1 for none; `is_plausible` says whether any has a
    plausibility; with `commits` the token joins its slot's output: touched list, count, position.
    Needs `keeps_raw` of the reduction for either of the first two. Nothing is read back.
    """
    batch = len(reduced.slots)
    device = reduced.streams.device
    width = max(top_n, 0)

    def empty(dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.empty((batch, *shape), dtype=dtype, device=device)

    found = Selected(
        tokens=empty(torch.int64),
        status=empty(torch.int32),
        logprobs=None
        if top_n < 0
        else SelectedLogprobs(
            raw_logprobs=empty(torch.float32),
            logprobs=empty(torch.float32),
            raw_ranks=empty(torch.int64),
            ranks=empty(torch.int64),
            raw_top=TopTokens(empty(torch.int64, width), empty(torch.float32, width)),
            top=TopTokens(empty(torch.int64, width), empty(torch.float32, width)),
        ),
    )
    if batch == 0:
        return found
    raw = reduced.raw_maxima
    assert raw is not None or not (is_plausible or top_n >= 0), "needs the raw maxima"
    assert state.touched_bits is not None
    nothing = reduced.maxima
    given = found.logprobs
    num_groups, num_stats = reduced.num_groups, reduced.stats.shape[1]
    select_kernel[(batch,)](
        streams=reduced.streams,
        base=reduced.base,
        depths=reduced.depths,
        normalizers=nothing if reduced.normalizers is None else reduced.normalizers,
        slots=reduced.slots,
        legal_rows=nothing if reduced.legal_rows is None else reduced.legal_rows,
        legal_bits=nothing if reduced.legal_bits is None else reduced.legal_bits,
        touched_bits=state.touched_bits,
        t_pos=state.t_pos,
        t_tok=state.t_tok,
        t_out_count=state.t_out_count,
        shaped=reduced.shaped,
        maxima=reduced.maxima,
        raw_maxima=nothing if raw is None else raw,
        stats=reduced.stats,
        listed=torch.empty_like(reduced.maxima),
        aside_values=torch.empty((batch, KEPT_ASIDE), dtype=torch.float32, device=device),
        aside_tokens=torch.empty((batch, KEPT_ASIDE), dtype=torch.int32, device=device),
        forced=found.tokens if forced is None else forced,
        tokens=found.tokens,
        status=found.status,
        raw_logprobs=nothing if given is None else given.raw_logprobs,
        logprobs=nothing if given is None else given.logprobs,
        raw_ranks=nothing if given is None else given.raw_ranks,
        ranks=nothing if given is None else given.ranks,
        raw_top_ids=nothing if given is None else given.raw_top.ids,
        raw_top_logprobs=nothing if given is None else given.raw_top.logprobs,
        top_ids=nothing if given is None else given.top.ids,
        top_logprobs=nothing if given is None else given.top.logprobs,
        key=state.key,
        position=state.position,
        n_touch=state.n_touch,
        wanted=state.logprobs,
        last_temperature=state.last_temperature,
        chain_stage=state.chain_stage,
        chain_value=state.chain_value,
        chain_second=state.chain_second,
        weights=coupling.weights,
        slopes=coupling.slopes,
        inverse=coupling.inverse,
        strength=coupling.strength,
        final_strength=coupling.final_strength,
        over=coupling.over,
        after=coupling.after,
        until=coupling.until,
        region=coupling.region,
        in_constraint=state.in_constraint,
        log_plausibility=coupling.log_plausibility,
        vocab_size=reduced.num_tokens,
        row_stride=reduced.streams.stride(0),
        bit_stride=state.touched_bits.stride(0),
        legal_stride=0 if reduced.legal_bits is None else reduced.legal_bits.stride(0),
        touched_stride=state.touched_capacity,
        index_stride=state.t_pos.stride(0),
        num_groups=num_groups,
        num_stats=num_stats,
        top_width=width,
        STREAMS=reduced.max_depth,
        NORMED=reduced.normalizers is not None,
        LEGAL=reduced.legal_rows is not None,
        PLAUSIBLE=is_plausible,
        MOMENTS=reduced.has_moments,
        FORCED=forced is not None,
        LOGPROBS=top_n >= 0,
        COMMIT=commits,
        GROUPS=max(triton.next_power_of_2(num_groups), 2),
        STATS=triton.next_power_of_2(num_stats),
        NUM_STATS=NUM_STATS,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )
    return found
