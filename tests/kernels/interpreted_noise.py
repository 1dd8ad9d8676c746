"""Run by its test under Triton's interpreter: bounds of groups' noise against the noise."""

from tests.kernels import interpreter  # noqa: F401, I001

import numpy as np
import torch
import triton
import triton.language as tl
from tests.kernels import oracle

from bosal_kernels import noise as torch_noise
from bosal_kernels.fused.noise import group_noise, nearly_negative_log

WORDS = 4096
GROUPS = 256


@triton.jit
def _near_kernel(words, found, COUNT: tl.constexpr):
    place = tl.arange(0, COUNT)
    tl.store(found + place, nearly_negative_log(tl.load(words + place).to(tl.uint32)))


@triton.jit
def _group_kernel(key, position, least, most, lanes, COUNT: tl.constexpr):
    low, high, lane = group_noise(tl.load(key), tl.load(position), COUNT)
    place = tl.arange(0, COUNT)
    tl.store(least + place, low)
    tl.store(most + place, high)
    tl.store(lanes + place, lane)


def check_words() -> None:
    """A tenth of the slack of `group_noise`, at both ends and where the two formulas meet."""
    edge = int(0.015625 * 2**32)
    words = np.random.default_rng(1).integers(0, 2**32, WORDS, dtype=np.int64)
    words[:600] >>= np.arange(600) % 32
    extremes = [0, 1, 2, edge - 1, edge, edge + 1, 2**31, 2**32 - 300, 2**32 - 2, 2**32 - 1]
    words[: len(extremes)] = extremes
    found = torch.empty(WORDS)
    _near_kernel[(1,)](torch.from_numpy(words), found, COUNT=WORDS)
    drawn = oracle.exponential(words.astype(np.uint64)).astype(np.float64)
    assert np.abs(found.numpy() + np.log(drawn / 64)).max() < 1e-4


def check_groups(key: int, position: int) -> None:
    least, most = torch.empty(GROUPS), torch.empty(GROUPS)
    lanes = torch.empty(GROUPS, dtype=torch.int32)
    keys, positions = torch.tensor([key]), torch.tensor([position])
    _group_kernel[(1,)](keys, positions, least, most, lanes, COUNT=GROUPS)
    source = torch_noise.Source(keys, positions)
    groups = torch.arange(GROUPS)
    wanted = torch_noise.group_noise(source, torch.zeros_like(groups), groups)
    assert torch.equal(lanes.long(), wanted.lane.long())
    assert bool(((least < wanted.bound) & (wanted.bound < most)).all())


if __name__ == "__main__":
    check_words()
    for number in range(20):
        check_groups(number * 7919 - 5, number**9)
