"""A tile of a row as the threads of a program hold it: [parts, lanes, logits of one wide load].

A lane's logits stay in one thread's registers, so what is summed over them needs no other thread.
Which lane has which token depends on the logits' type alone.
"""

import triton
import triton.language as tl

from bosal_kernels.fused.exponential import exp2
from bosal_kernels.fused.rows import GROUP

# Tokens of a tile; the number of tiles depends on the vocabulary alone.
BLOCK = 4096
NUM_WARPS = 4
# The interpreter's time is by operation, not by logit.
_IS_COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)
LANES = 32 * NUM_WARPS if _IS_COMPILED else BLOCK // 8
# Bits of one load.
_WIDTH = tl.constexpr(128)


@triton.jit
def load_lanes(row, tile, vocab_size, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """Return the logits of a tile, [parts, LANES, n], as they are; -inf beyond the vocabulary."""
    WIDE: tl.constexpr = _WIDTH // row.dtype.element_ty.primitive_bitwidth
    place = tl.arange(0, BLOCK // WIDE)
    token = tile * BLOCK + place[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    # Without a mask whole tiles are read 128 bits at a time, whatever the vocabulary's size.
    if (tile + 1) * BLOCK <= vocab_size:
        value = tl.load(row + token)
    else:
        value = tl.load(row + token, mask=token < vocab_size, other=float("-inf"))
    return tl.reshape(value, [BLOCK // (LANES * WIDE), LANES, WIDE])


@triton.jit
def widened(value):
    """Return logits as float32; until all loads are under way they are left as they came."""
    if _IS_COMPILED and value.dtype == tl.bfloat16:
        # Two of them lie in a register; the compiler would take the upper one apart in two steps.
        found = tl.inline_asm_elementwise(
            """{
            .reg .b32 wide;
            shl.b32 wide, $2, 16;
            mov.b32 $0, wide;
            and.b32 wide, $2, 0xffff0000;
            mov.b32 $1, wide;
            }""",
            "=f,=f,r",
            [value],
            dtype=tl.float32,
            is_pure=True,
            pack=2,
        )
    else:
        found = value.to(tl.float32)
    return found


@triton.jit
def load_octets(
    words, tile, vocab_size, LANES: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """Return bits of a packed row, int32 [PARTS, LANES]: those of a lane's tokens come first."""
    token = (tile * (PARTS * LANES) + tl.arange(0, PARTS * LANES)) * WIDE
    # Loaded one by one they are where their logits are; loaded together they would have to move.
    octet = tl.max_contiguous(token >> 3, [1])
    octets = words.to(tl.pointer_type(tl.uint8), bitcast=True)
    found = tl.load(octets + octet, mask=token < vocab_size, other=0).to(tl.int32)
    return tl.reshape(found >> (token & 7), [PARTS, LANES])


@triton.jit
def are_set(octets, WIDE: tl.constexpr):
    """Say of each of the lanes' tokens whether its bit is set: [parts, lanes, WIDE]."""
    return ((octets[:, :, None] >> tl.arange(0, WIDE)[None, None, :]) & 1) != 0


@triton.jit
def group_maxima(value):
    """Return the maxima of a tile's groups of 64 tokens, [tokens / 64]."""
    of_lane = tl.max(value, 2)
    GROUPS: tl.constexpr = value.numel // GROUP
    of_group = tl.reshape(of_lane, [GROUPS, of_lane.numel // GROUPS])
    return tl.max(of_group, 1)


@triton.jit
def lane_sum(value):
    """Return the sums of [parts, lanes, n] over a lane's logits: [lanes]."""
    return tl.sum(tl.sum(value, 2), 0)


@triton.jit
def lane_weights(value, factor):
    """Return the maxima of lanes, and of each logit value - maximum and exp2(that times factor).

    A lane without any logit has a maximum of -inf and weights of 0.
    """
    best = tl.max(tl.max(value, 2), 0)
    anchor = tl.where(best == float("-inf"), 0.0, best)
    shifted = value - anchor[None, :, None]
    return best, shifted, exp2(shifted * factor)


@triton.jit
def lane_decay(best, row_best, factor):
    """Return how far lanes' maxima lie below that of all, and exp2 of that times factor."""
    gap = best - tl.where(row_best == float("-inf"), 0.0, row_best)
    return gap, exp2(gap * factor)


@triton.jit
def both_max(a, b):
    """Return the maxima of two [lanes]; threads meet once for both."""
    return tl.split(tl.max(tl.join(a, b), 0))


@triton.jit
def both_sum(a, b):
    """Return the sums of two [lanes]; threads meet once for both."""
    return tl.split(tl.sum(tl.join(a, b), 0))
