"""Both runners driven with the same plans, and what is special to this one."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bosal_server.engine.openvino_compiled import CompiledGraph, compile_graph
from bosal_server.engine.openvino_convert import Conversion, convert
from bosal_server.engine.openvino_runner import OpenVinoRunner
from bosal_server.engine.openvino_runtime import has_bf16
from bosal_server.engine.step import Chunk, StepPlan
from bosal_server.engine.torch_runner import TorchRunner
from bosal_server.model import LoadedModel

NUM_BLOCKS = 24
MAX_SEQUENCES = 5
MAX_TOKENS = 150


@pytest.fixture(scope="module")
def conversion(tiny_llama: LoadedModel) -> Conversion:
    return convert(tiny_llama.model)


@pytest.fixture(scope="module", params=[False, True], ids=["paged", "cascade"])
def graph(conversion: Conversion, request: pytest.FixtureRequest) -> CompiledGraph:
    return compile_graph(conversion, cascade_attention=request.param, threads=1)


@pytest.fixture(scope="module")
def runner(graph: CompiledGraph) -> Iterator[OpenVinoRunner]:
    with closing(sharing_runner(graph)) as runner:
        yield runner


def sharing_runner(graph: CompiledGraph) -> OpenVinoRunner:
    """Make a runner that, if it can, shares a prefix wherever there is one."""
    return OpenVinoRunner(graph, num_blocks=NUM_BLOCKS, min_spared=1)


@pytest.fixture(scope="module")
def reference(tiny_llama: LoadedModel) -> Iterator[TorchRunner]:
    runner = TorchRunner(tiny_llama.model, tiny_llama.layers, num_blocks=NUM_BLOCKS)
    yield runner
    runner.close()


@dataclass
class Row:
    """A sequence in the making and its blocks, some of which may be another's too."""

    token_ids: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)


