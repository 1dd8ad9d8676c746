"""One pass over rows of logits: statistics of tiles and maxima of groups, for what reads them."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bosal_kernels.fused.exponential import exp2
from bosal_kernels.fused.numbers import LOG2E
from bosal_kernels.fused.rows import GROUP, key_of

# Tokens of a tile; the number of tiles depends on the vocabulary alone.
BLOCK = 4096
NUM_WARPS = 8
# Numbers a tile leaves: its maximum, its sum of exponentials below that, how many of its logits
# are NaN or +inf, how many exceed the given token's.
NUM_STATS = 4


@triton.jit
def load_tile(row, tile, vocab_size, BLOCK: tl.constexpr):
    """Return the logits of a tile, float32; -inf beyond the vocabulary."""
    token = tile * BLOCK + tl.arange(0, BLOCK)
    # Without a mask whole tiles are read 128 bits at a time, whatever the vocabulary's size.
    if (tile + 1) * BLOCK <= vocab_size:
        value = tl.load(row + token).to(tl.float32)
    else:
        value = tl.load(row + token, mask=token < vocab_size, other=float("-inf")).to(tl.float32)
    return value


@triton.jit
def sum_exp(value, best):
    """Return the sum of exp(value - best) of a tile; 0 where the tile is empty."""
    anchor = tl.where(best == float("-inf"), 0.0, best)
    return tl.sum(exp2((value - anchor) * LOG2E), 0)


@triton.jit
def row_tiles_kernel(
    logits,
    tokens,
    maxima,
    stats,
    vocab_size,
    row_stride,
    num_groups,
    BLOCK: tl.constexpr,
    GROUPED: tl.constexpr,
    NUM_STATS: tl.constexpr,
):
    number = tl.program_id(0)
    tile = tl.program_id(1)
    row = logits + number.to(tl.int64) * row_stride
    value = load_tile(row, tile, vocab_size, BLOCK)
    is_bad = tl.where(value < float("inf"), 0, 1)
    value = tl.where(value < float("inf"), value, float("-inf"))
    given = tl.load(tokens + number)
    edge = tl.load(row + tl.maximum(given, 0)).to(tl.float32)
    above = tl.sum(tl.where(value > edge, 1, 0), 0)
    best = tl.max(value, 0)
    if GROUPED:
        group = tile * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
        of_group = tl.max(tl.reshape(value, [BLOCK // GROUP, GROUP]), 1)
        place = maxima + number.to(tl.int64) * num_groups + group
        tl.store(place, key_of(of_group), mask=group < num_groups)
    out = stats + (number * tl.num_programs(1) + tile) * NUM_STATS
    tl.store(out, best)
    tl.store(out + 1, sum_exp(value, best))
    tl.store(out + 2, tl.sum(is_bad, 0).to(tl.float32))
    tl.store(out + 3, above.to(tl.float32))


@triton.jit
def merge_tiles(stats, number, num_tiles, TILES: tl.constexpr, NUM_STATS: tl.constexpr):
    """Return a row's maximum, ln sum exp (float64), whether it is sound, and how many exceed."""
    tile = tl.arange(0, TILES)
    is_real = tile < num_tiles
    place = stats + (number * num_tiles + tile) * NUM_STATS
    best = tl.load(place, mask=is_real, other=float("-inf"))
    mass = tl.load(place + 1, mask=is_real, other=0.0).to(tl.float64)
    bad = tl.sum(tl.load(place + 2, mask=is_real, other=0.0), 0)
    # Counts of a tile are exact in float32; their sum may not be.
    above = tl.sum(tl.load(place + 3, mask=is_real, other=0.0).to(tl.int32), 0)
    row_max = tl.max(best, 0)
    is_sound = (row_max > float("-inf")) & (bad == 0)
    anchor = tl.where(row_max > float("-inf"), row_max, 0.0)
    total = tl.sum(mass * tl.exp((best - anchor).to(tl.float64)), 0)
    normalizer = anchor.to(tl.float64) + tl.log(tl.where(is_sound, total, 1.0))
    return anchor, normalizer, is_sound, above


@dataclass(frozen=True, slots=True)
class RowTiles:
    """What one pass leaves of rows; shapes depend on the vocabulary alone."""

    maxima: Tensor  # [R, NG] int32, `rows.key_of` the maxima of groups
    stats: Tensor  # [R, NT, NUM_STATS] float32
    # Room for a list of groups by row.
    listed: Tensor  # [R, NG] int32

    @property
    def num_groups(self) -> int:
        return self.maxima.shape[1]

    @property
    def num_tiles(self) -> int:
        return self.stats.shape[1]


def row_tiles(logits: Tensor, tokens: Tensor, *, is_grouped: bool) -> RowTiles:
    """Read rows z [R, V] once: statistics of tiles, and the maxima of groups if they are needed.

    Of tile i: max z, sum exp(z - max z), the number of NaN and +inf, the number of z > z[token].
    Rows have adjacent tokens; `tokens` are [R] int64.
    """
    num_rows, vocab_size = logits.shape
    num_groups, num_tiles = triton.cdiv(vocab_size, GROUP.value), triton.cdiv(vocab_size, BLOCK)
    keys = torch.empty(
        (num_rows, num_groups if is_grouped else 1), dtype=torch.int32, device=logits.device
    )
    stats = torch.empty((num_rows, num_tiles, NUM_STATS), dtype=torch.float32, device=logits.device)
    if num_rows:
        row_tiles_kernel[(num_rows, num_tiles)](
            logits=logits,
            tokens=tokens,
            maxima=keys,
            stats=stats,
            vocab_size=vocab_size,
            row_stride=logits.stride(0),
            num_groups=num_groups,
            BLOCK=BLOCK,
            GROUPED=is_grouped,
            NUM_STATS=NUM_STATS,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
        )
    return RowTiles(maxima=keys, stats=stats, listed=torch.empty_like(keys))
