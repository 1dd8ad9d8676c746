"""What else turns a step's rows into tokens: plain torch, transformers, FlashInfer, xgrammar.

Each does of a scenario what it can: no peer looks for top-n-sigma, and n-grams are transformers'.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from benchmarks.kernel_scenarios import Case

# Packages that are timed where they are installed.
OPTIONAL: Final = ("flashinfer", "xgrammar")


@dataclass(frozen=True, slots=True)
class Peer:
    """A contestant: a step over rows [B streams, V] that returns tokens [B]."""

    step: Callable[[Tensor], Tensor]
    # Whether it runs without waiting for the device, so that a graph can hold it.
    is_capturable: bool = True


class Plain:
    """The scenario in plain torch, all rows at once."""

    def __init__(self, case: Case, *, sorts: bool) -> None:
        scenario = case.scenario
        self._scenario = scenario
        self._sorts = sorts
        device = case.outputs.device
        self._weights = torch.tensor(scenario.weights, device=device)[:, None]
        self._outputs = case.outputs
        bits = (case.bits[:, :, None] >> torch.arange(32, device=device)) & 1
        self._mask = bits.flatten(1)[:, : case.vocab_size] == 0
        self._bias = torch.zeros(case.vocab_size, device=device)
        self._bias[case.biased] = scenario.bias

    def combined(self, rows: Tensor) -> Tensor:
        """Return the groups' rows [B, V], float32."""
        count = len(self._scenario.weights)
        z = rows.float()
        if self._scenario.is_normed:
            z = z.log_softmax(-1)
        return (z.view(-1, count, z.shape[-1]) * self._weights).sum(1) if count > 1 else z

    def masked(self, z: Tensor) -> Tensor:
        return z.masked_fill(self._mask, -torch.inf) if self._scenario.has_mask else z

    def controlled(self, rows: Tensor) -> Tensor:
        """Return rows [B, V] combined, shaped and masked, float32."""
        scenario = self._scenario
        z = self.combined(rows)
        if scenario.repetition != 1:
            said = z.gather(1, self._outputs)
            shaped = torch.where(said > 0, said / scenario.repetition, said * scenario.repetition)
            z = z.scatter(1, self._outputs, shaped)
        if scenario.bias:
            z = z + self._bias
        return self.masked(z)

    def kept(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is kept of rows [B, n], best first, -inf where it is not, and its ids."""
        scenario = self._scenario
        z = z / scenario.temperature
        if scenario.top_k and not self._sorts:
            z, ids = z.topk(min(scenario.top_k, z.shape[1]))
        else:
            z, ids = z.sort(descending=True, stable=True)
            if scenario.top_k:
                is_beyond = torch.arange(z.shape[1], device=z.device) >= scenario.top_k
                z = z.masked_fill(is_beyond, -torch.inf)
        if scenario.top_p < 1:
            shares = z.softmax(-1)
            z = z.masked_fill(shares.cumsum(-1) - shares >= scenario.top_p, -torch.inf)
        if scenario.min_p:
            shares = z.softmax(-1)
            z = z.masked_fill(shares < scenario.min_p * shares[:, :1], -torch.inf)
        return z, ids

    def step(self, rows: Tensor) -> Tensor:
        scenario = self._scenario
        z = self.controlled(rows)
        if scenario.is_greedy:
            return z.argmax(-1)
        kept, ids = self.kept(z)
        noise = torch.empty_like(kept).exponential_()
        tokens = ids.gather(1, (kept.softmax(-1) / noise).argmax(-1, keepdim=True))
        if scenario.logprobs >= 0:
            for side in (rows[:: len(scenario.weights)].float(), z):
                logprobs = side.log_softmax(-1)
                own = logprobs.gather(1, tokens)
                (logprobs > own).sum(-1)
                logprobs.topk(scenario.logprobs)
        return tokens.squeeze(1)


class Processors:
    """The scenario as transformers' processors and multinomial."""

    def __init__(self, case: Case) -> None:
        scenario = case.scenario
        steps: list[Any] = []
        if scenario.repetition != 1:
            steps.append(RepetitionPenaltyLogitsProcessor(scenario.repetition))
        if scenario.bias:
            # A dictionary: of lists transformers 5.17 takes token 0 for no token.
            biases = {(token,): scenario.bias for token in case.biased.tolist()}
            steps.append(SequenceBiasLogitsProcessor(biases))
        if scenario.ngram:
            steps.append(NoRepeatNGramLogitsProcessor(scenario.ngram))
        if not scenario.is_greedy:
            steps.append(TemperatureLogitsWarper(scenario.temperature))
        if scenario.top_k:
            steps.append(TopKLogitsWarper(scenario.top_k))
        if scenario.top_p < 1:
            steps.append(TopPLogitsWarper(scenario.top_p))
        if scenario.min_p:
            steps.append(MinPLogitsWarper(scenario.min_p))
        self._processors = LogitsProcessorList(steps)
        self._case = case
        self._plain = Plain(case, sorts=True)

    def scores(self, rows: Tensor) -> Tensor:
        """Return processed rows [B, V]; combining and masking, which need others, is torch's."""
        z = self._plain.masked(self._plain.combined(rows))
        scores: Tensor = self._processors(self._case.outputs, z)
        return scores

    def step(self, rows: Tensor) -> Tensor:
        scores = self.scores(rows)
        if self._case.scenario.is_greedy:
            return scores.argmax(-1)
        return torch.multinomial(scores.softmax(-1), 1).squeeze(1)


def peers(case: Case) -> dict[str, Callable[[], Peer]]:
    """Return what makes everything that can be timed against a case, by name."""
    scenario = case.scenario

    def plain(*, sorts: bool) -> Peer:
        return Peer(Plain(case, sorts=sorts).step)

    def compiled() -> Peer:
        return Peer(torch.compile(Plain(case, sorts=True).step, dynamic=False))

    found: dict[str, Callable[[], Peer]] = {
        "torch_sort": partial(plain, sorts=True),
        "processors": lambda: Peer(Processors(case).step, is_capturable=False),
        "torch_compile": compiled,
    }
    if scenario.top_k:
        found["torch_topk"] = partial(plain, sorts=False)
    if find_spec("xgrammar") is not None and scenario.has_mask:
        found["xgrammar_mask_alone"] = lambda: Peer(partial(_xgrammar, case), is_capturable=False)
    if find_spec("flashinfer") is not None and scenario.top_k:
        found["flashinfer"] = lambda: Peer(
            partial(_flashinfer, case, Plain(case, sorts=False)), is_capturable=False
        )
    return found


def _xgrammar(case: Case, rows: Tensor) -> Tensor:
    from xgrammar import apply_token_bitmask_inplace

    # Masks what it is given: the same tokens again at every call.
    apply_token_bitmask_inplace(rows[: case.num_rows], case.bits)
    return rows


def _flashinfer(case: Case, plain: Plain, rows: Tensor) -> Tensor:
    from flashinfer.sampling import (  # type: ignore[import-not-found]
        top_k_top_p_sampling_from_logits,
    )

    scenario = case.scenario
    z = plain.controlled(rows) / scenario.temperature
    found: Tensor = top_k_top_p_sampling_from_logits(z, scenario.top_k, scenario.top_p)
    return found


def versions() -> Mapping[str, str]:
    """Say which optional peers there are."""
    from importlib.metadata import version

    names = {"flashinfer": "flashinfer-python", "xgrammar": "xgrammar"}
    return {
        f"peer_{name}": version(names[name]) if find_spec(name) else "not installed"
        for name in OPTIONAL
    }
