"""Compares a runner with the torch runner on fixed prompts before it may serve."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from bosal_server.engine.openvino_runtime import OpenVinoRefused
from bosal_server.engine.runner import ModelRunner
from bosal_server.engine.step import Chunk, StepPlan

# Largest difference of logits, relative to the largest logit. Measured: 1e-6 and 1e-2; a wrong
# mask or position is off by 1e-1 and more.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
# With weights or cache of eight bits, which somebody asked for. Measured: 3e-2 to 4e-2.
ROUNDED_TOLERANCE = 1e-1

_GREEDY_STEPS = 8
_MAX_LONG_TOKENS = 600
_MIN_LONG_TOKENS = 150
# What the longest prompt may cost on the torch runner: a second or two of one core.
_MAX_FLOPS = 2e11


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """How close the two runners were."""

    max_error: float
    tolerance: float
    num_rows: int
    num_equal_tokens: int

    def __str__(self) -> str:
        return (
            f"logits within {self.max_error:.1e} of torch's (allowed {self.tolerance:.0e}), "
            f"{self.num_equal_tokens} of {self.num_rows} greedy tokens equal"
        )


@dataclass(slots=True)
class _Sequence:
    """A prompt, what was decoded after it, and its blocks."""

    token_ids: list[int]
    blocks: list[int]
    past_len: int = 0

    def take(self, size: int) -> Chunk:
        begin = self.past_len
        self.past_len = min(begin + size, len(self.token_ids))
        is_last = self.past_len == len(self.token_ids)
        return Chunk(self.token_ids[begin : self.past_len], begin, self.blocks, is_last)


@dataclass(slots=True)
class _Comparison:
    """Runs the same steps on both runners; torch's greedy tokens lead."""

    candidate: ModelRunner
    reference: ModelRunner
    tolerance: float
    max_error: float = 0.0
    num_rows: int = 0
    num_equal: int = 0
    failures: list[str] = field(default_factory=list)

    def step(self, *parts: tuple[_Sequence, int]) -> None:
        """Compute so many tokens of each; those whose last is among them gain a greedy token."""
        chunks = [sequence.take(size) for sequence, size in parts]
        plan = StepPlan.pack(chunks, self.reference.block_size)
        expected = self.reference.forward(plan)
        actual = self.candidate.forward(plan)
        if actual.shape != expected.shape:
            shapes = f"{list(actual.shape)}, not {list(expected.shape)}"
            raise OpenVinoRefused(f"the self-check failed: logits are {shapes}")
        ended = [part[0] for part, chunk in zip(parts, chunks, strict=True) if chunk.num_logits]
        for sequence, want, got in zip(ended, expected, actual, strict=True):
            token = int(want.argmax())
            self._compare(want, got, token)
            sequence.token_ids.append(token)

    def _compare(self, want: Tensor, got: Tensor, token: int) -> None:
        scale = float(want.abs().max())
        error = float((want - got).abs().max()) / max(scale, 1e-6)
        own_token = int(got.argmax())
        self.max_error = max(self.max_error, error)
        self.num_rows += 1
        self.num_equal += own_token == token
        if not error <= self.tolerance:
            self.failures.append(f"logits differ by {error:.1e}, allowed is {self.tolerance:.0e}")
        elif float(want[token] - want[own_token]) > 2 * self.tolerance * scale:
            self.failures.append("a greedy token differs without being a near tie")


def check(
    candidate: ModelRunner,
    reference: ModelRunner,
    *,
    context_tokens: int,
    num_parameters: int,
    tolerance: float | None = None,
) -> CheckReport:
    """Compare on prompts short and long, in chunks, batched, and with a shared prefix.

    Both runners need `num_blocks_needed` blocks, whose content is lost.

    Raises:
        OpenVinoRefused: they differ by more than the candidate's arithmetic explains.
    """
    size = reference.block_size
    if tolerance is None:
        # The coarser arithmetic of the two, whichever side it is on.
        tolerance = max(TOLERANCES[runner.dtype] for runner in (candidate, reference))
    comparison = _Comparison(candidate, reference, tolerance)
    sequences = _sequences(candidate.vocab_size, size, context_tokens, num_parameters)
    short, long, *sharing = sequences
    comparison.step((short, len(short.token_ids)))
    num_long = len(long.token_ids)
    while long.past_len < num_long:
        comparison.step((long, -(-num_long // 3)), (short, 1))
    # Prompts that share the long one's first blocks, then all of them token by token.
    comparison.step(*((one, len(one.token_ids)) for one in sharing))
    for _ in range(_GREEDY_STEPS):
        comparison.step(*((one, 1) for one in sequences))
    if comparison.failures:
        raise OpenVinoRefused(f"the self-check failed: {comparison.failures[0]}")
    return CheckReport(
        max_error=comparison.max_error,
        tolerance=tolerance,
        num_rows=comparison.num_rows,
        num_equal_tokens=comparison.num_equal,
    )


def num_blocks_needed(block_size: int) -> int:
    return 4 * (_MAX_LONG_TOKENS // block_size + 2)


def _sequences(
    vocab_size: int, block_size: int, context_tokens: int, num_parameters: int
) -> list[_Sequence]:
    """Draw the fixed prompts: short, long, and two that share the long one's first blocks."""
    room = max(context_tokens - 2 * _GREEDY_STEPS, 1)
    affordable = int(_MAX_FLOPS / (2 * max(num_parameters, 1)))
    num_long = min(max(_MIN_LONG_TOKENS, min(_MAX_LONG_TOKENS, affordable)), room)
    num_shared = min(2, num_long // block_size)
    generator = np.random.default_rng(0)

    def draw(count: int) -> list[int]:
        ids: list[int] = generator.integers(0, vocab_size, count).tolist()
        return ids

    long = draw(num_long)
    head = long[: num_shared * block_size]
    prompts = [draw(5), long, head + draw(3), head + draw(block_size + 1)]
    sequences = []
    # Tables that are neither in order nor side by side.
    free = list(range(num_blocks_needed(block_size)))[::-1]
    for prompt in prompts:
        need = -(-(len(prompt) + 2 * _GREEDY_STEPS) // block_size)
        own = [free.pop(0 if i % 2 else -1) for i in range(need)]
        sequences.append(_Sequence(prompt[:room] if len(prompt) > room else prompt, own))
    for one in sequences[2:]:
        one.blocks[:num_shared] = sequences[1].blocks[:num_shared]
    return sequences
