"""The fused kernels on a real device: against the torch path on the CPU, and bit against bit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats
from tests.kernels import mixed, oracle, rows
from tests.kernels.moved import moved

from bosal_kernels import Stage
from bosal_kernels import gumbel_topk as torch_draws
from bosal_kernels import row_logprobs as torch_logprobs
from bosal_kernels import select as torch_select

if TYPE_CHECKING:
    from bosal_kernels.fused.select import Selected

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DTYPES = (torch.bfloat16, torch.float32, torch.float16)
SIZES = (100, 4097, 32_000, 50_257, 128_256, 151_936)


@pytest.fixture(autouse=True)
def _on_the_device() -> Iterator[None]:
    pytest.importorskip("triton")
    with torch.cuda.device(0):
        yield


def draw(
    given: mixed.Batch, *, top_n: int = -1, is_plausible: bool = False, commits: bool = False
) -> "Selected":
    from bosal_kernels.fused.control_reduce import control_reduce
    from bosal_kernels.fused.select import select

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
    return select(
        reduced,
        given.state,
        given.coupling,
        top_n=top_n,
        is_plausible=is_plausible,
        commits=commits,
    )


def check(given: mixed.Batch, *, top_n: int = -1, is_plausible: bool = False) -> None:
    """Draw on both: the same tokens, or of equal score but for rounding."""
    controlled = given.torch_control()
    wanted = torch_select(controlled, given.state, given.slots)
    there = moved(given, "cuda", is_aligned=given.streams.shape[1] % 16 == 0)
    found = draw(there, top_n=top_n, is_plausible=is_plausible)
    statuses = found.status.tolist()
    tokens = found.tokens.tolist()
    for place, slot in enumerate(given.slots.tolist()):
        is_dead = bool(controlled.invalid[place] | (controlled.yielded[place] != 0))
        is_dead |= bool(controlled.row_max[place] == -torch.inf)
        stages = given.state.chain_stage[slot]
        if is_dead or (is_plausible and bool((stages == Stage.TOP_N_SIGMA).any())):
            assert statuses[place] != 0 or not is_dead
            continue
        assert statuses[place] == 0
        theirs = int(wanted.tokens[place])
        if tokens[place] != theirs:
            assert gap(given, controlled.logits[place], place, tokens[place], theirs) < 1e-5
    if top_n < 0 or wanted.logprobs is None or found.logprobs is None:
        return
    for row, place in enumerate(wanted.logprobs.rows.tolist()):
        if statuses[place] or tokens[place] != int(wanted.tokens[place]):
            continue
        for ours, theirs_ in (
            (found.logprobs.raw_logprobs[place], wanted.logprobs.raw_logprob[row]),
            (found.logprobs.logprobs[place], wanted.logprobs.controlled_logprob[row]),
            (found.logprobs.top.logprobs[place], wanted.logprobs.top_controlled.logprobs[row]),
        ):
            torch.testing.assert_close(ours.cpu(), theirs_, atol=1e-4, rtol=1e-5, equal_nan=True)
        assert int(found.logprobs.raw_ranks[place]) == int(wanted.logprobs.raw_rank[row])
        assert int(found.logprobs.ranks[place]) == int(wanted.logprobs.controlled_rank[row])


def gap(given: mixed.Batch, z: torch.Tensor, place: int, ours: int, theirs: int) -> float:
    """How far apart two tokens' scores are, in float64; both have some."""
    slot = int(given.slots[place])
    key = int(given.state.key[slot]) % 2**64
    noise = oracle.gumbel_row(key, int(given.state.position[slot]), len(z))
    is_heat = given.state.chain_stage[slot] == Stage.TEMPERATURE
    values = given.state.chain_value[slot][is_heat].tolist()
    scores = z.double().numpy() / (values[0] if values else 1.0) + noise
    return float(abs(scores[ours] - scores[theirs]))


# Every size and every type; each pair would compile kernels of its own for a quarter of a minute.
@pytest.mark.parametrize(
    ("size", "number"),
    [*((size, 0) for size in SIZES), (4097, 1), (50_257, 1), (151_936, 1), (100, 2), (128_256, 2)],
)
def test_rows_are_drawn_as_on_the_cpu(size: int, number: int) -> None:
    check(mixed.batch(size, 60 + number, dtype=DTYPES[number], num_rows=8))


@pytest.mark.parametrize("size", [33, 128_256])
def test_log_probabilities_are_those_of_the_cpu(size: int) -> None:
    check(mixed.batch(size, 70, dtype=torch.bfloat16, num_rows=8, logprobs=8), top_n=8)


@pytest.mark.parametrize(("depth", "size"), [(2, 200), (3, 128_256)])
def test_streams_are_combined_as_on_the_cpu(depth: int, size: int) -> None:
    check(mixed.batch(size, 80 + depth, dtype=torch.bfloat16, max_depth=depth))
    given = mixed.batch(size, 90 + depth, max_depth=depth, plausibility=0.1, logprobs=2)
    check(given, top_n=2, is_plausible=True)


def test_a_row_is_the_same_bits_alone_permuted_and_again() -> None:
    given = moved(mixed.batch(50_257, 100, num_rows=9, logprobs=3, is_legal=False), "cuda")
    first = draw(given, top_n=3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1)).cuda()
    for taken in (order, *(torch.tensor([place], device="cuda") for place in range(9))):
        part = mixed.Batch(
            state=given.state,
            coupling=given.coupling,
            slots=given.slots[taken],
            streams=given.streams,
            base=given.base[taken],
            depths=given.depths[taken],
            max_depth=1,
            legal=None,
        )
        for _ in range(4):
            again = draw(part, top_n=3)
            assert torch.equal(again.tokens, first.tokens[taken])
            for name in ("logprobs", "raw_logprobs", "ranks", "raw_ranks"):
                ours, theirs = (getattr(one.logprobs, name) for one in (again, first))
                assert torch.equal(ours.nan_to_num(7.0), theirs[taken].nan_to_num(7.0)), name


