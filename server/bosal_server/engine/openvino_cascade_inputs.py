"""What a graph is told of a shared prefix in each step: whose it is, its keys and its values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bosal_server.engine.openvino_cascade import COPY_OF, ROWS, ZEROS, write_stand_in
from bosal_server.engine.openvino_runtime import BLOCK_SIZE, load_openvino
from bosal_server.engine.shared_prefix import find_shared_prefix
from bosal_server.engine.step import IntArray, StepPlan

# Blocks that paged attention no longer reads in a step from which on the cascade is faster: those
# of 1,024 tokens for nine sequences, of 256 for 33.
MIN_SPARED = 256

_NO_BLOCKS: IntArray = np.zeros(0, np.int32)


class CascadeInputs:
    """Finds the prefix that a step's sequences share, and keeps a copy of it for the graph.

    The copy lies as a product wants it, heads first. It lasts until one of its blocks is written
    to, which happens once nobody holds it any more.
    """

    def __init__(
        self,
        request: Any,
        caches: Mapping[str, NDArray[np.float32]],
        min_spared: int = MIN_SPARED,
    ) -> None:
        """`caches` are blocks [blocks, kv heads, size, head dim + 1] by name, one too many."""
        self._request = request
        self._tensor = load_openvino().Tensor
        self._caches = caches
        self._min_spared = min_spared
        self._blocks = _NO_BLOCKS
        self._arrays: dict[str, NDArray[Any]] = {}
        self._head_counts = [
            int(name.removeprefix(ZEROS))
            for name in (port.get_any_name() for port in request.model_inputs)
            if name.startswith(ZEROS)
        ]
        self._put(ROWS, np.zeros(0, np.int64))
        for name, cache in caches.items():
            write_stand_in(cache[-1])
            self._stand_in = len(cache) - 1
            # Never read, but products want something of the right shape.
            self._put(COPY_OF + name, np.zeros((cache.shape[1], 1, cache.shape[3] - 1), np.float32))

    def write(self, plan: StepPlan) -> StepPlan:
        """Write the step's inputs; return the step as paged attention is to see it."""
        if len(self._blocks) and np.isin(_written(plan), self._blocks).any():
            self._blocks = _NO_BLOCKS
        for count in self._head_counts:
            self._put(f"{ZEROS}{count}", np.zeros((plan.num_tokens, count, 1), np.float32))
        found = find_shared_prefix(plan, BLOCK_SIZE, self._min_spared)
        if found is None:
            self._put(ROWS, np.zeros(0, np.int64))
            return plan
        if not np.array_equal(found.blocks, self._blocks):
            self._copy(found.blocks)
        self._put(ROWS, plan.subsequence_begins[found.sequences].astype(np.int64))
        return found.replaced(plan, self._stand_in, BLOCK_SIZE)

    def _copy(self, blocks: IntArray) -> None:
        # For want of memory it may be half of a copy.
        self._blocks = _NO_BLOCKS
        for name, cache in self._caches.items():
            by_head = cache[blocks, ..., :-1].transpose(1, 0, 2, 3)
            self._put(COPY_OF + name, by_head.reshape(len(by_head), -1, cache.shape[3] - 1))
        self._blocks = blocks.copy()

    def _put(self, name: str, array: NDArray[Any]) -> None:
        buffer = self._arrays.get(name)
        if buffer is not None and buffer.shape == array.shape:
            buffer[...] = array
            return
        self._arrays[name] = np.ascontiguousarray(array)
        self._request.set_tensor(name, self._tensor(self._arrays[name], True))


def _written(plan: StepPlan) -> IntArray:
    """Return the blocks that get new keys and values."""
    sizes = np.diff(plan.block_indices_begins)
    places = np.arange(len(plan.block_indices)) - np.repeat(plan.block_indices_begins[:-1], sizes)
    return plan.block_indices[places >= np.repeat(plan.past_lens // BLOCK_SIZE, sizes)]
