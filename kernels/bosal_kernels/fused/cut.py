"""Top-k and top-p cuts of a row, found among the groups that may hold them."""

import triton
import triton.language as tl

from bosal_kernels.fused.exponential import exp2
from bosal_kernels.fused.interval import LAST_TOKEN, contains
from bosal_kernels.fused.members import ASIDE, MEMBERS, members_of, set_aside
from bosal_kernels.fused.numbers import LOG2E
from bosal_kernels.fused.outlined import outlined
from bosal_kernels.fused.rows import (
    CHUNK,
    CHUNK_GROUPS,
    LEAST_KEY,
    NO_KEY,
    NOTHING,
    best_groups,
    key_of,
    list_groups,
    packed,
    packed_value,
    token_of,
    value_of,
)
from bosal_kernels.fused.streams import chunk_values

# Up to so many tokens a top-k is enumerated from the best groups.
_MAX_ENUMERATED = tl.constexpr(1024)
# Sorts before every token.
_FIRST = tl.constexpr(2**63 - 1)


@triton.jit
def cut_at(
    by_mass,
    value,
    mass,
    members,
    num_best,
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

    Weights are counted from the first token on; ties stay by lowest ids. Then how many members
    there are from now on, -1 where the kept are too many to be any, and of how many of them is
    known that no other token comes before them.
    """
    k = tl.minimum(value, 2147483000.0).to(tl.int32)
    target = tl.where(by_mass, value * mass, k.to(tl.float64))
    edge = first
    edge_token = first_token
    count = tl.full((), 0, tl.int32)
    found = members
    least = kept[0]
    of_control = tl.full((), 0, tl.int32)
    if members < 0:
        chosen = (keys > LEAST_KEY) & (keys >= key_of(least))
        is_enumerated = (by_mass == 0) & (kept[2] == float("inf")) & (k <= _MAX_ENUMERATED)
        if is_enumerated & (k <= num_groups):
            # The k best tokens lie in the k best groups.
            best, edge_key = best_groups(keys, key_of(row_max), k)
            least = tl.maximum(least, value_of(edge_key))
            chosen = best & chosen
            num_best = k
        count = list_groups(chosen, listed, GROUPS)
        found = set_aside(of_control, least, kept, listed, count, aside, view, STREAMS, LEGAL)
        num_best = tl.minimum(num_best, found)
    if found <= MEMBERS:
        members = found
        t, z, is_one = members_of(aside, members)
        inside = is_one & contains(z, t, kept[0], kept[1], kept[2], kept[3])
        weight = tl.full([MEMBERS], 1.0, tl.float32)
        if by_mass:
            weight = exp2(((z - row_max) * scale - offset) * LOG2E)
        weight = tl.where(inside, weight, 0.0).to(tl.float64)
        inside = inside & (tl.cumsum(weight, 0) - weight < target)
        last = tl.min(tl.where(inside, packed(z, t), _FIRST), 0)
        # Without any weight to reach, the first token alone is left.
        if last < _FIRST:
            edge = packed_value(last)
            edge_token = token_of(last)
    else:
        num_best = tl.full((), 0, tl.int32)
        edge, edge_token = _searched(
            by_mass, target, least, found, count, listed, aside, view, kept, first, first_token,
            row_max, scale, offset, STREAMS, LEGAL,
        )  # fmt: skip
    return edge, edge_token, members, num_best


@outlined
def _searched(
    by_mass,
    target,
    least,
    found,
    count,
    listed,
    aside,
    view,
    kept,
    first,
    first_token,
    row_max,
    scale,
    offset,
    STREAMS: tl.constexpr,
    LEGAL: tl.constexpr,
):
    """Return the last token of a cut among many, by search over the bits of its logit.

    They are the `found` that lie aside if those are all, else those of listed groups that reach
    `least`.
    """
    low, low_token, high, high_token = kept
    is_aside = found <= ASIDE
    num_pieces = tl.where(is_aside, tl.cdiv(found, CHUNK), tl.cdiv(count, CHUNK_GROUPS))
    # The greatest key that enough weight reaches, from the first bit in which the first and the
    # least token differ.
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
                inside = spot_ < found
                pack = tl.load(aside + spot_, mask=inside, other=NOTHING)
                t, z = token_of(pack), packed_value(pack)
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
