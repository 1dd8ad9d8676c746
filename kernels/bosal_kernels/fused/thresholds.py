"""Thresholds of truncation stages, as the least logit that stays."""

import triton
import triton.language as tl

from bosal_kernels.fused.interval import contains, least_logit, rounded_up
from bosal_kernels.fused.outlined import outlined
from bosal_kernels.fused.rows import CHUNK_GROUPS
from bosal_kernels.fused.streams import chunk_values


@triton.jit
def share_floor(
    is_min_p, is_eta, is_xtc, value, second, mass, moment, offset, row_max, scale
):  # fmt: skip
    """Return the least logit whose share of the maximum (min-p) or of the mass is large enough.

    The share is `value`; for eta min(value, sqrt(value) exp(-entropy)); for XTC `second`.
    """
    log_value = tl.log(tl.where(value > 0.0, value, 1.0))
    log_mass = tl.log(tl.where(mass > 0.0, mass, 1.0))
    least = offset + log_value.to(tl.float32)
    if is_min_p == 0:
        log_share = log_value
        if is_eta:
            entropy = log_mass - moment / mass
            log_share = tl.minimum(log_value, 0.5 * log_value - entropy)
        if is_xtc:
            log_share = tl.log(second)
        least = rounded_up(offset.to(tl.float64) + (log_share + log_mass))
    return least_logit(least, row_max, scale)


@outlined
def last_choice(listed, count, view, kept, floor, STREAMS: tl.constexpr, LEGAL: tl.constexpr):
    """Return how many kept tokens of listed groups reach a floor, and the last: logit and id."""
    low, low_token, high, high_token = kept
    choices = tl.full((), 0, tl.int32)
    end = tl.full((), float("inf"), tl.float32)
    end_token = tl.full((), -1, tl.int32)
    for chunk in range(tl.cdiv(count, CHUNK_GROUPS)):
        _group, t, z = chunk_values(listed, chunk, count, view, STREAMS, LEGAL)
        inside = contains(z, t, low, low_token, high, high_token)
        inside = inside & (z >= floor)
        choices += tl.sum(tl.where(inside, 1, 0), 0)
        lowest = tl.min(tl.where(inside, z, float("inf")), 0)
        last = tl.max(tl.where(inside & (z == lowest), t, -1), 0)
        # Later pieces have greater ids.
        is_end = lowest <= end
        end_token = tl.where(is_end & (last >= 0), last, end_token)
        end = tl.where(is_end, lowest, end)
    return choices, end, end_token
