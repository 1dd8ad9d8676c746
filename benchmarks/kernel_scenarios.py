"""What the kernels' timings ask of a step, and its inputs on a device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bosal_kernels import (
    CombineParams,
    CombineState,
    SlotParams,
    SlotState,
    Space,
    Stage,
    TouchedTokens,
)
from bosal_kernels.fused.control_reduce import Reduced, control_reduce
from bosal_kernels.fused.history_scan import history_scan
from bosal_kernels.fused.select import Selected, select
from bosal_kernels.fused.stream_masses import stream_masses

# Rows and vocabulary of a step.
SHAPES: Final = ((1, 32_000), (8, 32_000), (64, 128_256), (256, 151_936))
TYPES: Final[Mapping[str, torch.dtype]] = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Sets of rows that are drawn from in turn, so that none is left in the cache.
NUM_INPUTS: Final = 4
OUTPUT_TOKENS: Final = 200
BIASED: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What every row of a step asks; off where not said."""

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    top_n_sigma: float = -1.0
    repetition: float = 1.0
    ngram: int = 0
    # What is added to a few tokens' logits.
    bias: float = 0.0
    # z = sum of weights[i] times stream i, of its log-probabilities where it says so.
    weights: tuple[float, ...] = (1.0,)
    is_normed: bool = False
    has_mask: bool = False
    logprobs: int = -1

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def params(self) -> SlotParams:
        stages = (
            (Stage.TOP_N_SIGMA, self.top_n_sigma, self.top_n_sigma >= 0),
            (Stage.TEMPERATURE, self.temperature, True),
            (Stage.TOP_K, float(self.top_k), self.top_k > 0),
            (Stage.TOP_P, self.top_p, self.top_p < 1),
            (Stage.MIN_P, self.min_p, self.min_p > 0),
        )
        return SlotParams(
            key=1,
            chain=tuple((stage, value, 0.0) for stage, value, is_on in stages if is_on),
            repetition=self.repetition,
            ngram=self.ngram,
            logprobs=self.logprobs,
        )


_USUAL: Final = {"top_k": 50, "top_p": 0.9}
_EVERYTHING: Final = {
    **_USUAL, "min_p": 0.05, "repetition": 1.1, "ngram": 3, "bias": -2.0, "has_mask": True,
    "logprobs": 8,
}  # fmt: skip
SCENARIOS: Final[Mapping[str, Scenario]] = {
    "greedy": Scenario(temperature=0.0),
    "usual": Scenario(**_USUAL),  # type: ignore[arg-type]
    "everything": Scenario(**_EVERYTHING, top_n_sigma=3.0),  # type: ignore[arg-type]
    "everything_but_moments": Scenario(**_EVERYTHING),  # type: ignore[arg-type]
    "guidance": Scenario(**_USUAL, weights=(1.5, -0.5), is_normed=True),  # type: ignore[arg-type]
    "proxy": Scenario(**_USUAL, weights=(1.0, 1.0, -1.0)),  # type: ignore[arg-type]
    "mask": Scenario(**_USUAL, has_mask=True),  # type: ignore[arg-type]
    "logprobs": Scenario(**_USUAL, logprobs=8),  # type: ignore[arg-type]
}


class Case:
    """A scenario at one shape: its rows, its choices in the middle of their texts, its launches."""

    def __init__(
        self,
        scenario: Scenario,
        num_rows: int,
        vocab_size: int,
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        num_inputs: int = NUM_INPUTS,
    ) -> None:
        self.scenario = scenario
        self.vocab_size = vocab_size
        # On the device itself: rows are many.
        generator = torch.Generator(device).manual_seed(7)
        streams = len(scenario.weights)
        count = num_rows * streams
        self.inputs = [_rows(count, vocab_size, generator).to(dtype) for _ in range(num_inputs)]
        shape = (num_rows, OUTPUT_TOKENS)
        self.outputs = torch.randint(vocab_size, shape, generator=generator, device=device)
        self.biased = torch.arange(min(BIASED, vocab_size), device=device)
        words = (num_rows, -(-vocab_size // 32))
        bits = torch.randint(-(2**31), 2**31, words, generator=generator, device=device)
        self.bits = bits.int()
        self._rows_of_bits = torch.arange(num_rows, dtype=torch.int32, device=device)
        self._slots = torch.arange(num_rows, device=device)
        self._base = self._slots * streams
        self._depths = torch.full((num_rows,), streams, dtype=torch.int32, device=device)
        self._state = SlotState(
            num_slots=num_rows, vocab_size=vocab_size, device=device, packs_touched=True
        )
        self._coupling = CombineState(num_rows, device)
        coupled = None
        if streams > 1:
            coupled = CombineParams(
                space=Space.LOGPROBS if scenario.is_normed else Space.LOGITS,
                weights=scenario.weights,
                slopes=(0.0,) * streams,
                strength=1.0,
            )
        biases = TouchedTokens.of(self.biased.tolist() if scenario.bias else [], scenario.bias)
        for slot in range(num_rows):
            self._state.admit(slot, scenario.params, biases)
            self._coupling.admit(slot, coupled)
        for tokens in self.outputs.T.tolist():
            self._state.advance(range(num_rows), tokens)

    @property
    def num_rows(self) -> int:
        return len(self._slots)

    @property
    def bytes_at_least(self) -> int:
        """What one pass over a step's rows reads."""
        return self.inputs[0].nbytes

    def reduce(self, rows: Tensor) -> Reduced:
        """Launch all of a step but its selection."""
        runs = repeats = None
        if self.scenario.ngram:
            runs, repeats = history_scan(self._state, self._slots)
        has_mask = self.scenario.has_mask
        max_depth = len(self.scenario.weights)
        masses = None
        if self.scenario.is_normed:
            masses = stream_masses(
                rows,
                self._coupling,
                self._slots,
                self._base,
                self._depths,
                max_depth=max_depth,
                num_tokens=self.vocab_size,
            )
        return control_reduce(
            rows,
            self._state,
            self._coupling,
            self._slots,
            self._base,
            self._depths,
            max_depth=max_depth,
            masses=masses,
            legal_rows=self._rows_of_bits if has_mask else None,
            legal_bits=self.bits if has_mask else None,
            runs=runs,
            repeats=repeats,
            keeps_raw=self.scenario.logprobs >= 0,
            has_moments=self.scenario.top_n_sigma >= 0,
        )

    def step(self, rows: Tensor) -> Selected:
        """Launch a step over rows [B streams, V]; it commits nothing, so it can be repeated."""
        reduced = self.reduce(rows)
        return select(reduced, self._state, self._coupling, top_n=self.scenario.logprobs)


def _rows(count: int, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Return logits whose probabilities fall off like rank^-1.3, with some noise."""
    device = generator.device
    rank = torch.arange(1, vocab_size + 1, dtype=torch.float32, device=device)
    order = torch.randperm(vocab_size, generator=generator, device=device)
    noise = 0.3 * torch.randn(count, vocab_size, generator=generator, device=device)
    return 8 - 1.3 * rank.log()[order] + noise
