"""Finds what would repeat the history, one program a row; nothing is listed or read back."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bosal_kernels.layout import SlotState

# Places looked at together.
BLOCK = 1024
NUM_WARPS = 4


# Of numbers that change as it serves Triton would compile one kernel for each divisibility.
@triton.jit(
    do_not_specialize=[
        "has_breaks",
        "history_stride",
        "run_stride",
        "index_stride",
        "touched_stride",
    ]
)
def history_scan_kernel(
    slots,
    history,
    run,
    length,
    unbroken,
    breaks,
    t_pos,
    ngram,
    dry_multiplier,
    dry_allowed,
    dry_window,
    runs,
    repeats,
    has_breaks,
    history_stride,
    run_stride,
    index_stride,
    touched_stride,
    BLOCK: tl.constexpr,
):
    number = tl.program_id(0)
    slot = tl.load(slots + number)
    if slot >= 0:
        out = number.to(tl.int64) * touched_stride
        for piece in range(tl.cdiv(touched_stride, BLOCK)):
            index = piece * BLOCK + tl.arange(0, BLOCK)
            is_one = index < touched_stride
            tl.store(runs + out + index, 0, mask=is_one)
            tl.store(repeats + out + index, 0, mask=is_one)
        tl.debug_barrier()
        said = tl.load(length + slot).to(tl.int32)
        whole = tl.load(unbroken + slot).to(tl.int32)
        n = tl.load(ngram + slot).to(tl.int32)
        least = tl.load(dry_allowed + slot).to(tl.int32)
        window = tl.load(dry_window + slot).to(tl.int32)
        first = tl.where(window > 0, tl.maximum(said - window, 0), 0)
        is_dry = (tl.load(dry_multiplier + slot) > 0.0) & (least >= 1)
        # What is off asks for more than any history holds.
        ngram_least = tl.where(n >= 2, n - 1, said + 1)
        dry_least = tl.where(is_dry, least, said + 1)
        last = tl.where(is_dry | (n >= 2), said, 0)
        for piece in range(tl.cdiv(last, BLOCK)):
            place = piece * BLOCK + tl.arange(0, BLOCK)
            is_past = place < said
            same = tl.load(run + slot * run_stride + place, mask=is_past, other=-1)
            token = tl.load(history + slot * history_stride + place, mask=is_past, other=0)
            at = tl.load(t_pos + slot * index_stride + token, mask=is_past, other=-1)
            is_listed = is_past & (at >= 0)
            tl.store(repeats + out + at, 1, mask=is_listed & (same >= ngram_least))
            end = tl.minimum(tl.minimum(same, whole), place - first)
            goes_on = is_listed & (end >= dry_least)
            if has_breaks != 0:
                stops = tl.load(breaks + slot * index_stride + token, mask=goes_on, other=0)
                goes_on = goes_on & (stops == 0)
            # The greatest of integers, in whatever order they come.
            tl.atomic_max(runs + out + at, end, mask=goes_on, sem="relaxed")


def history_scan(state: SlotState, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Find for the touched tokens of slots [B] what would follow an earlier end of the history.

        runs[b, w]     the longest end of the history, without a breaker and within dry_window, that
                       token w has followed before and that is at least dry_allowed; 0 for none
        repeats[b, w]  1 where token w would complete a run of `ngram` tokens that occurred before

    int32 and int8 [B, W], W the touched capacity. The state lists every token of the histories.
    Reads each history and its runs once. The torch path is `history.HistoryTable`.
    """
    batch, width = len(slots), state.touched_capacity
    history = state.history
    runs = torch.empty((batch, width), dtype=torch.int32, device=slots.device)
    repeats = torch.empty_like(runs, dtype=torch.int8)
    if batch:
        history_scan_kernel[(batch,)](
            slots=slots,
            history=history.tokens,
            run=history.run,
            length=history.length,
            unbroken=history.unbroken,
            breaks=history.breaks,
            t_pos=state.t_pos,
            ngram=state.ngram,
            dry_multiplier=state.dry_multiplier,
            dry_allowed=state.dry_allowed,
            dry_window=state.dry_window,
            runs=runs,
            repeats=repeats,
            # Of the same type either way: one compiled kernel serves both.
            has_breaks=int(history.breaks.shape[1] > 0),
            history_stride=history.tokens.stride(0),
            run_stride=history.run.stride(0),
            index_stride=state.t_pos.stride(0),
            touched_stride=width,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
    return runs, repeats
