"""What a row thinks of its token: log-probabilities, ranks, and the best tokens beside it."""

import triton
import triton.language as tl

from bosal_kernels.fused.members import MEMBERS, members_of, seen_values, set_aside
from bosal_kernels.fused.outlined import outlined
from bosal_kernels.fused.rows import (
    CHUNK,
    CHUNK_GROUPS,
    NOTHING,
    best_groups,
    group_keys,
    key_of,
    list_groups,
    packed,
    packed_value,
    token_of,
    value_of,
)

# Columns of the best tokens that are cleared at a time.
_COLUMNS = tl.constexpr(32)


@triton.jit
def clear_report(report, number, top_width):
    """Write what a row without a token, or one that asks nothing, has."""
    raw_logprobs, logprobs, raw_ranks, ranks, raw_top_ids, raw_tops, top_ids, tops = report
    tl.store(logprobs + number, float("nan"))
    tl.store(raw_logprobs + number, float("nan"))
    tl.store(ranks + number, 0)
    tl.store(raw_ranks + number, 0)
    for piece in range(tl.cdiv(top_width, _COLUMNS)):
        column = piece * _COLUMNS + tl.arange(0, _COLUMNS)
        spot = number * top_width + column
        is_column = column < top_width
        tl.store(top_ids + spot, -1, mask=is_column)
        tl.store(raw_top_ids + spot, -1, mask=is_column)
        tl.store(tops + spot, float("nan"), mask=is_column)
        tl.store(raw_tops + spot, float("nan"), mask=is_column)
    tl.debug_barrier()


@outlined
def write_report(
    report,
    number,
    top_width,
    asked,
    token,
    value_of_token,
    stats,
    num_stats,
    row_mass,
    row_max,
    heat,
    maxima,
    raw_maxima,
    num_groups,
    members,
    num_best,
    listed,
    aside,
    view,
    GROUPS: tl.constexpr,
    STATS: tl.constexpr,
    NUM_STATS: tl.constexpr,
    STREAMS: tl.constexpr,
    LEGAL: tl.constexpr,
):
    """Write a token's log-probability and rank and the `asked` best, before and after control."""
    raw_logprobs, logprobs, raw_ranks, ranks, raw_top_ids, raw_tops, top_ids, tops = report
    normalizer = tl.log(row_mass) + row_max.to(tl.float64) * heat.to(tl.float64)
    tile = tl.arange(0, STATS)
    is_tile = tile < num_stats
    out = stats + (number * num_stats + tile) * NUM_STATS
    raw_best = tl.load(out + 6, mask=is_tile, other=float("-inf"))
    raw_part = tl.load(out + 7, mask=is_tile, other=0.0).to(tl.float64)
    raw_max = tl.max(raw_best, 0)
    raw_mass = tl.sum(raw_part * tl.exp((raw_best - raw_max).to(tl.float64)), 0)
    raw_normalizer = raw_max.to(tl.float64) + tl.log(raw_mass)
    raw_value = tl.load(view[0] + token).to(tl.float32)
    mine = value_of_token.to(tl.float64) * heat.to(tl.float64) - normalizer
    tl.store(logprobs + number, mine.to(tl.float32))
    theirs = raw_value.to(tl.float64) - raw_normalizer
    tl.store(raw_logprobs + number, theirs.to(tl.float32))
    # Once for the row as controlled, once as the base gave it.
    for is_raw in range(2):
        edge_value = tl.where(is_raw != 0, raw_value, value_of_token)
        scale = tl.where(is_raw != 0, 1.0, heat).to(tl.float64)
        norm = tl.where(is_raw != 0, raw_normalizer, normalizer)
        maxima_now = maxima
        if is_raw != 0:
            maxima_now = raw_maxima
        now = group_keys(maxima_now, num_groups, GROUPS)
        rank_place = ranks
        id_place = top_ids
        logprob_place = tops
        if is_raw != 0:
            rank_place = raw_ranks
            id_place = raw_top_ids
            logprob_place = raw_tops
        everything = (float("-inf"), -1, float("inf"), -1)
        rank = tl.full((), 0, tl.int32)
        # The first members of the draw are the best ones as controlled.
        is_known = (is_raw == 0) & (num_best > 0) & (asked <= num_best)
        found = tl.where(is_known, members, -1)
        least = tl.full((), float("-inf"), tl.float32)
        count = tl.full((), 0, tl.int32)
        if (asked > 0) & (found < 0):
            chosen, least_key = best_groups(now, tl.max(now, 0), asked)
            least = value_of(least_key)
            count = list_groups(chosen, listed, GROUPS)
            found = set_aside(is_raw, least, everything, listed, count, aside, view, STREAMS, LEGAL)
        if found >= 0:
            if found <= MEMBERS:
                t, z, is_one = members_of(aside, found)
                place = tl.arange(0, MEMBERS)
                spot = number * top_width + place
                is_shown = is_one & (place < asked)
                tl.store(id_place + spot, t.to(tl.int64), mask=is_shown)
                scored = z.to(tl.float64) * scale - norm
                tl.store(logprob_place + spot, scored.to(tl.float32), mask=is_shown)
                if edge_value >= least:
                    rank = 1 + tl.sum(tl.where(is_one & (z > edge_value), 1, 0), 0)
            else:
                begin = number * top_width
                _many_tops(
                    is_raw, asked, id_place + begin, logprob_place + begin, scale, norm, listed,
                    count, view, STREAMS, LEGAL,
                )  # fmt: skip
        if rank == 0:
            count = list_groups(now > key_of(edge_value), listed, GROUPS)
            rank = 1 + _count_above(is_raw, edge_value, listed, count, view, STREAMS, LEGAL)
        tl.store(rank_place + number, rank.to(tl.int64))


@outlined
def _count_above(is_raw, value, listed, count, view, STREAMS: tl.constexpr, LEGAL: tl.constexpr):
    """Return how many of listed groups' tokens exceed a logit."""
    above = tl.full((), 0, tl.int32)
    for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
        _t, z = seen_values(is_raw, listed, chunk, count, view, STREAMS, LEGAL, CHUNK)
        above += tl.sum(tl.where(z > value, 1, 0), 0)
    return above


@outlined
def _many_tops(
    is_raw,
    asked,
    ids,
    logprobs,
    scale,
    norm,
    listed,
    count,
    view,
    STREAMS: tl.constexpr,
    LEGAL: tl.constexpr,
):
    """Write the `asked` best of listed groups' tokens, one after the other."""
    last = tl.full((), 2**63 - 1, tl.int64)
    for place in range(asked):
        winner = tl.full((), NOTHING, tl.int64)
        for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
            t, z = seen_values(is_raw, listed, chunk, count, view, STREAMS, LEGAL, CHUNK)
            pack = tl.where((z > float("-inf")) & (packed(z, t) < last), packed(z, t), NOTHING)
            winner = tl.maximum(winner, tl.max(pack, 0))
        if winner > NOTHING:
            tl.store(ids + place, token_of(winner).to(tl.int64))
            scored = packed_value(winner).to(tl.float64) * scale - norm
            tl.store(logprobs + place, scored.to(tl.float32))
        last = winner
