"""Run by its test under Triton's interpreter: the reduction against the torch path and float64."""

from tests.kernels import interpreter  # noqa: F401, I001

import numpy as np
import torch
from tests.kernels import mixed

from bosal_kernels import CombineState, SlotParams, SlotState, Space, Stage, TouchedTokens
from bosal_kernels.floats import descending_key
from bosal_kernels.fused.control_reduce import control_reduce
from bosal_kernels.groups import group_max
from bosal_kernels.select import temperature_of


def keys(values: torch.Tensor) -> torch.Tensor:
    return 0x7FFFFFFF - descending_key(values)


def values(found: torch.Tensor) -> torch.Tensor:
    """Invert `keys`, as the kernels have them."""
    return (found ^ ((found >> 31) & 0x7FFFFFFF)).view(torch.float32)


def same(ours: torch.Tensor, theirs: torch.Tensor, *, is_exact: bool) -> None:
    """Logits are the same bits, but for the last ones of what is normalised."""
    if is_exact:
        assert torch.equal(ours, theirs)
    else:
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=4e-6)


def check(given: mixed.Batch) -> None:
    reduced = control_reduce(
        given.streams,
        given.state,
        given.coupling,
        given.slots,
        given.base,
        given.depths,
        max_depth=given.max_depth,
        masses=given.masses(),
        legal_rows=given.legal_rows,
        legal_bits=given.legal_bits,
        keeps_raw=True,
        has_moments=True,
    )
    wanted = given.torch_control()
    raw = given.streams.float()[given.base]
    state = given.state
    for place, slot in enumerate(given.slots.tolist()):
        stats = reduced.stats[place].double()
        assert bool(stats[:, 8].sum() > 0) == bool(wanted.invalid[place])
        if wanted.invalid[place] or wanted.yielded[place]:
            continue
        z = wanted.logits[place]
        params = given.coupling.params[slot]
        is_exact = params is None or params.space is Space.LOGITS
        count = int(state.n_touch[slot])
        touched = state.t_tok[slot, :count].long()
        same(reduced.shaped[place, :count], z[touched], is_exact=is_exact)
        rest = z.clone()
        rest[touched] = -torch.inf
        same(values(reduced.maxima[place]), group_max(rest[None])[0], is_exact=is_exact)
        assert reduced.raw_maxima is not None
        assert torch.equal(reduced.raw_maxima[place].long(), keys(group_max(raw[place][None])[0]))
        same(stats[:, 0].max().float(), z.max(), is_exact=is_exact)
        assert float(stats[:, 6].max()) == float(raw[place].max())
        if float(z.max()) == -torch.inf:
            continue
        heat = 1 / float(temperature_of(state, torch.tensor([slot])))
        left = z[z > -torch.inf].double()
        scaled = (left - left.max()) * heat
        far = torch.where(stats[:, 0] > -torch.inf, (stats[:, 0] - left.max()) * heat, -torch.inf)
        mass = (stats[:, 1] * far.exp()).sum()
        # Near a temperature of 0 the last bits of a difference weigh more.
        rtol = 2e-6 if is_exact else 2e-6 + 4e-6 * heat
        torch.testing.assert_close(mass, scaled.exp().sum(), rtol=rtol, atol=0)
        moment = (stats[:, 2] + stats[:, 1] * far.nan_to_num(neginf=-1e3)) * far.exp()
        assert abs(float(moment.sum() - (scaled.exp() * scaled).sum())) <= (
            1e-4 + (0 if is_exact else 4e-5 * heat)
        ) * float(mass)
        assert int(stats[:, 3].sum()) == len(left)
        whole = raw[place].double()
        normal = (stats[:, 7] * (stats[:, 6] - whole.max()).exp()).sum()
        torch.testing.assert_close(normal, (whole - whole.max()).exp().sum(), rtol=2e-6, atol=0)
        # Deviations, merged as pairs of tiles.
        number, mean, off = 0.0, 0.0, 0.0
        for tile in stats[stats[:, 3] > 0].tolist():
            gap = tile[0] + tile[4] - mean
            total = number + tile[3]
            off += tile[5] + gap * gap * number * tile[3] / total
            mean, number = mean + gap * tile[3] / total, total
        sigma = float(np.sqrt(off / number))
        assert abs(sigma - float(left.std(correction=0))) <= 1e-5 * max(1.0, sigma)


def check_cold() -> None:
    """Near a temperature of 0 all but the first token weigh nothing."""
    state = SlotState(num_slots=1, vocab_size=70, packs_touched=True)
    chain = ((Stage.TEMPERATURE, 1e-38, 0.0), (Stage.ETA, 0.1, 0.0))
    state.admit(0, SlotParams(key=1, chain=chain), TouchedTokens.of())
    zero = torch.tensor([0])
    reduced = control_reduce(
        torch.arange(70.0)[None],
        state,
        CombineState(1),
        zero,
        zero,
        zero.int() + 1,
        has_moments=True,
    )
    assert reduced.stats[0, :, :3].tolist() == [[69.0, 1.0, 0.0], [-torch.inf, 0.0, 0.0]]


DTYPES = (torch.float32, torch.bfloat16, torch.float16)
for number, size in enumerate((1, 31, 33, 64, 100, 1000, 4096, 4097, 8500)):
    check(
        mixed.batch(
            size,
            number,
            dtype=DTYPES[number % 3],
            max_depth=1 + number % 3,
            is_legal=number % 2 == 0,
        )
    )
for number, dtype in enumerate(DTYPES):
    for depth in (1, 2, 3):
        check(mixed.batch(257, 10 + number + depth, dtype=dtype, max_depth=depth))
check_cold()
