"""Groups of coupled streams as the engine sees them: counted, cached and cancelled as one."""

import numpy as np
import pytest

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import Message
from bosal_server.errors import RequestCancelled
from bosal_server.model import LoadedModel

from .bench import GREEDY, MakeBench
from .coupled_requests import (
    CONTEXT,
    SHORT,
    plan_of,
    submit,
)
from .naive_streams import Naive, logp


def test_usage_counts_the_forwards_of_every_stream(
    loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    bench = bench_of(loaded)
    rule = {"rule": "proxy_tuning", "expert": "expert", "anti_expert": "amateur"}
    answer = submit(bench, plan_of(loaded, rule), SHORT, max_tokens=5, num_choices=2)
    bench.run()
    usage = answer.finished.usage
    assert [(one.role, one.model) for one in usage.streams] == [
        ("base", "base"),
        ("expert", "expert"),
        ("anti_expert", "amateur"),
    ]
    prompt = len(loaded["base"].vocabulary.encode(SHORT))
    tokens = [len(answer.tokens(choice)) for choice in range(2)]
    for one in usage.streams:
        assert one.prompt_tokens == prompt
        assert one.forwards == sum(prompt + count - 1 for count in tokens)
    assert [e.interventions for e in answer.finished.endings] == tokens


def test_interventions_are_the_tokens_where_the_gate_was_open(
    naive: Naive, loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    bench = bench_of(loaded)
    rule = {"rule": "blend", "guide": "expert", "when": {"top1_below": 0.03}}
    answer = submit(bench, plan_of(loaded, rule), SHORT, max_tokens=14)
    bench.run()
    ids, size = loaded["base"].vocabulary.encode(SHORT), loaded["base"].vocabulary.size
    tokens = answer.tokens()
    unsure = [
        np.exp(logp(naive.row("base", [*ids, *tokens[:i]], size)).max()) < 0.03
        for i in range(len(tokens))
    ]
    assert 0 < sum(unsure) < len(tokens)
    assert answer.finished.endings[0].interventions == sum(unsure)


def test_a_shared_scaffold_is_computed_once_for_both_streams(
    loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    scaffold = {
        "kind": "in_context",
        "preamble": "The cat sat on the mat and looked at the moon. " * 8,
    }
    base = loaded["base"]
    document = {"scaffold": scaffold, "rules": [{"rule": "guidance"}, *GREEDY]}
    plan = compile_recipe(
        Recipe.parse(document), base.vocabulary, context_tokens=base.context_tokens
    )
    bench = bench_of(loaded, max_batch_tokens=64)
    answer = submit(bench, plan, "one two", max_tokens=2)
    bench.run()
    prompts = plan.prompts([Message(role="user", text="one two")])
    shared = plan.streams[1].pinned_ids
    assert len(shared) > 96
    block = bench.models["base"].runner.block_size
    usage = answer.finished.usage
    assert usage.prompt_tokens == sum(len(prompt.token_ids) for prompt in prompts)
    assert usage.cached_prompt_tokens >= len(shared) // block * block


@pytest.mark.parametrize("steps", [0, 1, 3, 9])
def test_a_group_cancelled_in_any_phase_leaves_nothing(
    steps: int, loaded: dict[str, LoadedModel], bench_of: MakeBench
) -> None:
    """Waiting, while one stream is prefilled and the other parked, while decoding."""
    bench = bench_of(loaded, max_batch_tokens=8, max_groups=2)
    rule = {"rule": "proxy_tuning", "expert": "expert", "anti_expert": "amateur"}
    plan = plan_of(loaded, rule)
    stays = submit(bench, plan, SHORT, max_tokens=10)
    goes = submit(bench, plan, CONTEXT + " of France?", max_tokens=30, num_choices=3)
    for _ in range(steps):
        bench.step()
    bench.cancel(goes)
    assert isinstance(goes.error, RequestCancelled)
    bench.run()
    alone = bench_of(loaded)
    same = submit(alone, plan, SHORT, max_tokens=10)
    alone.run()
    assert stays.tokens() == same.tokens()
    assert bench.held_blocks == 0
