"""The draw from what a row keeps: the greatest perturbed score, of its members or of few groups."""

import triton
import triton.language as tl

from bosal_kernels.fused.exponential import exp2
from bosal_kernels.fused.interval import contains, raised
from bosal_kernels.fused.masses import kept_masses
from bosal_kernels.fused.members import members_of
from bosal_kernels.fused.noise import group_noise, noise_of, token_noise
from bosal_kernels.fused.numbers import LOG2E
from bosal_kernels.fused.outlined import outlined
from bosal_kernels.fused.rows import (
    CHUNK,
    CHUNK_GROUPS,
    GROUP,
    LEAST_KEY,
    NOTHING,
    group_keys,
    key_of,
    list_groups,
    packed,
    token_of,
    value_of,
)
from bosal_kernels.fused.streams import chunk_values, value_at


@triton.jit
def draw_member(
    noise_key,
    here,
    members,
    aside,
    kept,
    first,
    first_token,
    row_max,
    scale,
    lazy,
):
    """Return the kept member of greatest (z - row_max) scale + g, and its logit.

    `lazy` is what `truncate` leaves to the draw: members that it would not keep are left out.
    """
    low, low_token, high, high_token = kept
    lazy_target, lazy_scale = lazy
    t, z, is_one = members_of(aside, members)
    inside = is_one & contains(z, t, low, low_token, high, high_token)
    if lazy_target < float("inf"):
        offset = (first - row_max) * lazy_scale
        is_below = is_one & contains(z, t, float("-inf"), -1, high, high_token)
        weight = exp2(((z - row_max) * lazy_scale - offset) * LOG2E)
        weight = tl.where(is_below, weight, 0.0).to(tl.float64)
        ahead = tl.cumsum(weight, 0) - weight
        inside = inside & ((ahead < lazy_target) | (t == first_token))
    score = (z - row_max) * scale + noise_of(noise_key, here, t)
    pack = tl.where(inside, packed(score, t), NOTHING)
    winner = tl.max(pack, 0)
    return token_of(winner), tl.max(tl.where(pack == winner, z, float("-inf")), 0)


@outlined
def draw_from_groups(
    noise_key,
    here,
    maxima,
    listed,
    view,
    kept,
    first,
    first_token,
    row_max,
    scale,
    lazy,
    num_groups,
    GROUPS: tl.constexpr,
    STREAMS: tl.constexpr,
    LEGAL: tl.constexpr,
):
    """Return the kept token of greatest (z - row_max) scale + g, and its logit.

    One that a last top-p would not have kept raises the end of what is kept, and draws again.
    """
    low, low_token, high, high_token = kept
    lazy_target, lazy_scale = lazy
    group = tl.arange(0, GROUPS)
    keys = group_keys(maxima, num_groups, GROUPS)
    is_open = keys > LEAST_KEY
    # On each group's lane its noise is greatest: those scores are floors.
    least, most, lane_of = group_noise(noise_key, here, GROUPS)
    holder = group * GROUP + lane_of
    pivot = value_at(holder, is_open & (holder < view[2]), view, STREAMS, LEGAL)
    pivot_score = (pivot - row_max) * scale + least
    bound = (tl.minimum(value_of(keys), high) - row_max) * scale + most
    bound = tl.where(is_open, bound, float("-inf"))
    token = first_token
    value_of_token = first
    is_pending = tl.full((), 1, tl.int32)
    while is_pending != 0:
        is_member = contains(pivot, holder, low, low_token, high, high_token)
        beaten = tl.max(tl.where(is_member, pivot_score, float("-inf")), 0)
        chosen = is_open & (keys >= key_of(low)) & (bound >= beaten)
        count = list_groups(chosen, listed, GROUPS)
        now_kept = (low, low_token, high, high_token)
        token, value_of_token = _draw_listed(
            noise_key, here, listed, count, view, now_kept, row_max, scale, STREAMS, LEGAL
        )
        is_pending = tl.full((), 0, tl.int32)
        if (lazy_target < float("inf")) & (token != first_token):
            chosen = is_open & (keys >= key_of(value_of_token))
            offset = (first - row_max) * lazy_scale
            before = (value_of_token, token - 1, high, high_token)
            ahead, _moment = kept_masses(
                -1, listed, chosen, listed, view, before, row_max, lazy_scale, offset, False,
                GROUPS, STREAMS, LEGAL,
            )  # fmt: skip
            if ahead >= lazy_target:
                low, low_token = raised(
                    low, low_token, value_of_token, token - 1, first, first_token
                )
                is_pending = tl.full((), 1, tl.int32)
    return token, value_of_token


@outlined
def _draw_listed(
    noise_key,
    here,
    listed,
    count,
    view,
    kept,
    row_max,
    scale,
    STREAMS: tl.constexpr,
    LEGAL: tl.constexpr,
):
    """Return the kept token of listed groups of greatest (z - row_max) scale + g, and its logit."""
    low, low_token, high, high_token = kept
    winner = tl.full((), NOTHING, tl.int64)
    value = tl.full((), float("-inf"), tl.float32)
    for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
        of_group, t, z = chunk_values(listed, chunk, count, view, STREAMS, LEGAL)
        inside = contains(z, t, low, low_token, high, high_token)
        score = (z - row_max) * scale
        score = score + token_noise(noise_key, here, of_group, CHUNK)
        pack = tl.where(inside, packed(score, t), NOTHING)
        best = tl.max(pack, 0)
        if best > winner:
            winner = best
            value = tl.max(tl.where(pack == best, z, float("-inf")), 0)
    return token_of(winner), value