def test_a_graph_replays_what_is_drawn_without() -> None:
    given = moved(mixed.batch(32_000, 101, num_rows=8, logprobs=2), "cuda", is_aligned=True)
    wanted = draw(given, top_n=2)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        draw(given, top_n=2)
    torch.cuda.current_stream().wait_stream(side)
    legal_rows, graph = given.legal_rows, torch.cuda.CUDAGraph()
    assert legal_rows is not None
    with torch.cuda.graph(graph):
        found = draw(given, top_n=2)
    graph.replay()
    assert torch.equal(found.tokens, wanted.tokens)
    assert torch.equal(found.status, wanted.status)


def test_the_state_is_that_of_a_recount_after_many_steps() -> None:
    given = moved(mixed.batch(300, 102, num_rows=4, max_stages=1, is_legal=False), "cuda")
    state = given.state
    said: dict[int, list[int]] = {slot: [] for slot in given.slots.tolist()}
    before = {slot: state.t_out_count[slot].clone() for slot in said}
    for slot in said:
        state._make_room(slot, 300)
    for step in range(500):
        rolled = replace(given, streams=given.streams.roll(step % 7, 1))
        found = draw(rolled, commits=True)
        for slot, token in zip(said, found.tokens.tolist(), strict=True):
            said[slot] += [token] if token >= 0 else []
    for slot, tokens in said.items():
        ids = state.t_tok[slot, : int(state.n_touch[slot])].long()
        counts = torch.bincount(torch.tensor(tokens, dtype=torch.int64), minlength=300).cuda()
        counts = counts[ids]
        counts[: len(before[slot])] += before[slot][: len(counts)]
        assert torch.equal(state.t_out_count[slot, : len(ids)].long(), counts)
        assert torch.equal(state.t_pos[slot, ids].long(), torch.arange(len(ids), device="cuda"))


@pytest.mark.parametrize("size", [65, 9001, 128_256])
def test_rows_that_stand_alone_are_those_of_the_cpu(size: int) -> None:
    from bosal_kernels.fused.gumbel_topk import gumbel_topk
    from bosal_kernels.fused.row_logprobs import row_logprobs

    kinds = ("normal", "ties", "model", "half_left")
    given = torch.from_numpy(np.stack([rows.logits(kind, size, 1) for kind in kinds]))
    tokens, keys = torch.tensor([3, 0, size - 1, -1]), torch.arange(4) * 0x1234567
    found = row_logprobs(given.cuda(), tokens.cuda(), 5)
    wanted = torch_logprobs.row_logprobs(given, tokens, 5)
    assert torch.equal(found.ranks.cpu(), wanted.ranks)
    assert torch.equal(found.top.ids.cpu(), wanted.top.ids)
    torch.testing.assert_close(found.logprobs.cpu(), wanted.logprobs, equal_nan=True)
    draws = gumbel_topk(given.cuda(), keys.cuda(), keys.cuda() % 5, 3)
    assert torch.equal(draws.cpu(), torch_draws.gumbel_topk(given, keys, keys % 5, 3))


def test_draws_follow_the_distribution() -> None:
    from bosal_kernels.fused.gumbel_topk import gumbel_topk

    z = torch.linspace(-2, 2, 60, device="cuda").expand(2000, -1).contiguous()
    keys = torch.full((2000,), 12345, device="cuda")
    counts = torch.zeros(60, dtype=torch.int64)
    for part in range(100):
        positions = torch.arange(2000, device="cuda") + part * 2000
        drawn = gumbel_topk(z, keys, positions, 1)[:, 0]
        counts += torch.bincount(drawn.cpu(), minlength=60)
    expected = z[0].double().softmax(0).cpu().numpy() * 200_000
    assert stats.chisquare(counts.numpy(), expected).pvalue > 1e-4


def test_what_would_repeat_is_found_as_on_the_cpu() -> None:
    from bosal_kernels import CombineState, SlotParams, SlotState, TouchedTokens, control
    from bosal_kernels.fused.control_reduce import control_reduce
    from bosal_kernels.fused.history_scan import history_scan

    states = [
        SlotState(num_slots=3, vocab_size=50, device=device, packs_touched=True)
        for device in ("cpu", "cuda")
    ]
    chance = np.random.default_rng(5)
    said = chance.integers(0, 6, (3, 400)).tolist()
    for state in states:
        for slot, history in enumerate(said):
            params = SlotParams(key=slot, ngram=3, dry_multiplier=0.7, dry_allowed=1)
            state.admit(slot, params, TouchedTokens.of(), instruction=history[:100])
        for tokens in zip(*(history[100:] for history in said), strict=True):
            state.advance([0, 1, 2], tokens)
    z = torch.from_numpy(chance.normal(0, 2, (3, 50)).astype(np.float32))
    wanted = control(z.clone(), states[0], torch.arange(3))
    slots = torch.arange(3, device="cuda")
    runs, repeats = history_scan(states[1], slots)
    reduced = control_reduce(
        z.cuda(),
        states[1],
        CombineState(3, "cuda"),
        slots,
        slots,
        torch.ones(3, dtype=torch.int32, device="cuda"),
        runs=runs,
        repeats=repeats,
    )
    for slot in range(3):
        if not wanted.yielded[slot]:
            listed = states[1].t_tok[slot, : int(states[1].n_touch[slot])].long()
            ours = reduced.shaped[slot, : len(listed)].cpu()
            torch.testing.assert_close(ours, wanted.logits[slot, listed.cpu()])
