"""A group's streams as one row on a device: the one formula that every kernel reads rows by."""

import triton
import triton.language as tl

from bosal_kernels.fused.numbers import ANYWHERE, INSIDE, MAX_STREAMS
from bosal_kernels.fused.rows import CHUNK, GROUP, chunk_groups
from bosal_kernels.fused.stream_masses import is_normalised, normalizer


@triton.jit
def is_in_force(slot, position, after, until, region, in_constraint):
    """Say whether a slot's combination acts at a position; gates are not known here."""
    is_here = (position >= tl.load(after + slot)) & (position < tl.load(until + slot))
    where = tl.load(region + slot)
    is_inside = tl.load(in_constraint + slot) != 0
    return is_here & ((where == ANYWHERE) | ((where == INSIDE) == is_inside))


@triton.jit
def stream_weight(slot, stream: tl.constexpr, strength, weights, slopes):
    """Return the weight of a stream, float32; rounded once, from float64."""
    place = slot * MAX_STREAMS + stream
    return (tl.load(weights + place) + strength * tl.load(slopes + place)).to(tl.float32)


@triton.jit
def strength_of(slot, position, strength, final_strength, over):
    """Return how far a slot's streams pull at a position, float64."""
    last = tl.load(over + slot)
    progress = tl.minimum(position, last).to(tl.float64) / last.to(tl.float64)
    begin = tl.load(strength + slot)
    return begin + (tl.load(final_strength + slot) - begin) * progress


@triton.jit
def scaled(x, inverse, normalizer, weight):
    """Return a stream's share of the row; every product and sum is rounded, as in torch."""
    return (x * inverse - normalizer) * weight


@triton.jit
def stream_terms(
    slot,
    number,
    position,
    depths,
    masses,
    coupling,
    in_constraint,
    num_tiles,
    STREAMS: tl.constexpr,
    NORMED: tl.constexpr,
    TILES: tl.constexpr,
):
    """Return how many streams a row combines, and the weight, 1 / T and normalizer of each.

    `coupling` holds the state's weights, slopes, inverse, strength, final_strength, over, after,
    until, region and space. Where NORMED, `masses` are those of `stream_masses`.
    """
    weights, slopes, inverse, strength, final_strength, over, after, until, region, space = coupling
    depth = tl.load(depths + number)
    w0, w1, w2, i0, i1, i2, n0, n1, n2 = 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0
    if STREAMS > 1:
        acts = is_in_force(slot, position, after, until, region, in_constraint)
        depth = tl.where(acts, depth, 1)
        pull = strength_of(slot, position, strength, final_strength, over)
        w0 = stream_weight(slot, 0, pull, weights, slopes)
        w1 = stream_weight(slot, 1, pull, weights, slopes)
        i0 = tl.load(inverse + slot * MAX_STREAMS)
        i1 = tl.load(inverse + slot * MAX_STREAMS + 1)
        if STREAMS > 2:
            w2 = stream_weight(slot, 2, pull, weights, slopes)
            i2 = tl.load(inverse + slot * MAX_STREAMS + 2)
        if NORMED:
            if (depth > 1) & is_normalised(slot, space):
                first = number * STREAMS
                n0 = normalizer(masses, first, i0, num_tiles, TILES)
                n1 = normalizer(masses, first + 1, i1, num_tiles, TILES)
                if STREAMS > 2:
                    if depth > 2:
                        n2 = normalizer(masses, first + 2, i2, num_tiles, TILES)
    return depth, w0, w1, w2, i0, i1, i2, n0, n1, n2


@triton.jit
def bits_at(words, token, mask):
    """Return the bits of tokens in a packed row, 0 or 1; 0 where masked."""
    word = tl.load(words + (token >> 5), mask=mask, other=0)
    return (word >> (token & 31)) & 1


@triton.jit
def value_at(token, is_real, view, STREAMS: tl.constexpr, LEGAL: tl.constexpr):
    """Return the controlled logits of any tokens of a row, as the reduction saw them.

    -inf where not `is_real`, and where the base's logit is less than the view's floor. A view is
    (row, row_stride, vocab_size, terms, floor, legal, legal_row, touched, touched_index, shaped).
    """
    row, row_stride, _size, terms, floor, legal, legal_row, touched, touched_index, shaped = view
    depth, w0, w1, w2, i0, i1, i2, n0, n1, n2 = terms
    x = tl.load(row + token, mask=is_real, other=float("-inf")).to(tl.float32)
    z = x
    if STREAMS > 1:
        if depth > 1:
            other = tl.load(row + row_stride + token, mask=is_real, other=0.0).to(tl.float32)
            z = scaled(x, i0, n0, w0) + scaled(other, i1, n1, w1)
            if STREAMS > 2:
                if depth > 2:
                    far = row + 2 * row_stride + token
                    third = tl.load(far, mask=is_real, other=0.0).to(tl.float32)
                    z = z + scaled(third, i2, n2, w2)
            z = tl.where(x == float("-inf"), float("-inf"), z)
    if LEGAL:
        if legal_row >= 0:
            z = tl.where(bits_at(legal, token, is_real) != 0, z, float("-inf"))
    is_touched = bits_at(touched, token, is_real) != 0
    place = tl.load(touched_index + token, mask=is_touched, other=0)
    z = tl.where(is_touched, tl.load(shaped + place, mask=is_touched, other=0.0), z)
    if STREAMS > 1:
        z = tl.where(x < floor, float("-inf"), z)
    return z


@triton.jit
def chunk_values(listed, chunk, count, view, STREAMS: tl.constexpr, LEGAL: tl.constexpr):
    """Return the group, id and controlled logit of every lane of a chunk of listed groups."""
    of_group, is_real = chunk_groups(listed, chunk, count, CHUNK)
    token = of_group * GROUP + tl.arange(0, CHUNK) % GROUP
    return of_group, token, value_at(token, is_real & (token < view[2]), view, STREAMS, LEGAL)
