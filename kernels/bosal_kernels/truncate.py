"""Runs truncation chains, vectorised over rows: one call per place and stage."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from bosal_kernels import stages
from bosal_kernels.params import Stage
from bosal_kernels.transfer import numbered
from bosal_kernels.truncation import Truncation

# Up to this many tokens a top-k is listed.
_MAX_LISTED: Final = 1024
# Plain numbers: an enumeration's members are slow to compare, and every row is looked at.
_TOP_K, _TOP_P = int(Stage.TOP_K), int(Stage.TOP_P)
# Stages that may take a row's top away.
_CUTTING: Final = frozenset(map(int, (Stage.XTC, Stage.TYPICAL)))
# Stages that ask neither mass nor entropy of what an earlier top-p left.
_INDIFFERENT: Final = frozenset(
    map(int, (Stage.TEMPERATURE, Stage.TOP_K, Stage.MIN_P, Stage.TOP_N_SIGMA))
)

_Apply = Callable[[Truncation, Tensor, Tensor, Tensor], None]
_APPLY: Final[Mapping[int, _Apply]] = MappingProxyType(
    {
        Stage.TEMPERATURE: stages.temperature,
        Stage.TOP_K: stages.top_k,
        Stage.TOP_P: stages.top_p,
        Stage.MIN_P: stages.min_p,
        Stage.TYPICAL: stages.typical,
        Stage.TOP_N_SIGMA: stages.top_n_sigma,
        Stage.EPSILON: stages.epsilon,
        Stage.ETA: stages.eta,
        Stage.XTC: stages.xtc,
        Stage.DYNAMIC_TEMPERATURE: stages.dynamic_temperature,
        Stage.MIROSTAT: stages.mirostat,
    }
)
# Whether a stage does anything, by its number and the size of the vocabulary; others always do.
_IS_ON: Final[Mapping[int, Callable[[float, int], bool]]] = MappingProxyType(
    {
        Stage.TOP_K: lambda k, vocab_size: 1 <= k < vocab_size,
        Stage.TOP_P: lambda p, _: p < 1,
        Stage.TYPICAL: lambda mass, _: mass < 1,
        Stage.MIN_P: lambda p, _: p > 0,
        Stage.TOP_N_SIGMA: lambda n, _: n >= 0,
        Stage.EPSILON: lambda eps, _: 0 < eps < 1,
        Stage.ETA: lambda eps, _: 0 < eps < 1,
    }
)


def truncate(left: Truncation, chain: Tensor, values: Tensor, seconds: Tensor) -> None:
    """Apply the chains of the sampling rows: stages and their two numbers, [R, MAX_STAGES] each."""
    vocab_size, device = left.rows.vocab_size, left.place.device
    numbers = zip(values.tolist(), seconds.tolist(), strict=True)
    calls: dict[tuple[int, _Apply], list[tuple[int, float, float]]] = {}
    for row, (codes, (first, second)) in enumerate(zip(chain.tolist(), numbers, strict=True)):
        here = [
            (place, code)
            for place, code in enumerate(codes)
            if code and (code not in _IS_ON or _IS_ON[code](first[place], vocab_size))
        ]
        for place, apply in _applied(here, first):
            calls.setdefault((place, apply), []).append((row, first[place], second[place]))
    # Rows differ within a place, so the order of its calls does not matter.
    for call in sorted(calls, key=lambda call: call[0]):
        which, value, other = zip(*calls[call], strict=True)
        is_all = len(which) == len(chain)
        call[1](
            left,
            numbered(len(which), device) if is_all else torch.tensor(which, device=device),
            torch.tensor(value, dtype=torch.float64, device=device),
            torch.tensor(other, dtype=torch.float64, device=device),
        )


def _applied(
    chain: Sequence[tuple[int, int]], values: Sequence[float]
) -> Iterator[tuple[int, _Apply]]:
    """Choose how each stage of one chain, by place and code, is done."""
    is_cut = is_listed = False
    for at, (place, code) in enumerate(chain):
        apply = _APPLY[code]
        if code == _TOP_K and values[place] <= _MAX_LISTED and not is_cut:
            apply, is_listed = stages.short_top_k, True
        elif code == _TOP_P and is_listed:
            apply = stages.listed_top_p
        elif code == _TOP_P and all(later in _INDIFFERENT for _, later in chain[at + 1 :]):
            apply = stages.pending_top_p
        is_cut |= code in _CUTTING
        yield place, apply
