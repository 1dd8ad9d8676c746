"""What a row thinks of its token: log-probabilities, ranks, and the best tokens beside it."""

import triton
import triton.language as tl

from bosal_kernels.fused.rows import (
    CHUNK,
    CHUNK_GROUPS,
    GROUP,
    NOTHING,
    best_groups,
    chunk_groups,
    key_of,
    list_groups,
    packed,
    packed_value,
    token_of,
)
from bosal_kernels.fused.streams import value_at


@triton.jit
def seen_values(
    is_raw, listed, chunk, count, view, STREAMS: tl.constexpr, LEGAL: tl.constexpr
):  # fmt: skip
    """Return the ids of a chunk of listed groups, and their logits: the base's or controlled."""
    of_group, is_real = chunk_groups(listed, chunk, count)
    t = of_group * GROUP + tl.arange(0, CHUNK) % GROUP
    is_real = is_real & (t < view[2])
    if is_raw != 0:
        z = tl.load(view[0] + t, mask=is_real, other=float("-inf")).to(tl.float32)
    else:
        z = value_at(t, is_real, view, STREAMS, LEGAL)
    return t, z


@triton.jit
def clear_report(report, number, top_width):
    """Write what a row without a token, or one that asks nothing, has."""
    raw_logprobs, logprobs, raw_ranks, ranks, raw_top_ids, raw_tops, top_ids, tops = report
    tl.store(logprobs + number, float("nan"))
    tl.store(raw_logprobs + number, float("nan"))
    tl.store(ranks + number, 0)
    tl.store(raw_ranks + number, 0)
    for column in range(top_width):
        spot = number * top_width + column
        tl.store(top_ids + spot, -1)
        tl.store(raw_top_ids + spot, -1)
        tl.store(tops + spot, float("nan"))
        tl.store(raw_tops + spot, float("nan"))
    tl.debug_barrier()


@triton.jit
def write_report(
    report,
    number,
    top_width,
    asked,
    token,
    value_of_token,
    out,
    is_tile,
    row_mass,
    row_max,
    heat,
    keys,
    raw_keys,
    listed,
    view,
    GROUPS: tl.constexpr,
    STREAMS: tl.constexpr,
    LEGAL: tl.constexpr,
):
    """Write a token's log-probability and rank and the `asked` best, before and after control."""
    raw_logprobs, logprobs, raw_ranks, ranks, raw_top_ids, raw_tops, top_ids, tops = report
    normalizer = tl.log(row_mass) + row_max.to(tl.float64) * heat.to(tl.float64)
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
        now = keys
        if is_raw != 0:
            now = raw_keys
        # Above the token; then the best ones.
        count = list_groups(now > key_of(edge_value), listed, GROUPS)
        rank = tl.full((), 1, tl.int32)
        for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
            _token, z = seen_values(is_raw, listed, chunk, count, view, STREAMS, LEGAL)
            rank += tl.sum(tl.where(z > edge_value, 1, 0), 0)
        rank_place = ranks
        id_place = top_ids
        logprob_place = tops
        if is_raw != 0:
            rank_place = raw_ranks
            id_place = raw_top_ids
            logprob_place = raw_tops
        tl.store(rank_place + number, rank.to(tl.int64))
        if asked > 0:
            count = list_groups(best_groups(now, asked), listed, GROUPS)
            last_pack = tl.full((), 2**63 - 1, tl.int64)
            for place in range(asked):
                winner = tl.full((), NOTHING, tl.int64)
                for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
                    t, z = seen_values(is_raw, listed, chunk, count, view, STREAMS, LEGAL)
                    pack = tl.where(z > float("-inf"), packed(z, t), NOTHING)
                    pack = tl.where(pack < last_pack, pack, NOTHING)
                    winner = tl.maximum(winner, tl.max(pack, 0))
                if winner > NOTHING:
                    spot = number * top_width + place
                    tl.store(id_place + spot, token_of(winner).to(tl.int64))
                    scored = packed_value(winner).to(tl.float64) * scale - norm
                    tl.store(logprob_place + spot, scored.to(tl.float32))
                last_pack = winner
