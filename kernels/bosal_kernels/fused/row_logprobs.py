"""Log-probabilities of given tokens under given rows, with the best tokens, in two launches."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bosal_kernels.fused.row_tiles import NUM_STATS, merge_tiles, row_tiles
from bosal_kernels.fused.rows import (
    CHUNK,
    CHUNK_GROUPS,
    GROUP,
    NO_KEY,
    NOTHING,
    best_groups,
    chunk_groups,
    list_groups,
    packed,
    packed_value,
    token_of,
)
from bosal_kernels.logprobs import TopTokens
from bosal_kernels.row_logprobs import RowLogprobs

NUM_WARPS = 4


@triton.jit
def row_logprobs_kernel(
    logits,
    tokens,
    maxima,
    stats,
    listed,
    logprobs,
    normalizers,
    ranks,
    top_ids,
    top_logprobs,
    vocab_size,
    row_stride,
    num_groups,
    num_tiles,
    n,
    TILES: tl.constexpr,
    GROUPS: tl.constexpr,
    TOP: tl.constexpr,
    NUM_STATS: tl.constexpr,
):
    number = tl.program_id(0)
    row = logits + number.to(tl.int64) * row_stride
    _row_max, normalizer, is_sound, above = merge_tiles(stats, number, num_tiles, TILES, NUM_STATS)
    given = tl.load(tokens + number)
    value = tl.load(row + tl.maximum(given, 0)).to(tl.float32).to(tl.float64)
    is_known = is_sound & (given >= 0)
    tl.store(logprobs + number, tl.where(is_known, value - normalizer, float("nan")))
    tl.store(normalizers + number, tl.where(is_sound, normalizer, float("nan")))
    tl.store(ranks + number, tl.where(is_known, 1 + above, 0).to(tl.int64))
    if TOP:
        group = tl.arange(0, GROUPS)
        place = number.to(tl.int64) * num_groups
        keys = tl.load(maxima + place + group, mask=group < num_groups, other=NO_KEY)
        chosen, _least = best_groups(keys, tl.max(keys, 0), n)
        count = list_groups(chosen, listed + place, GROUPS)
        num_chunks = tl.where(is_sound, tl.cdiv(count, CHUNK_GROUPS), 0)
        last = tl.full((), 2**63 - 1, tl.int64)
        for rank in range(n):
            best = tl.full((), NOTHING, tl.int64)
            for chunk in range(num_chunks):
                of_group, is_real = chunk_groups(listed + place, chunk, count, CHUNK)
                token = of_group * GROUP + tl.arange(0, CHUNK) % GROUP
                is_real = is_real & (token < vocab_size)
                z = tl.load(row + token, mask=is_real, other=float("-inf")).to(tl.float32)
                pack = tl.where(z > float("-inf"), packed(z, token), NOTHING)
                best = tl.maximum(best, tl.max(tl.where(pack < last, pack, NOTHING), 0))
            is_one = best > NOTHING
            out = number * n + rank
            tl.store(top_ids + out, tl.where(is_one, token_of(best), -1).to(tl.int64))
            of_best = packed_value(best).to(tl.float64) - normalizer
            tl.store(top_logprobs + out, tl.where(is_one, of_best, float("nan")))
            last = best


def row_logprobs(logits: Tensor, tokens: Tensor, n: int = 0) -> RowLogprobs:
    """log p(t) = z[t] - ln sum_u exp(z[u]) for rows z [R, V] of any float type, tokens [R] int64.

    And the n best tokens of each row by (z desc, id asc). Rows have adjacent tokens and any
    stride. Reads each row once, and the n groups of 64 in which its best tokens lie.
    """
    num_rows, vocab_size = logits.shape
    tiles = row_tiles(logits, tokens, is_grouped=n > 0)
    device = logits.device
    found = RowLogprobs(
        logprobs=torch.empty(num_rows, dtype=torch.float32, device=device),
        log_normalizers=torch.empty(num_rows, dtype=torch.float32, device=device),
        ranks=torch.empty(num_rows, dtype=torch.int64, device=device),
        top=TopTokens(
            torch.empty((num_rows, n), dtype=torch.int64, device=device),
            torch.empty((num_rows, n), dtype=torch.float32, device=device),
        ),
    )
    if num_rows:
        row_logprobs_kernel[(num_rows,)](
            logits=logits,
            tokens=tokens,
            maxima=tiles.maxima,
            stats=tiles.stats,
            listed=tiles.listed,
            logprobs=found.logprobs,
            normalizers=found.log_normalizers,
            ranks=found.ranks,
            top_ids=found.top.ids,
            top_logprobs=found.top.logprobs,
            vocab_size=vocab_size,
            row_stride=logits.stride(0),
            num_groups=tiles.num_groups,
            num_tiles=tiles.num_tiles,
            n=n,
            TILES=triton.next_power_of_2(tiles.num_tiles),
            GROUPS=max(triton.next_power_of_2(tiles.num_groups), 2),
            TOP=n > 0,
            NUM_STATS=NUM_STATS,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
        )
    return found
