"""The mixed recipes of the control benchmark, as ours and as transformers' processors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ExponentialDecayLengthPenalty,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

BIASES = {token: -3.0 + token / 4 for token in range(300, 315)}


@dataclass(frozen=True, slots=True)
class Mixed:
    """One kind of request: a recipe, and the processors that do the same."""

    recipe: dict[str, Any]
    processors: Callable[[int], LogitsProcessorList]  # of the end-of-text id
    is_greedy: bool = False


MIXED = (
    Mixed(
        {
            "rules": [
                {"rule": "repetition_penalty", "value": 1.1},
                {"rule": "temperature", "value": 0},
            ]
        },
        lambda eos: LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.1)]),
        is_greedy=True,
    ),
    Mixed(
        {
            "rules": [
                {"rule": "logit_bias", "ids": {str(t): w for t, w in BIASES.items()}},
                {"rule": "temperature", "value": 0.7},
                {"rule": "top_p", "p": 0.95},
            ]
        },
        lambda eos: LogitsProcessorList(
            [
                SequenceBiasLogitsProcessor([[[t], w] for t, w in BIASES.items()]),
                TemperatureLogitsWarper(0.7),
                TopPLogitsWarper(0.95),
            ]
        ),
    ),
    Mixed(
        {
            "rules": [
                {"rule": "temperature", "value": 0.8},
                {"rule": "top_k", "k": 50},
                {"rule": "top_p", "p": 0.9},
            ]
        },
        lambda eos: LogitsProcessorList(
            [TemperatureLogitsWarper(0.8), TopKLogitsWarper(50), TopPLogitsWarper(0.9)]
        ),
    ),
    Mixed(
        {
            "rules": [
                {"rule": "eos_ramp", "weight": 15, "over": 250},
                {"rule": "min_p", "p": 0.05},
            ]
        },
        lambda eos: LogitsProcessorList(
            [ExponentialDecayLengthPenalty((0, 1.01), eos, 0), MinPLogitsWarper(0.05)]
        ),
    ),
)


def zipf_rows(rows: int, width: int, *, seed: int) -> Tensor:
    """Return logits whose probabilities fall off like rank^-s; s is 1.0 and 1.3 in turn."""
    generator = torch.Generator().manual_seed(seed)
    log_rank = torch.arange(1, width + 1, dtype=torch.float32).log()
    return torch.stack(
        [
            -(1.0, 1.3)[row % 2] * log_rank[torch.randperm(width, generator=generator)]
            for row in range(rows)
        ]
    )


def gaussian_rows(rows: int, width: int, *, seed: int) -> Tensor:
    """Return flat rows, the worst case of every pruning."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


class PerRequest:
    """What transformers does for requests with settings of their own: one row at a time."""

    def __init__(self, histories: list[list[int]], eos: int) -> None:
        self._history = [torch.tensor([ids]) for ids in histories]
        self._kinds = [MIXED[row % len(MIXED)] for row in range(len(histories))]
        self._processors = [kind.processors(eos) for kind in self._kinds]

    def step(self, logits: Tensor) -> list[int]:
        """Return one token per row of [B, V]."""
        tokens = []
        for row, (history, kind) in enumerate(zip(self._history, self._kinds, strict=True)):
            scores = self._processors[row](history, logits[row : row + 1])
            if kind.is_greedy:
                tokens.append(int(scores.argmax(-1)))
            else:
                tokens.append(int(torch.multinomial(scores.softmax(-1), 1)))
        return tokens
