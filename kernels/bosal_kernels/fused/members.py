"""Tokens of a row set aside because they may be kept: each is compared with each.

So few of them that a block has a thread for each: what takes a search among groups' tokens, a wait
for all warps at every step, is one pass here. Nothing depends on the order they lie in.
"""

import triton
import triton.language as tl

from bosal_kernels.fused.exponential import exp2
from bosal_kernels.fused.interval import LAST_TOKEN, contains
from bosal_kernels.fused.numbers import LOG2E
from bosal_kernels.fused.rows import CHUNK, CHUNK_GROUPS, GROUP, chunk_groups, packed
from bosal_kernels.fused.streams import value_at

# Tokens that are set aside at most; more are read from their row.
ASIDE = tl.constexpr(4096)
# Up to so many are members: compared each with each.
MEMBERS = tl.constexpr(256)
# Members that all others are compared with at a time.
_PIECE = tl.constexpr(16)


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
def set_aside(
    is_raw, least, kept, listed, count, aside, view, STREAMS: tl.constexpr, LEGAL: tl.constexpr
):
    """Write the kept tokens of listed groups whose logits reach `least` to `aside`: logits, ids.

    Returns how many there are; no more than ASIDE of them are written.
    """
    low, low_token, high, high_token = kept
    values, tokens = aside
    found = tl.full((), 0, tl.int32)
    for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
        t, z = seen_values(is_raw, listed, chunk, count, view, STREAMS, LEGAL)
        inside = contains(z, t, low, low_token, high, high_token)
        ones = tl.where(inside & (z >= least), 1, 0)
        spot = found + tl.cumsum(ones, 0) - 1
        fits = (ones != 0) & (spot < ASIDE)
        tl.store(values + spot, z, mask=fits)
        tl.store(tokens + spot, t, mask=fits)
        found += tl.sum(ones, 0)
    tl.debug_barrier()
    return found


@triton.jit
def members_of(aside, count):
    """Return the ids and logits of `count` members, [MEMBERS], and which lanes have one."""
    values, tokens = aside
    lane = tl.arange(0, MEMBERS)
    is_one = lane < count
    t = tl.load(tokens + lane, mask=is_one, other=LAST_TOKEN)
    return t, tl.load(values + lane, mask=is_one, other=float("-inf")), is_one


@triton.jit
def weight_ahead(by_mass, aside, count, t, z, high, high_token, row_max, scale, offset):
    """Return how many of `count` members come before each token [MEMBERS], float64, or their mass.

    None above `high` is counted. A mass is exp((z - row_max) scale - offset), float32.
    """
    values, tokens = aside
    mine = packed(z, t)
    ahead = tl.full([MEMBERS], 0.0, tl.float64)
    for piece in range(tl.cdiv(count, _PIECE)):
        lane = piece * _PIECE + tl.arange(0, _PIECE)
        is_one = lane < count
        t_ = tl.load(tokens + lane, mask=is_one, other=LAST_TOKEN)
        z_ = tl.load(values + lane, mask=is_one, other=float("-inf"))
        is_one = is_one & ((z_ < high) | ((z_ == high) & (t_ >= high_token)))
        weight = tl.full([_PIECE], 1.0, tl.float32)
        if by_mass:
            weight = exp2(((z_ - row_max) * scale - offset) * LOG2E)
        weight = tl.where(is_one, weight, 0.0).to(tl.float64)
        is_ahead = packed(z_, t_)[:, None] > mine[None, :]
        ahead += tl.sum(tl.where(is_ahead, weight[:, None], 0.0), 0)
    return ahead
