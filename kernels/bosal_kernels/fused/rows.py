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
# Ranges that keys are counted in at a time.
_RANGES = tl.constexpr(128)
_RANGE_BITS = tl.constexpr(7)
_UNREACHED = tl.constexpr(2147483647)
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
def group_keys(maxima, num_groups, GROUPS: tl.constexpr):
    """Return the keys of a row's groups [GROUPS] as they are now, NO_KEY where there is none."""
    group = tl.arange(0, GROUPS)
    return tl.load(maxima + group, mask=group < num_groups, other=NO_KEY, volatile=True)


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
def nth_key(keys, best_key, n, most):
    """Return a key that n of `keys` reach, n >= 1, and how many do; `best_key` is their greatest.

    It is the n-th greatest, or less where `most` or fewer reach that. Keys are counted by how far
    they lie below the greatest, in ranges that narrow seven bits at a time: one bit at a time the
    block would wait for all its warps 32 times.
    """
    distance = best_key.to(tl.int64) - keys.to(tl.int64)
    lane = tl.arange(0, _RANGES)
    begin = tl.full((), 0, tl.int64)
    end = tl.full((), 0, tl.int64)
    before = tl.full((), 0, tl.int32)
    count = tl.full((), 0, tl.int32)
    # The best are mostly found among the first 2^24 keys, where ranges are already narrow.
    shift = tl.full((), 17, tl.int64)
    is_first = tl.full((), 1, tl.int32)
    is_pending = tl.full((), 1, tl.int32)
    while is_pending != 0:
        which = (distance - begin) >> shift
        # The last range holds what lies outside of all too: it is not counted on.
        which = tl.where((which < 0) | (which >= _RANGES), _RANGES - 1, which).to(tl.int32)
        reached = before + tl.cumsum(tl.histogram(which, _RANGES), 0)
        # Where n is reached first.
        at = tl.min(tl.where(reached >= n, (reached << _RANGE_BITS) | lane, _UNREACHED), 0)
        number = at & (_RANGES - 1)
        count = at >> _RANGE_BITS
        is_last = number == _RANGES - 1
        is_beyond = is_last & (is_first != 0)
        end = begin + ((number + 1).to(tl.int64) << shift) - 1
        is_pending = tl.where(is_beyond | ((shift > 0) & (is_last | (count > most))), 1, 0)
        if is_pending != 0:
            passed = tl.max(tl.where(reached < n, reached, before), 0)
            before = tl.where(is_beyond, 0, passed)
            begin = tl.where(is_beyond, 0, begin + (number.to(tl.int64) << shift))
            shift = tl.where(is_beyond, 32 - _RANGE_BITS, tl.maximum(shift - _RANGE_BITS, 0))
        is_first = tl.full((), 0, tl.int32)
    return tl.maximum(best_key.to(tl.int64) - end, NO_KEY).to(tl.int32), count


@triton.jit
def best_groups(keys, best_key, n):
    """Say which groups hold the n best tokens, and return a key that those reach.

    They are the n first by (maximum desc, id asc), or a few more.
    """
    most = n + (n >> 3) + 4
    edge, count = nth_key(keys, best_key, n, most)
    chosen = keys >= edge
    if count > most:
        above = keys > edge
        ties = keys == edge
        missing = n - tl.sum(above.to(tl.int32), 0)
        chosen = above | (ties & (tl.cumsum(ties.to(tl.int32), 0) <= missing))
    return chosen & (keys > LEAST_KEY), tl.maximum(edge, LEAST_KEY)


@triton.jit
def list_groups(chosen, listed, GROUPS: tl.constexpr):
    """Write the numbers of the chosen groups to `listed`, ascending; return how many there are."""
    tl.debug_barrier()
    place = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(listed + place, tl.arange(0, GROUPS), mask=chosen)
    tl.debug_barrier()
    return tl.sum(chosen.to(tl.int32), 0)


@triton.jit
def chunk_groups(listed, chunk, count, LANES: tl.constexpr):
    """Return the group of every lane of a chunk of LANES tokens, and whether there is one."""
    place = chunk * (LANES // GROUP) + tl.arange(0, LANES) // GROUP
    is_real = place < count
    return tl.load(listed + place, mask=is_real, other=0), is_real
