"""A naive decoder of coupled streams, and the formulas of their rows: float64, nothing batched."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Row = NDArray[np.float64]
# Of the streams' rows and the position.
Formula = Callable[[list[Row], int], Row]


class Naive:
    """Decodes greedily, each stream by a forward pass over all of its text."""

    def __init__(self, models: Mapping[str, Any]) -> None:
        self.models = models

    @torch.inference_mode()
    def row(self, model: str, ids: Sequence[int], size: int) -> Row:
        logits = self.models[model](torch.tensor([list(ids)])).logits[0, -1, :size]
        return np.asarray(logits.double().numpy())

    def decode(
        self,
        prompts: Sequence[tuple[str, Sequence[int]]],
        formula: Callable[[list[Row], int], Row],
        *,
        size: int,
        max_tokens: int,
    ) -> list[int]:
        output: list[int] = []
        while len(output) < max_tokens:
            rows = [self.row(model, [*ids, *output], size) for model, ids in prompts]
            output.append(int(formula(rows, len(output)).argmax()))
            if output[-1] == 0:
                break
        return output


def logp(row: Row) -> Row:
    top = row.max()
    return np.asarray(row - top - np.log(np.exp(row - top).sum()))


def plausible(z: Row, base: Row, alpha: float) -> Row:
    p = np.exp(logp(base))
    return np.where(p >= alpha * p.max(), z, -np.inf)


def nucleus(z: Row, base: Row, mass: float) -> Row:
    p = np.exp(logp(base))
    order = np.argsort(-p, kind="stable")
    keep = order[: int((p[order].cumsum() < mass).sum()) + 1]
    kept = np.full_like(z, -np.inf)
    kept[keep] = z[keep]
    return kept


def blended(rows: list[Row], below: float) -> Row:
    p, q = (np.exp(logp(row)) for row in rows)
    if p.max() >= below:
        return p
    share = min(q.max() / (q.max() + p.max()) + 0.1 * p[q.argmax()], 1)
    return np.asarray((1 - share) * p + share * q)
