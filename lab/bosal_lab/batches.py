"""What a training step reads: rows of the corpus, or padded rows of tuning pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from bosal_lab.chance import stream
from bosal_lab.corpus import Tokens
from bosal_lab.tokenizer import end_of
from bosal_lab.tune import example, pair
from bosal_lab.world import World

LENGTHS = (256, 256, 256, 256, 512, 1024)
IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Token ids and the labels of the same places; IGNORED places carry no loss."""

    ids: Tensor  # [rows, length]
    labels: Tensor  # [rows, length]

    def parts(self, tokens: int) -> list[Batch]:
        """Split the rows into parts of about `tokens` tokens, each as wide as its last label."""
        rows = max(1, tokens // self.ids.shape[1])
        parts = []
        for ids, labels in zip(
            torch.split(self.ids, rows), torch.split(self.labels, rows), strict=True
        ):
            width = int((labels != IGNORED).any(dim=0).nonzero()[-1]) + 1
            parts.append(Batch(ids=ids[:, :width], labels=labels[:, :width]))
        return parts


class Source(Protocol):
    """Gives the batch of any step, so that a run can be resumed at any step."""

    def at(self, step: int) -> Batch:
        """Return the batch of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSource:
    """Consecutive tokens of the corpus, cut at a length drawn for the step."""

    tokens: Tokens
    batch: int
    seed: int

    def at(self, step: int) -> Batch:
        """Return the batch of a step; past its end the corpus begins anew."""
        length = stream(self.seed, "length", step).choice(LENGTHS)
        rows = max(1, self.batch // length)
        start = (step * self.batch) % max(1, len(self.tokens) - rows * length)
        found = np.asarray(self.tokens[start : start + rows * length], dtype=np.int64)
        ids = torch.from_numpy(found).reshape(rows, -1)
        return Batch(ids=ids, labels=ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSource:
    """Instruction pairs, one a row; only the answer and the end token carry a loss."""

    world: World
    tokenizer: Tokenizer
    rows: int
    seed: int

    def at(self, step: int) -> Batch:
        """Return the batch of a step, short rows first."""
        end = end_of(self.tokenizer)
        found = []
        for index in range(step * self.rows, (step + 1) * self.rows):
            question, answer = example(pair(self.world, self.seed, index))
            asked = self.tokenizer.encode(question, add_special_tokens=False).ids
            answered = self.tokenizer.encode(answer, add_special_tokens=False).ids
            found.append((asked, [*answered, end]))
        found.sort(key=lambda row: len(row[0]) + len(row[1]))
        width = sum(map(len, found[-1]))
        ids = torch.full((self.rows, width), end)
        labels = torch.full((self.rows, width), IGNORED)
        for row, (asked, answered) in enumerate(found):
            ids[row, : len(asked) + len(answered)] = torch.tensor(asked + answered)
            labels[row, len(asked) : len(asked) + len(answered)] = torch.tensor(answered)
        return Batch(ids=ids, labels=labels)
