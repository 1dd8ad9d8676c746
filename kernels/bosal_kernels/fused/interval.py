"""Kept sets of a row on a device: intervals of the order (logit descending, id ascending).

The formulas are those of `bosal_kernels.interval` and `bosal_kernels.truncate`.
"""

import triton
import triton.language as tl

from bosal_kernels.fused.rows import GREATEST_KEY, LEAST_KEY, NO_KEY, key_of, value_of

# Behind every token of a row.
LAST_TOKEN = tl.constexpr(2147483647)


@triton.jit
def contains(value, token, low, low_token, high, high_token):
    """Say which tokens lie between two, both included."""
    above = (value > low) | ((value == low) & (token <= low_token))
    return above & ((value < high) | ((value == high) & (token >= high_token)))


@triton.jit
def raised(low, low_token, value, token, first, first_token):
    """Return the interval's end without what lies behind (value, token); the first token stays."""
    is_behind = (value < first) | ((value == first) & (token >= first_token))
    value = tl.where(is_behind, value, first)
    token = tl.where(is_behind, token, first_token)
    is_higher = (value > low) | ((value == low) & (token < low_token))
    return tl.where(is_higher, value, low), tl.where(is_higher, token, low_token)


@triton.jit
def rounded_up(value):
    """Return the least float32 that is not less than a float64."""
    rounded = value.to(tl.float32)
    above = value_of(key_of(rounded) + 1)
    return tl.where(rounded.to(tl.float64) < value, above, rounded)


@triton.jit
def _passes(key, floor, row_max, inverse):
    is_number = (key >= LEAST_KEY) & (key <= GREATEST_KEY)
    reaches = (value_of(key) - row_max) * inverse >= floor
    return (is_number & reaches) | (key > GREATEST_KEY)


@triton.jit
def least_logit(floor, row_max, inverse):
    """Return the least float32 z with (z - row_max) * inverse >= floor, by search over floats."""
    # It is mostly within 4,096 floats of what it would be without rounding.
    near = (key_of(row_max + floor / inverse) - 2048) & ~4095
    is_near = (near >= LEAST_KEY) & (near < GREATEST_KEY - 4096)
    is_near = is_near & _passes(near + 4096, floor, row_max, inverse)
    is_near = is_near & (_passes(near, floor, row_max, inverse) == 0)
    # The greatest key that fails, one bit after the other.
    key = tl.where(is_near, near, NO_KEY)
    bit = tl.where(is_near, 2048, NO_KEY)
    while bit != 0:
        trial = key ^ bit
        key = tl.where(_passes(trial, floor, row_max, inverse), key, trial)
        bit = (bit >> 1) & 0x7FFFFFFF
    return value_of(key + 1)
