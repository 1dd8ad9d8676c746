"""Run by its test under Triton's interpreter: both launches against the torch path's tokens."""

from tests.kernels import interpreter  # noqa: F401, I001

import sys

import numpy as np
import torch
from tests.kernels import mixed, oracle

from bosal_kernels import Stage
from bosal_kernels import select as torch_select
from bosal_kernels.fused.control_reduce import control_reduce
from bosal_kernels.fused.select import EMPTY, INVALID, UNFUSED, Selected, select

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def both(given: mixed.Batch, *, top_n: int = -1, is_plausible: bool = False) -> Selected:
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
        keeps_raw=top_n >= 0 or is_plausible,
        has_moments=True,
    )
    return select(reduced, given.state, given.coupling, top_n=top_n, is_plausible=is_plausible)


def check(given: mixed.Batch, *, top_n: int = -1, is_plausible: bool = False) -> None:
    controlled = given.torch_control()
    wanted = torch_select(controlled, given.state, given.slots)
    found = both(given, top_n=top_n, is_plausible=is_plausible)
    for place, slot in enumerate(given.slots.tolist()):
        status = int(found.status[place])
        if controlled.invalid[place]:
            assert status == INVALID
        elif controlled.yielded[place] or controlled.row_max[place] == -torch.inf:
            assert status == EMPTY
        elif is_plausible and Stage.TOP_N_SIGMA in given.state.chain_stage[slot]:
            assert status in (0, UNFUSED)
        else:
            assert status == 0
        if status:
            assert int(found.tokens[place]) == -1
            continue
        state = given.state
        stages = zip(
            state.chain_stage[slot].tolist(),
            state.chain_value[slot].tolist(),
            state.chain_second[slot].tolist(),
            strict=True,
        )
        chain = [stage for stage in stages if stage[0]]
        token = int(found.tokens[place])
        assert token == int(wanted.tokens[place]), chain
        z = controlled.logits[place].numpy()
        key = int(state.key[slot]) % 2**64
        assert token == oracle.choose(z, chain, key, int(state.position[slot])), chain
        if top_n < 0:
            continue
        logprobs = wanted.logprobs
        ours_ = found.logprobs
        assert logprobs is not None
        assert ours_ is not None
        (row,) = (logprobs.rows == place).nonzero(as_tuple=True)[0].tolist()
        assert int(ours_.raw_ranks[place]) == int(logprobs.raw_rank[row])
        assert int(ours_.ranks[place]) == int(logprobs.controlled_rank[row])
        for ours, theirs in (
            (ours_.raw_logprobs[place], logprobs.raw_logprob[row]),
            (ours_.logprobs[place], logprobs.controlled_logprob[row]),
            (ours_.raw_top.logprobs[place], logprobs.top_raw.logprobs[row]),
            (ours_.top.logprobs[place], logprobs.top_controlled.logprobs[row]),
        ):
            torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=2e-6, atol=4e-6)
        assert torch.equal(ours_.raw_top.ids[place], logprobs.top_raw.ids[row])
        assert torch.equal(ours_.top.ids[place], logprobs.top_controlled.ids[row])


def spoil(given: mixed.Batch) -> None:
    given.streams[0, 0] = torch.nan
    given.streams[1, -1] = torch.inf
    given.streams[2, :] = -torch.inf


def commit(vocab_size: int, steps: int) -> None:
    """Tokens that join the output leave the state as a recount of the output has it."""
    given = mixed.batch(vocab_size, 7, num_rows=2, max_stages=1)
    state = given.state
    counts = [state.t_out_count[slot].clone() for slot in given.slots.tolist()]
    said: list[list[int]] = [[], []]
    start = state.position[given.slots].clone()
    for step in range(steps):
        for slot in given.slots.tolist():
            state._make_room(slot, 1)
        reduced = control_reduce(
            given.streams + step, state, given.coupling, given.slots, given.base, given.depths
        )
        found = select(reduced, state, given.coupling, commits=True)
        for row, token in zip(said, found.tokens.tolist(), strict=True):
            row.append(token)
    for place, slot in enumerate(given.slots.tolist()):
        before = np.zeros(vocab_size, dtype=int)
        ids = state.t_tok[slot, : int(state.n_touch[slot])].long()
        old = counts[place]
        before[ids[: len(old)].numpy()] = old[: len(ids)].numpy()
        tokens = [token for token in said[place] if token >= 0]
        expected = before + np.bincount(tokens, minlength=vocab_size)
        assert np.array_equal(state.t_out_count[slot, : len(ids)].numpy(), expected[ids.numpy()])
        assert int(state.position[slot]) == int(start[place]) + len(tokens)
        assert state.touched_bits is not None
        bits = (state.touched_bits[slot][:, None] >> torch.arange(32)) & 1
        set_ = bits.flatten()[:vocab_size].nonzero().squeeze(1)
        assert torch.equal(set_, ids.sort().values)
        assert torch.equal(state.t_pos[slot, ids].long(), torch.arange(len(ids)))


def main(part: str) -> None:
    if part == "chains":
        for number, size in enumerate((1, 33, 64, 100, 257, 4097)):
            check(mixed.batch(size, 20 + number, dtype=DTYPES[number % 3], num_rows=6))
    elif part == "streams":
        for number, depth in enumerate((2, 3)):
            check(mixed.batch(200, 30 + number, max_depth=depth), top_n=-1)
            given = mixed.batch(300, 40 + number, max_depth=depth, plausibility=0.1, logprobs=2)
            check(given, top_n=2, is_plausible=True)
    elif part == "logprobs":
        check(mixed.batch(150, 50, logprobs=3), top_n=3)
        check(mixed.batch(70, 51, logprobs=0, dtype=torch.bfloat16), top_n=0)
        # Among them rows of ties: more tokens are as good as the last than are compared each
        # with each.
        check(mixed.batch(5000, 4, logprobs=8), top_n=8)
        given = mixed.batch(90, 52)
        spoil(given)
        check(given)
        commit(80, 12)
    else:
        first, last = int(part), int(sys.argv[2])
        for seed in range(first, last):
            size = (50, 65, 128, 300, 1000, 5000)[seed % 6]
            check(mixed.batch(size, seed, dtype=DTYPES[seed % 3], max_depth=1 + seed % 2))


main(sys.argv[1])
