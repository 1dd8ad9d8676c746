"""Cascade attention against the torch runner: whose prefix is shared, whose is not, and when."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.server.engine.bench import Bench, make_prompts

from bosal_decoding.plan import Plan
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.openvino_cascade import COPY_OF
from bosal_server.engine.openvino_cascade_inputs import CascadeInputs
from bosal_server.engine.openvino_compiled import CompiledGraph, compile_graph
from bosal_server.engine.openvino_convert import Conversion, convert
from bosal_server.engine.openvino_runner import OpenVinoRunner
from bosal_server.engine.openvino_runtime import OpenVinoRefused
from bosal_server.engine.step import Chunk, StepPlan
from bosal_server.engine.torch_runner import TorchRunner
from bosal_server.model import LoadedModel

NUM_BLOCKS = 48


@pytest.fixture(scope="module")
def conversion(tiny_llama: LoadedModel) -> Conversion:
    return convert(tiny_llama.model)


@pytest.fixture(scope="module")
def graph(conversion: Conversion) -> CompiledGraph:
    return compile_graph(conversion, cascade_attention=True, threads=1)


@pytest.fixture
def runner(graph: CompiledGraph) -> OpenVinoRunner:
    return OpenVinoRunner(graph, num_blocks=NUM_BLOCKS, min_spared=1)


@pytest.fixture
def reference(tiny_llama: LoadedModel) -> TorchRunner:
    return TorchRunner(tiny_llama.model, tiny_llama.layers, num_blocks=NUM_BLOCKS)


def prefilled(runner: OpenVinoRunner | TorchRunner, prompt: list[int]) -> list[list[int]]:
    """Compute a prompt into blocks 6 and 2, and give three sequences tables that begin so."""
    runner.forward(StepPlan.pack([Chunk(prompt, 0, [6, 2], True)], 32))
    return [[6, 2, 10 + row] for row in range(3)]


def test_sequences_attend_to_a_shared_prefix_once(
    runner: OpenVinoRunner, reference: TorchRunner
) -> None:
    """In a copy: with the blocks themselves spoilt, later steps are still right."""
    prompt = [7 * place % 90 + 3 for place in range(64)]
    for one in (runner, reference):
        tables = prefilled(one, prompt)
    first, *others = (
        StepPlan.pack(
            [
                Chunk([5 + step], 64 + step, tables[0], True),
                # A stranger, and a prompt that shares the prefix but has many new tokens.
                Chunk([9, 9], 0, [20], True),
                Chunk([6 + step], 64 + step, tables[1], True),
                Chunk([4, 4, 4], 64, tables[2], True),
            ],
            32,
        )
        for step in range(3)
    )
    torch.testing.assert_close(
        runner.forward(first), reference.forward(first), atol=1e-5, rtol=1e-5
    )
    for memory, _ in runner._pool.values():
        memory[[6, 2]] = 0xFF
    for plan in others:
        rows = runner.forward(plan)[:3]
        torch.testing.assert_close(rows, reference.forward(plan)[:3], atol=1e-5, rtol=1e-5)


def test_blocks_that_were_written_again_are_another_prefix(
    runner: OpenVinoRunner, reference: TorchRunner
) -> None:
    for offset in (3, 50):
        for one in (runner, reference):
            tables = prefilled(one, [place + offset for place in range(64)])
        plan = StepPlan.pack([Chunk([5], 64, table, True) for table in tables], 32)
        torch.testing.assert_close(
            runner.forward(plan), reference.forward(plan), atol=1e-5, rtol=1e-5
        )


def test_a_prefix_that_could_not_be_copied_spoils_none_that_was(
    runner: OpenVinoRunner, reference: TorchRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*blocks: int) -> StepPlan:
        return StepPlan.pack([Chunk([5], 64, [*blocks, 10 + row], True) for row in range(3)], 32)

    for one in (runner, reference):
        for offset, blocks in ((3, [6, 2]), (50, [8, 4])):
            prompt = [place + offset for place in range(64)]
            one.forward(StepPlan.pack([Chunk(prompt, 0, blocks, True)], 32))
    runner.forward(plan(6, 2))
    put = CascadeInputs._put
    copied: list[str] = []

    def put_once(self: CascadeInputs, name: str, array: Any) -> None:
        if name.startswith(COPY_OF):
            if copied:
                raise MemoryError
            copied.append(name)
        put(self, name, array)

    with monkeypatch.context() as patch:
        patch.setattr(CascadeInputs, "_put", put_once)
        with pytest.raises(MemoryError):
            runner.forward(plan(8, 4))
    torch.testing.assert_close(
        runner.forward(plan(6, 2)), reference.forward(plan(6, 2)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("cascades", [True, False])
def test_neighbours_on_the_same_prefix_change_a_last_bit_at_most(
    conversion: Conversion, cascades: bool
) -> None:
    """And nothing at all where each attends to it for itself."""
    graph = compile_graph(conversion, cascade_attention=cascades, threads=1)
    runner = OpenVinoRunner(graph, num_blocks=NUM_BLOCKS, min_spared=1)
    tables = prefilled(runner, [place + 3 for place in range(64)])
    chunks = [Chunk([5 + row], 64, table, True) for row, table in enumerate(tables)]
    alone = [runner.forward(StepPlan.pack([chunk], 32)).clone() for chunk in chunks]
    together = runner.forward(StepPlan.pack(chunks, 32))
    if cascades:
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(together, torch.cat(alone))


def test_requests_that_come_and_go_over_a_scaffold_get_their_tokens(
    tiny_llama: LoadedModel, runner: OpenVinoRunner, make_plan: Callable[..., Plan]
) -> None:
    """One after the other, several choices each, some cancelled, blocks used again by others."""
    (head,) = make_prompts(1, [70])
    (other,) = make_prompts(2, [70])
    tails = make_prompts(3, [1, 9, 30, 2, 5, 17, 3, 8])
    prompts = [(other if number == 6 else head) + tail for number, tail in enumerate(tails)]
    tokens = {}
    for kind, one in (("cascade", runner), ("torch", tiny_llama.runner(cache_tokens=1536))):
        model = EngineModel(
            runner=one,
            vocabulary=tiny_llama.vocabulary,
            context_tokens=tiny_llama.context_tokens,
            digest=tiny_llama.digest,
        )
        bench = Bench({"tiny": model}, max_batch_tokens=64)
        answers = []
        for number, prompt in enumerate(prompts):
            answers.append(bench.submit(make_plan(), prompt, max_tokens=6 + 5 * (number % 3)))
            for _ in range(3):
                bench.step()
            if number == 4:
                bench.cancel(answers[3])
        bench.run()
        assert not bench.held_blocks
        tokens[kind] = [one.tokens() for number, one in enumerate(answers) if number != 3]
    assert tokens["cascade"] == tokens["torch"]


def test_what_it_cannot_do_is_refused(conversion: Conversion) -> None:
    with pytest.raises(OpenVinoRefused, match="needs float32 keys and values, not bfloat16"):
        compile_graph(conversion, dtype="bfloat16", cascade_attention=True)
    with pytest.raises(OpenVinoRefused, match="not a u8 key-value cache"):
        compile_graph(conversion, kv_cache="u8", cascade_attention=True)
    layers = tuple(replace(layer, sliding_window=4) for layer in conversion.layers)
    with pytest.raises(OpenVinoRefused, match="sliding windows"):
        compile_graph(replace(conversion, layers=layers), cascade_attention=True)
