"""Top-k and top-p cuts of a row, found among the groups that may hold them."""

import triton
import triton.language as tl

from bosal_kernels.fused.exponential import exp2
from bosal_kernels.fused.interval import LAST_TOKEN, contains
from bosal_kernels.fused.numbers import LOG2E
from bosal_kernels.fused.rows import (
    CHUNK,
    CHUNK_GROUPS,
    LEAST_KEY,
    NO_KEY,
    best_groups,
    key_of,
    list_groups,
    nth_key,
    value_of,
)
from bosal_kernels.fused.streams import chunk_values

# Up to so many tokens a top-k is enumerated from the best groups.
_MAX_ENUMERATED = tl.constexpr(1024)
# Tokens kept aside while a cut is searched among them; a longer list is read from its row.
KEPT_ASIDE = tl.constexpr(4096)


@triton.jit
def cut_at(
    by_mass,
    value,
    mass,
    keys,
    listed,
    aside,
    view,
    kept,
    first,
    first_token,
    row_max,
    scale,
    offset,
    num_groups,
    GROUPS: tl.constexpr,
    STREAMS: tl.constexpr,
    LEGAL: tl.constexpr,
):
    """Return the last token, logit and id, of a top-k of `value`, or of a top-p `by_mass`.

    Weights are counted from the first token on; ties stay by lowest ids. `aside` is where a row's
    members may be put: logits and ids.
    """
    low, low_token, high, high_token = kept
    aside_values, aside_tokens = aside
    k = tl.minimum(value, 2147483000.0).to(tl.int32)
    least = low
    chosen = (keys > LEAST_KEY) & (keys >= key_of(low))
    is_enumerated = (by_mass == 0) & (high == float("inf")) & (k <= _MAX_ENUMERATED)
    is_enumerated = is_enumerated & (k <= num_groups)
    if is_enumerated:
        # The k best tokens lie in the k best groups.
        edge_key = nth_key(keys, k)
        least = tl.maximum(low, value_of(tl.maximum(edge_key, LEAST_KEY)))
        chosen = best_groups(keys, k) & chosen
    count = list_groups(chosen, listed, GROUPS)
    num_chunks = tl.cdiv(count, CHUNK_GROUPS)
    target = tl.where(by_mass, value * mass, k.to(tl.float64))
    # Members that may stay, set aside if they are few.
    found = tl.full((), 0, tl.int32)
    for chunk in range(num_chunks):
        _group, t, z = chunk_values(listed, chunk, count, view, STREAMS, LEGAL)
        inside = contains(z, t, low, low_token, high, high_token)
        ones = tl.where(inside & (z >= least), 1, 0)
        spot = found + tl.cumsum(ones, 0) - 1
        fits = (ones != 0) & (spot < KEPT_ASIDE)
        tl.store(aside_values + spot, z, mask=fits)
        tl.store(aside_tokens + spot, t, mask=fits)
        found += tl.sum(ones, 0)
    tl.debug_barrier()
    is_aside = found <= KEPT_ASIDE
    num_pieces = tl.where(is_aside, tl.cdiv(found, CHUNK), num_chunks)
    # The greatest key that enough weight reaches, from the first bit in which the first and the
    # least member differ.
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
                z = tl.load(aside_values + spot_, mask=is_kept, other=float("-inf"))
                t = tl.load(aside_tokens + spot_, mask=is_kept, other=0)
                inside = is_kept
            else:
                _group, t, z = chunk_values(listed, piece, count, view, STREAMS, LEGAL)
                inside = contains(z, t, low, low_token, high, high_token)
                inside = inside & (z >= least)
            z_key = key_of(z)
            is_tie = inside & (z_key == trial)
            inside = inside & (z_key >= trial + tl.where(is_searching, 0, 1))
            weight = tl.full([CHUNK], 1.0, tl.float32)
            if by_mass:
                relative = (z - row_max) * scale - offset
                weight = exp2(relative * LOG2E)
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
                if by_mass:
                    relative_ = (value_of(edge) - row_max) * scale - offset
                    weight_of_edge = exp2(relative_ * LOG2E).to(tl.float64)
                quota = (target - above) / tl.maximum(weight_of_edge, 1e-300)
                quota = tl.minimum(tl.ceil(quota), 2147483000.0)
                missing = tl.maximum(quota, 1.0).to(tl.int32)
            rounds_left -= 1
    # Without any weight to reach, the first token alone is left.
    has_target = target > 0.0
    edge = tl.maximum(edge, LEAST_KEY)
    edge_value = tl.where(has_target, value_of(edge), first)
    return edge_value, tl.where(has_target, edge_token, first_token)
