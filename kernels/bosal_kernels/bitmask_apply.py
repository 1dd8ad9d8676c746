"""Applies packed masks of legal tokens on a device, in one launch."""

import triton
import triton.language as tl
from torch import Tensor

# Tokens a program masks; whole words of the mask.
BLOCK = 4096
NUM_WARPS = 8


@triton.jit  # type: ignore[untyped-decorator]
def bitmask_apply_kernel(  # type: ignore[no-untyped-def]
    logits, rows, bits, vocab_size, row_stride, bit_stride, BLOCK: tl.constexpr
):
    number = tl.program_id(0)
    tile = tl.program_id(1)
    row = tl.load(rows + number)
    word = tile * (BLOCK // 32) + tl.arange(0, BLOCK // 32)
    packed = tl.load(bits + number.to(tl.int64) * bit_stride + word, mask=word * 32 < vocab_size)
    is_legal = ((packed[:, None] >> tl.arange(0, 32)[None, :]) & 1).reshape([BLOCK]) != 0
    token = tile * BLOCK + tl.arange(0, BLOCK)
    is_real = token < vocab_size
    place = logits + row * row_stride + token
    value = tl.load(place, mask=is_real, other=0.0).to(tl.float32)
    # Added, so that a NaN stays one.
    tl.store(place, value + tl.where(is_legal, 0.0, float("-inf")), mask=is_real)


def bitmask_apply(logits: Tensor, rows: Tensor, bits: Tensor) -> None:
    """z[r, t] = z[r, t] - inf where bit t % 32 of word t // 32 is clear, in place.

    `logits` [B, V] with adjacent tokens, `rows` [R] int64, distinct, `bits` [R, ceil(V / 32)]
    int32. Reads and writes each of the R rows once.
    """
    if len(rows) == 0:
        return
    vocab_size = logits.shape[1]
    grid = (len(rows), triton.cdiv(vocab_size, BLOCK))
    bitmask_apply_kernel[grid](
        logits,
        rows,
        bits,
        vocab_size,
        logits.stride(0),
        bits.stride(0),
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )
