"""Tokens of a row set aside because they may be kept: few enough to be put in order.

So few that a block has a thread for each. Each is compared with each, and from then on a top-k is a
place, a top-p a running sum and the best tokens are the first: what takes a search among groups'
tokens, which waits for all warps at every step, is one pass here.
"""

import triton
import triton.language as tl

from bosal_kernels.fused.interval import contains
from bosal_kernels.fused.rows import (
    GROUP,
    NOTHING,
    chunk_groups,
    packed,
    packed_value,
    token_of,
)
from bosal_kernels.fused.streams import value_at

# Tokens that are set aside at most; more are read from their row.
ASIDE = tl.constexpr(4096)
# Up to so many are members: in order.
MEMBERS = tl.constexpr(256)
# Tokens read at a time to set some aside.
_WIDE = tl.constexpr(4096)
# Members that all others are compared with at a time.
_PIECE = tl.constexpr(16)


@triton.jit
def seen_values(
    is_raw,
    listed,
    chunk,
    count,
    view,
    STREAMS: tl.constexpr,
    LEGAL: tl.constexpr,
    LANES: tl.constexpr,
):
    """Return the ids of a chunk of listed groups, and their logits: the base's or controlled."""
    of_group, is_real = chunk_groups(listed, chunk, count, LANES)
    t = of_group * GROUP + tl.arange(0, LANES) % GROUP
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
    """Write the kept tokens of listed groups whose logits reach `least` to `aside`, `packed`.

    Returns how many there are. No more than ASIDE are written; up to MEMBERS are in order.
    """
    low, low_token, high, high_token = kept
    found = tl.full((), 0, tl.int32)
    for chunk in range(tl.cdiv(count, _WIDE // GROUP)):
        t, z = seen_values(is_raw, listed, chunk, count, view, STREAMS, LEGAL, _WIDE)
        inside = contains(z, t, low, low_token, high, high_token)
        ones = tl.where(inside & (z >= least), 1, 0)
        spot = found + tl.cumsum(ones, 0) - 1
        tl.store(aside + spot, packed(z, t), mask=(ones != 0) & (spot < ASIDE))
        found += tl.sum(ones, 0)
    tl.debug_barrier()
    if found <= MEMBERS:
        lane = tl.arange(0, MEMBERS)
        mine = tl.load(aside + lane, mask=lane < found, other=NOTHING)
        place = tl.full([MEMBERS], 0, tl.int32)
        for piece in range(tl.cdiv(found, _PIECE)):
            other = piece * _PIECE + tl.arange(0, _PIECE)
            theirs = tl.load(aside + other, mask=other < found, other=NOTHING)
            place += tl.sum(tl.where(theirs[:, None] > mine[None, :], 1, 0), 0)
        tl.debug_barrier()
        tl.store(aside + place, mine, mask=lane < found)
        tl.debug_barrier()
    return found


@triton.jit
def members_of(aside, count):
    """Return the ids and logits of `count` members in order [MEMBERS], and where there is one."""
    lane = tl.arange(0, MEMBERS)
    pack = tl.load(aside + lane, mask=lane < count, other=NOTHING)
    is_one = pack > NOTHING
    return token_of(pack), tl.where(is_one, packed_value(pack), float("-inf")), is_one
