"""Several draws of one row without replacement, in two launches."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bosal_kernels.fused.noise import group_noise, token_noise
from bosal_kernels.fused.row_tiles import NUM_STATS, merge_tiles, row_tiles
from bosal_kernels.fused.rows import (
    CHUNK,
    CHUNK_GROUPS,
    GROUP,
    LEAST_KEY,
    NO_KEY,
    NOTHING,
    chunk_groups,
    key_of,
    list_groups,
    nth_key,
    packed,
    token_of,
    value_of,
)

NUM_WARPS = 8


@triton.jit
def gumbel_topk_kernel(
    logits,
    keys,
    positions,
    maxima,
    stats,
    listed,
    found,
    vocab_size,
    row_stride,
    num_groups,
    num_tiles,
    n,
    TILES: tl.constexpr,
    GROUPS: tl.constexpr,
    NUM_STATS: tl.constexpr,
):
    number = tl.program_id(0)
    row = logits + number.to(tl.int64) * row_stride
    row_max, _normalizer, is_sound, _above = merge_tiles(stats, number, num_tiles, TILES, NUM_STATS)
    key, position = tl.load(keys + number), tl.load(positions + number)
    group = tl.arange(0, GROUPS)
    place = number.to(tl.int64) * num_groups
    best = tl.load(maxima + place + group, mask=group < num_groups, other=NO_KEY)
    is_open = best > LEAST_KEY
    least, most, lane = group_noise(key, position, GROUPS)
    bound = tl.where(is_open, (value_of(best) - row_max) + most, float("-inf"))
    # On each group's lane its noise is greatest: the n-th of those scores is a floor.
    holder = group * GROUP + lane
    pivot = tl.load(row + holder, mask=is_open & (holder < vocab_size), other=float("-inf"))
    pivot = pivot.to(tl.float32)
    scores = tl.where(pivot > float("-inf"), key_of((pivot - row_max) + least), NO_KEY)
    floor, _count = nth_key(scores, tl.max(scores, 0), n, n)
    chosen = is_open & (key_of(bound) >= floor)
    count = list_groups(chosen, listed + place, GROUPS)
    num_chunks = tl.where(is_sound, tl.cdiv(count, CHUNK_GROUPS), 0)
    last = tl.full((), 2**63 - 1, tl.int64)
    for rank in range(n):
        first = tl.full((), NOTHING, tl.int64)
        for chunk in range(num_chunks):
            of_group, is_real = chunk_groups(listed + place, chunk, count, CHUNK)
            token = of_group * GROUP + tl.arange(0, CHUNK) % GROUP
            is_real = is_real & (token < vocab_size)
            z = tl.load(row + token, mask=is_real, other=float("-inf")).to(tl.float32)
            score = (z - row_max) + token_noise(key, position, of_group, CHUNK)
            pack = tl.where(z > float("-inf"), packed(score, token), NOTHING)
            first = tl.maximum(first, tl.max(tl.where(pack < last, pack, NOTHING), 0))
        is_one = first > NOTHING
        tl.store(found + number * n + rank, tl.where(is_one, token_of(first), -1).to(tl.int64))
        last = first


def gumbel_topk(logits: Tensor, keys: Tensor, positions: Tensor, n: int) -> Tensor:
    """Return the n first tokens by (fl((z - max z) + g) desc, id asc), int64 [R, n].

    z are rows [R, V] of any float type, with adjacent tokens and any stride; g is the noise of
    keys and positions [R] int64 (`bosal_kernels.noise`). Reads each row once, and the few groups
    of 64 whose bound max z + N reaches the n-th score known beforehand.
    """
    num_rows, vocab_size = logits.shape
    found = torch.empty((num_rows, n), dtype=torch.int64, device=logits.device)
    if num_rows == 0 or n == 0:
        return found
    tiles = row_tiles(logits, torch.zeros_like(keys), is_grouped=True)
    gumbel_topk_kernel[(num_rows,)](
        logits=logits,
        keys=keys,
        positions=positions,
        maxima=tiles.maxima,
        stats=tiles.stats,
        listed=tiles.listed,
        found=found,
        vocab_size=vocab_size,
        row_stride=logits.stride(0),
        num_groups=tiles.num_groups,
        num_tiles=tiles.num_tiles,
        n=n,
        TILES=triton.next_power_of_2(tiles.num_tiles),
        GROUPS=max(triton.next_power_of_2(tiles.num_groups), 2),
        NUM_STATS=NUM_STATS,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )
    return found
