"""What one forward pass of one model computes, as packed integer arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
LongArray = NDArray[np.int64]


class Chunk(NamedTuple):
    """The next tokens of one sequence, and the blocks that hold its keys and values."""

    token_ids: Sequence[int]
    past_len: int
    blocks: Sequence[int]
    num_logits: int  # of its last tokens; 0 for none


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """A packed batch of B sequences with T new tokens in all, of which R rows need logits."""

    input_ids: LongArray  # [T]
    positions: LongArray  # [T]
    past_lens: IntArray  # [B] tokens already in the blocks
    subsequence_begins: IntArray  # [B + 1] where a sequence's tokens begin in [T]
    block_indices: IntArray  # the block tables, one after the other
    block_indices_begins: IntArray  # [B + 1]
    max_context_len: int
    logits_rows: LongArray  # [R] indices into [T]

    @classmethod
    def pack(cls, chunks: Sequence[Chunk], block_size: int) -> "StepPlan":
        """Lay out chunks one after the other; a table ends with the last block that is touched."""
        ids: list[int] = []
        positions: list[int] = []
        past_lens: list[int] = []
        begins = [0]
        tables: list[int] = []
        table_begins = [0]
        logits_rows: list[int] = []
        longest = 0
        for token_ids, past_len, blocks, num_logits in chunks:
            ids.extend(token_ids)
            context_len = past_len + len(token_ids)
            positions.extend(range(past_len, context_len))
            past_lens.append(past_len)
            begins.append(len(ids))
            num_blocks = -(-context_len // block_size)
            tables.extend(blocks if len(blocks) == num_blocks else blocks[:num_blocks])
            table_begins.append(len(tables))
            logits_rows.extend(range(len(ids) - num_logits, len(ids)))
            longest = max(longest, context_len)
        return cls(
            input_ids=np.array(ids, np.int64),
            positions=np.array(positions, np.int64),
            past_lens=np.array(past_lens, np.int32),
            subsequence_begins=np.array(begins, np.int32),
            block_indices=np.array(tables, np.int32),
            block_indices_begins=np.array(table_begins, np.int32),
            max_context_len=longest,
            logits_rows=np.array(logits_rows, np.int64),
        )

    def only(self, sequences: Sequence[int]) -> tuple["StepPlan", LongArray]:
        """Return the plan of some of the sequences, in order, and the places of their rows in R."""
        chosen = np.zeros(self.num_sequences, bool)
        chosen[list(sequences)] = True
        sizes = np.diff(self.subsequence_begins)
        tables = np.diff(self.block_indices_begins)
        tokens = np.repeat(chosen, sizes)
        rows = np.flatnonzero(tokens[self.logits_rows])
        # Where a token that is kept moves to.
        places = np.cumsum(tokens) - 1
        part = StepPlan(
            input_ids=self.input_ids[tokens],
            positions=self.positions[tokens],
            past_lens=self.past_lens[chosen],
            subsequence_begins=_begins(sizes[chosen]),
            block_indices=self.block_indices[np.repeat(chosen, tables)],
            block_indices_begins=_begins(tables[chosen]),
            max_context_len=int((self.past_lens + sizes)[chosen].max()),
            logits_rows=places[self.logits_rows[rows]],
        )
        return part, rows

    @property
    def num_sequences(self) -> int:
        return len(self.past_lens)

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)


def _begins(sizes: IntArray) -> IntArray:
    begins = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=begins[1:])
    return begins
