"""The blocks with which several decoding sequences of a step begin."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bosal_server.engine.step import IntArray, LongArray, StepPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefix:
    """Full blocks of the past that S sequences with one new token each have in common."""

    blocks: IntArray  # [M] in order
    sequences: LongArray  # [S] their places among all, in order

    def replaced(self, plan: StepPlan, block: int, block_size: int) -> StepPlan:
        """Return the plan with this block, full too, in the prefix's place; positions stay."""
        spared = len(self.blocks) - 1
        past_lens = plan.past_lens.copy()
        past_lens[self.sequences] -= spared * block_size
        sizes = np.diff(plan.block_indices_begins)
        sizes[self.sequences] -= spared
        begins = np.zeros_like(plan.block_indices_begins)
        np.cumsum(sizes, out=begins[1:])
        is_kept = np.ones(len(plan.block_indices), bool)
        firsts = plan.block_indices_begins[self.sequences]
        is_kept[(firsts[:, None] + np.arange(spared)).ravel()] = False
        blocks = plan.block_indices[is_kept]
        blocks[begins[self.sequences]] = block
        return replace(
            plan,
            past_lens=past_lens,
            block_indices=blocks,
            block_indices_begins=begins,
            max_context_len=int((past_lens + np.diff(plan.subsequence_begins)).max()),
        )


def find_shared_prefix(plan: StepPlan, block_size: int, min_spared: int) -> SharedPrefix | None:
    """Return what spares most blocks, which is at least so many: all sequences' but the first's.

    Of several prefixes the one whose first block most sequences have is looked at alone, and along
    the first such sequence's table.
    """
    sizes = np.diff(plan.subsequence_begins)
    num_full = np.where(sizes == 1, plan.past_lens // block_size, 0)
    candidates = np.flatnonzero(num_full)
    if num_full.sum() <= min_spared:
        return None
    begins = plan.block_indices_begins[candidates]
    firsts = plan.block_indices[begins]
    is_in = firsts == np.bincount(firsts).argmax()
    chosen, begins = candidates[is_in], begins[is_in]
    table = plan.block_indices[begins[0] : begins[0] + num_full[chosen[0]]]
    depths = _common_depths(plan.block_indices, begins, num_full[chosen], table)
    # Sorted from deep to shallow, the n-th depth is what n sequences have in common.
    deepest = np.sort(depths)[::-1]
    spared = deepest * np.arange(len(deepest))
    best = int(spared.argmax())
    if spared[best] < min_spared:
        return None
    depth = int(deepest[best])
    return SharedPrefix(blocks=table[:depth], sequences=chosen[depths >= depth])


def _common_depths(
    blocks: IntArray, begins: IntArray, lengths: NDArray[np.integer], table: IntArray
) -> NDArray[np.integer]:
    """Return how many blocks of the table each sequence begins with."""
    places = np.arange(len(table))
    is_inside = places < lengths[:, None]
    found = blocks[np.where(is_inside, begins[:, None] + places, 0)]
    is_other = ~(is_inside & (found == table))
    return np.where(is_other.any(axis=1), is_other.argmax(axis=1), len(table))
