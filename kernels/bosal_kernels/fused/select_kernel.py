"""The kernel behind `select`: one program a row, from statistics to a token and its report."""

import triton
import triton.language as tl

from bosal_kernels.fused.chain import chain_kind, truncate
from bosal_kernels.fused.draw import draw_from_groups, draw_member
from bosal_kernels.fused.interval import LAST_TOKEN
from bosal_kernels.fused.masses import kept_masses, merge_edited, plausible_keys
from bosal_kernels.fused.members import ASIDE
from bosal_kernels.fused.report import clear_report, write_report
from bosal_kernels.fused.rows import GROUP, LEAST_KEY, group_keys, value_of
from bosal_kernels.fused.streams import stream_terms, value_at
from bosal_kernels.fused.tile_stats import inverse_temperature


# Of numbers that change as it serves Triton would compile one kernel for each divisibility.
@triton.jit(
    do_not_specialize=[
        "vocab_size",
        "bit_stride",
        "legal_stride",
        "touched_stride",
        "index_stride",
        "num_groups",
        "num_tiles",
        "num_stats",
        "top_width",
    ]
)
def select_kernel(
    streams,
    base,
    depths,
    masses,
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
    aside,
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
    space,
    in_constraint,
    log_plausibility,
    vocab_size,
    row_stride,
    bit_stride,
    legal_stride,
    touched_stride,
    index_stride,
    num_groups,
    num_tiles,
    num_stats,
    top_width,
    STREAMS: tl.constexpr,
    NORMED: tl.constexpr,
    TILES: tl.constexpr,
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
    # What no slot is needed for is on its way while that is waited for.
    first_row = tl.load(base + number)
    legal_row = tl.full((), -1, tl.int32)
    if LEGAL:
        legal_row = tl.load(legal_rows + number)
    tile = tl.arange(0, STATS)
    is_tile = tile < num_stats
    out = stats + (number * num_stats + tile) * NUM_STATS
    tile_best = tl.load(out, mask=is_tile, other=float("-inf"))
    tile_mass = tl.load(out + 1, mask=is_tile, other=0.0).to(tl.float64)
    tile_faults = tl.load(out + 8, mask=is_tile, other=0.0)
    token = tl.full((), -1, tl.int32)
    outcome = tl.full((), 0, tl.int32)
    report = (
        raw_logprobs, logprobs, raw_ranks, ranks,
        raw_top_ids, raw_top_logprobs, top_ids, top_logprobs,
    )  # fmt: skip
    if LOGPROBS:
        clear_report(report, number, top_width)
    if slot >= 0:
        num_touched = tl.load(n_touch + slot).to(tl.int32)
        here = tl.load(position + slot)
        noise_key = tl.load(key + slot)
        chain = (chain_stage, chain_value, chain_second)
        heat = inverse_temperature(slot, chain_stage, chain_value)
        row = streams + first_row * row_stride
        coupling = (
            weights, slopes, inverse, strength, final_strength, over, after, until, region, space,
        )  # fmt: skip
        terms = stream_terms(
            slot, number, here, depths, masses, coupling, in_constraint, num_tiles,
            STREAMS, NORMED, TILES,
        )  # fmt: skip
        legal = legal_bits + legal_row.to(tl.int64) * legal_stride
        touched = touched_bits + slot * bit_stride
        index_row = t_pos + slot * index_stride
        shaped_row = shaped + number.to(tl.int64) * touched_stride
        list_row = listed + number.to(tl.int64) * num_groups
        maxima_row = maxima + number.to(tl.int64) * num_groups
        aside_row = aside + number.to(tl.int64) * ASIDE
        group = tl.arange(0, GROUPS)
        floor = tl.full((), float("-inf"), tl.float32)

        # The maxima of groups, edited tokens now among them.
        merge_edited(maxima_row, t_tok + slot * touched_stride, shaped_row, num_touched)
        keys = group_keys(maxima_row, num_groups, GROUPS)
        raw_maxima_row = raw_maxima + number.to(tl.int64) * num_groups
        if PLAUSIBLE:
            cut = tl.load(log_plausibility + slot)
            if (terms[0] > 1) & (cut > float("-inf")):
                raw_keys = group_keys(raw_maxima_row, num_groups, GROUPS)
                floor = value_of(tl.max(raw_keys, 0)) + cut
        view = (
            row, row_stride, vocab_size, terms, floor, legal, legal_row, touched, index_row,
            shaped_row,
        )  # fmt: skip
        if PLAUSIBLE:
            if floor > float("-inf"):
                keys = plausible_keys(
                    raw_maxima_row, floor, maxima_row, list_row, view, num_groups, GROUPS, STREAMS,
                    LEGAL,
                )  # fmt: skip
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
        is_strange, is_greedy = chain_kind(chain, slot, floor, MOMENTS, PLAUSIBLE)
        if is_strange > 0:
            outcome = tl.full((), 4, tl.int32)
        if best_key <= LEAST_KEY:
            outcome = tl.full((), 2, tl.int32)
        if tl.sum(tile_faults, 0) > 0:
            outcome = tl.full((), 1, tl.int32)

        if outcome == 0:
            # The first token of the row.
            top_group = tl.min(tl.where(keys == best_key, group, GROUPS), 0)
            lane = top_group * GROUP + tl.arange(0, GROUP)
            z_first = value_at(lane, lane < vocab_size, view, STREAMS, LEGAL)
            token = tl.min(tl.where(z_first == row_max, lane, LAST_TOKEN), 0)
            value_of_token = row_max
            if PLAUSIBLE:
                if floor > float("-inf"):
                    # The tiles' sums knew nothing of plausibility.
                    everything = (float("-inf"), -1, float("inf"), -1)
                    row_mass, _moment = kept_masses(
                        -1, aside_row, keys > LEAST_KEY, list_row, view, everything, row_max, heat,
                        0.0, False, GROUPS, STREAMS, LEGAL,
                    )  # fmt: skip
                    are_moments_known = tl.full((), 0, tl.int32)
            members = tl.full((), -1, tl.int32)
            num_best = tl.full((), 0, tl.int32)
            if is_greedy == 0:
                kept, first, first_token, scale, lazy, held = truncate(
                    chain, slot, noise_key, here, keys, list_row, aside_row, view, out, is_tile,
                    row_max, token, heat, row_mass, row_moment, are_moments_known, num_groups,
                    GROUPS, STREAMS, LEGAL,
                )  # fmt: skip
                members, num_best = held
                tl.store(last_temperature + slot, 1.0 / scale.to(tl.float64))
                if members >= 0:
                    token, value_of_token = draw_member(
                        noise_key, here, members, aside_row, kept, first, first_token, row_max,
                        scale, lazy,
                    )  # fmt: skip
                else:
                    token, value_of_token = draw_from_groups(
                        noise_key, here, maxima_row, list_row, view, kept, first, first_token,
                        row_max, scale, lazy, num_groups, GROUPS, STREAMS, LEGAL,
                    )  # fmt: skip
            if FORCED:
                wish = tl.load(forced + number).to(tl.int32)
                if wish >= 0:
                    one = wish + tl.full([1], 0, tl.int32)
                    given = value_at(one, one >= 0, view, STREAMS, LEGAL)
                    if tl.max(given, 0) > float("-inf"):
                        token = wish
                        # It may be none of the members.
                        num_best = tl.full((), 0, tl.int32)
                        value_of_token = tl.max(given, 0)
            if LOGPROBS:
                asked = tl.load(wanted + slot).to(tl.int32)
                if asked >= 0:
                    write_report(
                        report, number, top_width, asked, token, value_of_token, stats, num_stats,
                        row_mass, row_max, heat, maxima_row, raw_maxima_row, num_groups, members,
                        num_best, list_row, aside_row, view,
                        GROUPS, STATS, NUM_STATS, STREAMS, LEGAL,
                    )  # fmt: skip
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
