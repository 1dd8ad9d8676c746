"""Where a step's queries, keys and values lie: index tensors built once and used by every layer."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bosal_kernels import sent
from bosal_server.engine.kv_pool import KVPool
from bosal_server.engine.step import IntArray, StepPlan

# A bucket is split where rows are at most half as long as its longest and the padding saved is
# worth another kernel call.
_MIN_SAVED_BLOCKS = 32
# CUDA's kernels read masks of such widths in place, and copy others for every layer.
_CUDA_WIDTH = 8
# Rows share a prefix pass when there are enough of them and the prefix is long enough.
_MIN_CASCADE_ROWS = 4
_MIN_CASCADE_BLOCKS = 8


@dataclass(slots=True)
class PrefillChunk:
    """Several new tokens of one sequence: rows begin:end of the batch."""

    begin: int
    end: int
    past_len: int
    read_rows: Tensor | None  # pool rows of past and new tokens; None if there is no past


@dataclass(slots=True)
class DecodeBucket:
    """Single new tokens of sequences of similar length: rows begin:end of the batch.

    `read_rows` covers what the sequences do not share; `prefix_rows` what they do, if anything.
    """

    begin: int
    end: int
    read_rows: Tensor  # [rows * width] pool rows, padded
    width: int
    kv_positions: Tensor  # [width] positions, counted from the end of the prefix
    query_positions: Tensor  # [rows] likewise
    prefix_rows: Tensor | None


class _BucketRows(NamedTuple):
    """A decode bucket on the host."""

    begin: int
    end: int
    width: int
    read_rows: NDArray[np.int64]
    query_positions: NDArray[np.int64]
    prefix_rows: NDArray[np.int64]  # empty where nothing is shared


class AttentionBatch:
    """One step's batch as the attention function sees it; travels as a forward argument."""

    def __init__(self, plan: StepPlan, pool: KVPool, device: torch.device) -> None:
        self.pool = pool
        self._device = device
        self._masks: dict[tuple[int, int | None, torch.dtype], Tensor | None] = {}
        self._full_buckets: list[DecodeBucket] | None = None
        lengths = np.diff(plan.subsequence_begins)
        context = plan.past_lens + lengths
        tables = _pad_tables(plan)
        # Only the CPU's kernel gives the log-sum-exp that merging needs.
        has_lse = device.type == "cpu"
        families = _families(tables, context, pool.block_size, (lengths == 1) & has_lse)
        # Decoding rows first, families together, longest first, so that buckets are slices.
        order = np.lexsort((-context, families, lengths > 1))
        self.num_decode = int((lengths == 1).sum())
        self._tables = tables[order]
        self._context = context[order]
        self._families = families[order]

        token_order = _token_order(plan, order, lengths)
        inverse = np.empty_like(token_order)
        inverse[token_order] = np.arange(len(token_order))
        sequence_of = np.repeat(np.arange(len(order)), lengths[order])
        positions = plan.positions[token_order]
        blocks = self._tables[sequence_of, positions // pool.block_size].astype(np.int64)
        buckets = self._bucket_rows(cascade=has_lse)
        chunks = self._chunk_rows(lengths[order])
        tensors = self._send(
            plan.input_ids[token_order],
            positions,
            inverse[plan.logits_rows],
            blocks * pool.block_size + positions % pool.block_size,
            *_arrays(buckets),
            *(rows for *_, rows in chunks),
        )
        self.input_ids, self.positions = next(tensors)[None], next(tensors)[None]
        self.logits_rows, self.write_rows = next(tensors), next(tensors)
        self.decode = self._buckets(buckets, tensors)
        self.prefill = [
            PrefillChunk(begin, end, past_len, rows if past_len else None)
            for (begin, end, past_len, _), rows in zip(chunks, tensors, strict=True)
        ]

    @property
    def plain_decode(self) -> list[DecodeBucket]:
        """The decode buckets without shared prefix passes."""
        if all(bucket.prefix_rows is None for bucket in self.decode):
            return self.decode
        if self._full_buckets is None:
            rows = self._bucket_rows(cascade=False)
            self._full_buckets = self._buckets(rows, self._send(*_arrays(rows)))
        return self._full_buckets

    def decode_mask(self, bucket: DecodeBucket, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return what to add to the scores [rows, 1, 1, width]: 0, or -inf for a hidden key."""
        key = (id(bucket), window, dtype)
        mask = self._masks.get(key)
        if mask is None:
            queries = bucket.query_positions[:, None]
            is_visible = bucket.kv_positions <= queries
            if window is not None:
                is_visible &= bucket.kv_positions > queries - window
            mask = _additive(is_visible, dtype)[:, None, None]
            self._masks[key] = mask
        return mask

    def prefill_mask(
        self, chunk: PrefillChunk, window: int | None, dtype: torch.dtype, *, force: bool = False
    ) -> Tensor | None:
        """Return the mask [queries, keys]; None where plain causal attention says the same."""
        num_queries = chunk.end - chunk.begin
        num_keys = chunk.past_len + num_queries
        if window is not None and window >= num_keys:
            window = None
        if chunk.past_len == 0 and window is None and not force:
            return None
        key = (id(chunk), window, dtype)
        mask = self._masks.get(key)
        if mask is None:
            queries = torch.arange(chunk.past_len, num_keys, device=self._device)[:, None]
            keys = torch.arange(num_keys, device=self._device)
            is_visible = keys <= queries
            if window is not None:
                is_visible &= keys > queries - window
            mask = _additive(is_visible, dtype)
            self._masks[key] = mask
        return mask

    def _chunk_rows(self, lengths: IntArray) -> list[tuple[int, int, int, NDArray[np.int64]]]:
        """Return each chunk's begin, end, past length and pool rows, none without a past."""
        chunks = []
        begin = self.num_decode
        for i in range(self.num_decode, len(lengths)):
            end = begin + int(lengths[i])
            context = int(self._context[i])
            past_len = context - (end - begin)
            rows = self._rows(self._tables[i], context if past_len else 0)
            chunks.append((begin, end, past_len, rows))
            begin = end
        return chunks

    def _bucket_rows(self, *, cascade: bool) -> list[_BucketRows]:
        buckets = []
        bounds = np.flatnonzero(np.diff(self._families[: self.num_decode])) + 1
        begins = [0, *bounds.tolist(), self.num_decode]
        for begin, end in pairwise(begins):
            if begin == end:
                continue
            is_family = cascade and self._families[begin] > 0
            num_shared = self._count_shared(begin, end) if is_family else 0
            for low, high in self._split_by_length(begin, end, num_shared):
                buckets.append(self._bucket(low, high, num_shared))
        return buckets

    def _buckets(self, rows: list[_BucketRows], tensors: Iterator[Tensor]) -> list[DecodeBucket]:
        return [
            DecodeBucket(
                begin=one.begin,
                end=one.end,
                read_rows=next(tensors),
                width=one.width,
                kv_positions=torch.arange(one.width, device=self._device),
                query_positions=next(tensors),
                prefix_rows=prefix if len(prefix := next(tensors)) else None,
            )
            for one in rows
        ]

    def _count_shared(self, begin: int, end: int) -> int:
        """Count the leading blocks that all rows share, leaving each row a token of its own."""
        most = (int(self._context[begin:end].min()) - 1) // self.pool.block_size
        tables = self._tables[begin:end, :most]
        is_same = (tables == tables[0]).all(axis=0)
        return most if is_same.all() else int(np.argmin(is_same))

    def _split_by_length(self, begin: int, end: int, num_shared: int) -> list[tuple[int, int]]:
        num_blocks = -(-self._context[begin:end] // self.pool.block_size) - num_shared
        bounds = []
        low = 0
        for i in range(1, end - begin):
            longest = num_blocks[low]
            saved = (longest - num_blocks[i]) * (end - begin - i)
            if 2 * num_blocks[i] <= longest and saved >= _MIN_SAVED_BLOCKS:
                bounds.append((begin + low, begin + i))
                low = i
        bounds.append((begin + low, end))
        return bounds

    def _bucket(self, begin: int, end: int, num_shared: int) -> _BucketRows:
        block_size = self.pool.block_size
        prefix_len = num_shared * block_size
        own_len = self._context[begin:end, None] - prefix_len
        width = int(own_len.max())
        if self._device.type == "cuda":
            width = -(-width // _CUDA_WIDTH) * _CUDA_WIDTH
        # Padding repeats the row's own last token: what lies behind it is somebody's leftovers.
        tokens = np.minimum(np.arange(width), own_len - 1)
        blocks = np.take_along_axis(
            self._tables[begin:end], num_shared + tokens // block_size, axis=1
        )
        rows = blocks.astype(np.int64) * block_size + tokens % block_size
        return _BucketRows(
            begin,
            end,
            width,
            rows.reshape(-1),
            own_len[:, 0].astype(np.int64) - 1,
            self._rows(self._tables[begin], prefix_len),
        )

    def _rows(self, table: IntArray, count: int) -> NDArray[np.int64]:
        block_size = self.pool.block_size
        blocks = table[: -(-count // block_size)].astype(np.int64)
        rows = (blocks[:, None] * block_size + np.arange(block_size)).reshape(-1)
        return rows[:count]

    def _send(self, *arrays: NDArray[Any]) -> Iterator[Tensor]:
        return iter(sent(arrays, self._device))


def _arrays(buckets: list[_BucketRows]) -> Iterator[NDArray[np.int64]]:
    for bucket in buckets:
        yield from (bucket.read_rows, bucket.query_positions, bucket.prefix_rows)


def _additive(is_visible: Tensor, dtype: torch.dtype) -> Tensor:
    zeros = torch.zeros(is_visible.shape, dtype=dtype, device=is_visible.device)
    return zeros.masked_fill_(~is_visible, float("-inf"))


def _pad_tables(plan: StepPlan) -> IntArray:
    """Lay the block tables out as rows [B, longest], padded with block 0."""
    begins = plan.block_indices_begins
    sizes = np.diff(begins)
    is_used = np.arange(int(sizes.max())) < sizes[:, None]
    tables = np.zeros(is_used.shape, np.int32)
    tables[is_used] = plan.block_indices
    return tables


def _families(
    tables: IntArray,
    context: IntArray,
    block_size: int,
    is_decode: NDArray[np.bool_],
) -> IntArray:
    """Number the families of decoding rows that share a long enough prefix; 0 is no family.

    Blocks are shared from the front, so the last block of the shortest prefix decides.
    """
    families = np.zeros(len(tables), np.int32)
    if tables.shape[1] <= _MIN_CASCADE_BLOCKS or is_decode.sum() < _MIN_CASCADE_ROWS:
        return families
    rows = np.flatnonzero(is_decode & (context > _MIN_CASCADE_BLOCKS * block_size))
    blocks = tables[rows, _MIN_CASCADE_BLOCKS - 1]
    unique, inverse, counts = np.unique(blocks, return_inverse=True, return_counts=True)
    numbers = np.where(counts >= _MIN_CASCADE_ROWS, np.arange(1, len(unique) + 1), 0)
    families[rows] = numbers[inverse]
    return families


def _token_order(plan: StepPlan, order: NDArray[np.intp], lengths: IntArray) -> NDArray[np.int64]:
    """Return, for each row of the reordered batch, its index in the plan."""
    sizes = lengths[order]
    ends = np.cumsum(sizes)
    starts = plan.subsequence_begins[:-1][order].astype(np.int64)
    return np.repeat(starts - (ends - sizes), sizes) + np.arange(len(plan.input_ids))