class Traffic:
    """Draws steps as an engine might take them: any mix, any chunking, blocks taken and given."""

    def __init__(self, data: st.DataObject, vocab_size: int, block_size: int) -> None:
        self._data = data
        self._vocab_size = vocab_size
        self._block_size = block_size
        self._rows: list[Row] = []
        self._holders = dict.fromkeys(range(NUM_BLOCKS), 0)

    def step(self) -> StepPlan | None:
        if self._rows and self._draw(st.integers(0, 3)) == 0:
            self._end(self._draw(st.sampled_from(self._rows)))
        while len(self._rows) < MAX_SEQUENCES and self._draw(st.booleans()):
            self._begin()
        chunks = [chunk for row in self._rows if (chunk := self._chunk(row)) is not None]
        return StepPlan.pack(chunks, self._block_size) if chunks else None

    def _draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        return self._data.draw(strategy)

    def _begin(self) -> None:
        """Begin empty, or on the full blocks of another sequence."""
        row = Row()
        sources = [one for one in self._rows if len(one.token_ids) >= self._block_size]
        if sources and self._draw(st.booleans()):
            source = self._draw(st.sampled_from(sources))
            shared = self._draw(st.integers(1, len(source.token_ids) // self._block_size))
            row.blocks = source.blocks[:shared]
            row.token_ids = source.token_ids[: shared * self._block_size]
            for block in row.blocks:
                self._holders[block] += 1
        self._rows.append(row)

    def _end(self, row: Row) -> None:
        self._rows.remove(row)
        for block in row.blocks:
            self._holders[block] -= 1

    def _chunk(self, row: Row) -> Chunk | None:
        size = self._draw(st.one_of(st.just(1), st.integers(0, 70)))
        size = min(size, MAX_TOKENS - len(row.token_ids))
        past_len = len(row.token_ids)
        need = -(-(past_len + size) // self._block_size) - len(row.blocks)
        free = [block for block, holders in self._holders.items() if not holders]
        if size <= 0 or need > len(free):
            return None
        taken = self._draw(st.permutations(free))[: max(need, 0)] if need > 0 else []
        row.blocks = row.blocks + list(taken)
        for block in taken:
            self._holders[block] += 1
        tokens = self._draw(
            st.lists(st.integers(0, self._vocab_size - 1), min_size=size, max_size=size)
        )
        row.token_ids = row.token_ids + tokens
        num_logits = self._draw(st.integers(0, min(3, size)))
        return Chunk(tokens, past_len, list(row.blocks), num_logits)


@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_steps_give_the_logits_of_the_torch_runner(
    runner: OpenVinoRunner, reference: TorchRunner, data: st.DataObject
) -> None:
    traffic = Traffic(data, runner.vocab_size, runner.block_size)
    for _ in range(6):
        plan = traffic.step()
        if plan is None:
            continue
        expected = reference.forward(plan)
        actual = runner.forward(plan)
        assert actual.shape == expected.shape
        assert actual.dtype == torch.float32
        if len(expected):
            assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-5


def one_chunk(size: int, *, num_logits: int = 1) -> Chunk:
    return Chunk(list(range(3, 3 + size)), 0, [0, 1, 2], num_logits)


def test_no_wanted_row_still_writes_the_blocks(
    runner: OpenVinoRunner, graph: CompiledGraph
) -> None:
    whole = runner.forward(StepPlan.pack([one_chunk(41)], 32)).clone()
    runner = sharing_runner(graph)
    nothing = runner.forward(StepPlan.pack([one_chunk(40, num_logits=0)], 32))
    assert nothing.shape == (0, runner.vocab_size)
    last = runner.forward(StepPlan.pack([Chunk([43], 40, [0, 1, 2], True)], 32))
    torch.testing.assert_close(last, whole)


def test_the_caller_may_change_the_logits_in_place(runner: OpenVinoRunner) -> None:
    plan = StepPlan.pack([one_chunk(5), Chunk([7], 0, [4], True)], 32)
    expected = runner.forward(plan).clone()
    runner.forward(plan).fill_(float("nan"))
    assert torch.equal(runner.forward(plan), expected)


def test_a_row_alone_equals_the_row_among_others(runner: OpenVinoRunner) -> None:
    alone = runner.forward(StepPlan.pack([one_chunk(33)], 32)).clone()
    others = [Chunk([9] * (i + 1), 0, [4 + i], True) for i in range(12)]
    among = runner.forward(StepPlan.pack([*others[:6], one_chunk(33), *others[6:]], 32))
    torch.testing.assert_close(among[6], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_lies_in_unused_places_of_a_block_does_not_matter(
    conversion: Conversion, dtype: str
) -> None:
    if dtype == "bfloat16" and not has_bf16():
        dtype = "float32"
    runner = OpenVinoRunner(compile_graph(conversion, dtype=dtype, threads=1), num_blocks=3)
    plans = [
        StepPlan.pack([one_chunk(35)], 32),
        StepPlan.pack([Chunk([9], 35, [0, 1, 2], True)], 32),
    ]
    expected = [runner.forward(plan).clone() for plan in plans]
    for memory, _ in runner._pool.values():
        memory[...] = 0xFF  # every number of it NaN
    for plan, clean in zip(plans, expected, strict=True):
        assert torch.equal(runner.forward(plan), clean)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_logits_beyond_rounding(
    conversion: Conversion, reference: TorchRunner, threads: int
) -> None:
    runner = OpenVinoRunner(
        compile_graph(conversion, dtype="float32", threads=threads), num_blocks=3
    )
    plan = StepPlan.pack([one_chunk(60)], 32)
    torch.testing.assert_close(runner.forward(plan), reference.forward(plan), atol=1e-4, rtol=1e-4)


def test_bfloat16_is_off_by_its_rounding_only(
    conversion: Conversion, reference: TorchRunner
) -> None:
    dtype = "bfloat16" if has_bf16() else "float32"
    runner = OpenVinoRunner(compile_graph(conversion, dtype=dtype, threads=1), num_blocks=3)
    plan = StepPlan.pack([one_chunk(80)], 32)
    expected = reference.forward(plan)
    error = float((runner.forward(plan) - expected).abs().max() / expected.abs().max())
    assert error < 5e-2


@pytest.mark.parametrize(
    ("weights", "cache", "most"),
    [("int8", "model", 0.06), ("model", "u8", 0.03), ("int8", "u8", 0.08)],
)
def test_eight_bits_cost_a_little_exactness(
    conversion: Conversion, reference: TorchRunner, weights: str, cache: str, most: float
) -> None:
    """And no more, chunk by chunk and token by token, over blocks that two sequences share."""
    runner = OpenVinoRunner(
        compile_graph(conversion, weights=weights, kv_cache=cache, threads=1), num_blocks=8
    )
    prompt = list(range(3, 83))
    plans = [
        StepPlan.pack([Chunk(prompt[:40], 0, [5, 1, 2], True)], 32),
        StepPlan.pack([Chunk(prompt[40:79], 40, [5, 1, 2], True)], 32),
        StepPlan.pack(
            [Chunk(prompt[79:], 79, [5, 1, 2], True), Chunk([9, 8, 7], 32, [5, 7], True)], 32
        ),
    ]
    errors = []
    for plan in plans:
        expected = reference.forward(plan)
        actual = runner.forward(plan)
        errors.append(float((actual - expected).norm() / expected.norm()))
    assert 1e-4 < max(errors) < most


def test_it_says_what_it_is(runner: OpenVinoRunner, tiny_llama: LoadedModel) -> None:
    assert (runner.kind, runner.dtype, runner.device) == ("openvino", "float32", "cpu")
    assert runner.vocab_size == tiny_llama.vocab_size
    assert (runner.block_size, runner.num_blocks) == (32, NUM_BLOCKS)


def test_a_window_is_the_layers_own(conversion: Conversion, tiny_llama: LoadedModel) -> None:
    """A model without windows, told of one, looks no further back than that."""
    layers = tuple(replace(layer, sliding_window=4) for layer in conversion.layers)
    runner = OpenVinoRunner(
        compile_graph(replace(conversion, layers=layers), threads=1), num_blocks=3
    )
    prompt = list(range(3, 63))
    # Two layers of window 4 see the last 7 tokens.
    other = [200] * 53 + prompt[53:]
    rows = [
        runner.forward(StepPlan.pack([Chunk(ids, 0, [0, 1, 2], True)], 32)).clone()
        for ids in (prompt, other)
    ]
    torch.testing.assert_close(rows[0], rows[1], atol=1e-5, rtol=1e-5)
    assert tiny_llama.model.config.get_text_config().num_hidden_layers == 2
