"""Sums over what a row keeps, and its groups' maxima with edited tokens among them."""

import triton
import triton.language as tl

from bosal_kernels.fused.exponential import exp2
from bosal_kernels.fused.interval import contains
from bosal_kernels.fused.members import members_of
from bosal_kernels.fused.numbers import FAR, LOG2E
from bosal_kernels.fused.outlined import outlined
from bosal_kernels.fused.rows import (
    CHUNK,
    CHUNK_GROUPS,
    GROUP,
    LEAST_KEY,
    group_keys,
    key_of,
    list_groups,
)
from bosal_kernels.fused.streams import chunk_values


@triton.jit
def _masses(z, inside, row_max, scale, offset, has_moment):
    relative = (z - row_max) * scale - offset
    weight = tl.where(inside, exp2(relative * LOG2E), 0.0)
    mass = tl.sum(weight.to(tl.float64), 0)
    moment = tl.full((), 0.0, tl.float64)
    if has_moment:
        share = weight * tl.maximum(relative, FAR)
        moment = tl.sum(tl.where(inside, share, 0.0).to(tl.float64), 0)
    return mass, moment


@triton.jit
def kept_masses(
    members,
    aside,
    chosen,
    listed,
    view,
    kept,
    row_max,
    scale,
    offset,
    has_moment,
    GROUPS: tl.constexpr,
    STREAMS: tl.constexpr,
    LEGAL: tl.constexpr,
):
    """Return sum e and sum e s over the kept tokens, float64: members, or those of chosen groups.

    s = (z - row_max) scale - offset, e = exp(s), each float32; the second is 0 if not
    `has_moment`. `kept` is (low, low_token, high, high_token).
    """
    mass = tl.full((), 0.0, tl.float64)
    moment = tl.full((), 0.0, tl.float64)
    if members >= 0:
        t, z, is_one = members_of(aside, members)
        inside = is_one & contains(z, t, kept[0], kept[1], kept[2], kept[3])
        mass, moment = _masses(z, inside, row_max, scale, offset, has_moment)
    else:
        count = list_groups(chosen, listed, GROUPS)
        mass, moment = _listed_masses(
            listed, count, view, kept, row_max, scale, offset, has_moment, STREAMS, LEGAL
        )
    return mass, moment


@outlined
def _listed_masses(
    listed,
    count,
    view,
    kept,
    row_max,
    scale,
    offset,
    has_moment,
    STREAMS: tl.constexpr,
    LEGAL: tl.constexpr,
):
    low, low_token, high, high_token = kept
    mass = tl.full((), 0.0, tl.float64)
    moment = tl.full((), 0.0, tl.float64)
    for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
        _group, t, z = chunk_values(listed, chunk, count, view, STREAMS, LEGAL)
        inside = contains(z, t, low, low_token, high, high_token)
        more, shares = _masses(z, inside, row_max, scale, offset, has_moment)
        mass += more
        moment += shares
    return mass, moment


@triton.jit
def merge_edited(maxima, edited_tokens, shaped, count):
    """Raise the maxima of groups to those of a row's `count` edited tokens."""
    for piece in range(tl.cdiv(count, CHUNK)):
        index = piece * CHUNK + tl.arange(0, CHUNK)
        is_one = index < count
        edited = tl.load(edited_tokens + index, mask=is_one, other=0)
        value = tl.load(shaped + index, mask=is_one, other=float("-inf"))
        tl.atomic_max(maxima + (edited >> 6), key_of(value), mask=is_one, sem="relaxed")
    tl.debug_barrier()


@triton.jit
def plausible_keys(
    raw_maxima,
    floor,
    maxima,
    listed,
    view,
    num_groups,
    GROUPS: tl.constexpr,
    STREAMS: tl.constexpr,
    LEGAL: tl.constexpr,
):
    """Put maxima of plausible tokens in place of those of the reduction, which are bounds only."""
    group = tl.arange(0, GROUPS)
    raw_keys = group_keys(raw_maxima, num_groups, GROUPS)
    is_read = (raw_keys >= key_of(floor)) & (raw_keys > LEAST_KEY)
    count = list_groups(is_read, listed, GROUPS)
    is_group = group < num_groups
    tl.store(maxima + group, LEAST_KEY, mask=is_group & (is_read == 0))
    _write_maxima(listed, count, maxima, view, STREAMS, LEGAL)
    return group_keys(maxima, num_groups, GROUPS)


@outlined
def _write_maxima(listed, count, maxima, view, STREAMS: tl.constexpr, LEGAL: tl.constexpr):
    """Write the maxima of listed groups, seen from now on."""
    for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
        _group, _token, z = chunk_values(listed, chunk, count, view, STREAMS, LEGAL)
        best = tl.max(tl.reshape(z, [CHUNK_GROUPS, GROUP]), 1)
        which = chunk * CHUNK_GROUPS + tl.arange(0, CHUNK_GROUPS)
        is_one = which < count
        place = tl.load(listed + which, mask=is_one, other=0)
        tl.store(maxima + place, key_of(best), mask=is_one)
    tl.debug_barrier()
