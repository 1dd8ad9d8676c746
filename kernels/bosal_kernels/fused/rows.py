"""Rows on a device, seen as groups of 64 tokens: the order of tokens, and lists of groups.

A row is one program's from here on. What it lists it lists by id, so nothing depends on timing.
"""

import triton
import triton.language as tl

from bosal_kernels import groups

# Tokens of a group.
GROUP = tl.constexpr(groups.GROUP)
# Tokens read at a time from listed groups, all in order of their ids.
CHUNK = tl.constexpr(1024)
CHUNK_GROUPS = tl.constexpr(CHUNK.value // GROUP.value)
# Sorts behind every number, -inf too.
NO_KEY = tl.constexpr(-2147483648)
LEAST_KEY = tl.constexpr(-2139095041)
GREATEST_KEY = tl.constexpr(2139095040)
# Less than what any token packs to.
NOTHING = tl.constexpr(-(2**63))


@triton.jit
def key_of(value):
    """Map float32 to int32 in the same order; -0 equals 0."""
    bits = (value + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def value_of(key):
    """Invert `key_of`."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def packed(value, token):
    """Pack tokens so that the greatest number is the first by (value desc, id asc)."""
    return (key_of(value).to(tl.int64) << 32) | (0x7FFFFFFF - token).to(tl.int64)


@triton.jit
def token_of(pack):
    return 0x7FFFFFFF - (pack & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def packed_value(pack):
    return value_of((pack >> 32).to(tl.int32))


@triton.jit
def nth_key(keys, n):
    """Return the n-th greatest of keys, n >= 1; NO_KEY where there are fewer."""
    key = tl.full((), NO_KEY, tl.int32)
    bit = tl.full((), NO_KEY, tl.int32)
    for _ in range(32):
        trial = key ^ bit
        enough = tl.sum((keys >= trial).to(tl.int32), 0) >= n
        key = tl.where(enough, trial, key)
        bit = (bit >> 1) & 0x7FFFFFFF
    return key


@triton.jit
def best_groups(keys, n):
    """Say which groups are the n first by (maximum desc, id asc): the n best tokens lie there."""
    edge = nth_key(keys, n)
    above = keys > edge
    ties = keys == edge
    missing = n - tl.sum(above.to(tl.int32), 0)
    is_first = tl.cumsum(ties.to(tl.int32), 0) <= missing
    return (above | (ties & is_first)) & (keys > LEAST_KEY)


@triton.jit
def list_groups(chosen, listed, GROUPS: tl.constexpr):
    """Write the numbers of the chosen groups to `listed`, ascending; return how many there are."""
    tl.debug_barrier()
    place = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(listed + place, tl.arange(0, GROUPS), mask=chosen)
    tl.debug_barrier()
    return tl.sum(chosen.to(tl.int32), 0)


@triton.jit
def chunk_groups(listed, chunk, count):
    """Return the group of every lane of a chunk, and whether there is one."""
    place = chunk * CHUNK_GROUPS + tl.arange(0, CHUNK) // GROUP
    is_real = place < count
    return tl.load(listed + place, mask=is_real, other=0), is_real
