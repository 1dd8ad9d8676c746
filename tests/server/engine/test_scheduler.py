import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bosal_server.engine.group import GroupState, Stream, StreamGroup

from .simulation import BLOCK, make_group, make_simulation, run


def test_a_prompt_goes_in_chunks_within_the_budget() -> None:
    simulation = make_simulation(max_batch_tokens=10)
    simulation.scheduler.submit(make_group("a", [range(25)], 3))
    sizes = []
    while simulation.scheduler.has_work:
        step = simulation.step()
        sizes.append(sum(count for _, count in step.scheduled))
        for group in step.ready:
            group.commit([1])
            if len(group.output) == 3:
                simulation.scheduler.remove(group, keep=False)
    assert sizes == [10, 10, 5, 1, 1]


def test_decoding_goes_first_and_prefill_takes_the_rest() -> None:
    simulation = make_simulation(max_batch_tokens=8)
    simulation.scheduler.submit(make_group("a", [[1, 2]], 20))
    simulation.step().ready[0].commit([5])
    simulation.scheduler.submit(make_group("b", [range(40)], 2))
    step = simulation.step()
    assert [(stream.group.request_id, count) for stream, count in step.scheduled] == [
        ("a", 1),
        ("b", 7),
    ]
    assert step.decode_rows["m"] == 1
    assert step.prefill_tokens["m"] == 7


def test_prefill_never_starves_behind_decoding() -> None:
    simulation = make_simulation(max_batch_tokens=2, max_groups=16)
    for index in range(6):
        simulation.scheduler.submit(make_group(f"d{index}", [[index]], 30))
    while len(simulation.step().ready) < 6:
        for group in simulation.scheduler.running:
            group.commit([1]) if group.state is GroupState.DECODING else None
    late = make_group("late", [range(20)], 2)
    simulation.scheduler.submit(late)
    for group in simulation.scheduler.running:
        group.commit([1])
    step = simulation.step()
    counts = {stream.group.request_id: count for stream, count in step.scheduled}
    assert counts["late"] == BLOCK


@pytest.mark.parametrize("num_streams", [1, 2, 3])
def test_streams_park_and_then_go_together(num_streams: int) -> None:
    simulation = make_simulation(max_batch_tokens=6)
    prompts = [range(100 * index, 100 * index + 5 + 7 * index) for index in range(num_streams)]
    group = make_group("g", prompts, 4)
    simulation.scheduler.submit(group)
    while True:
        step = simulation.step()
        if step.ready:
            break
        assert all(stream.num_missing >= 1 for stream in group.streams)
    assert [count for _, count in step.scheduled][-num_streams:].count(1) >= num_streams - 1
    assert all(stream.num_missing == 0 for stream in group.streams)
    group.commit([3])
    step = simulation.step()
    assert [count for _, count in step.scheduled] == [1] * num_streams
    assert step.rows == [tuple(range(num_streams))]


def test_a_group_of_more_streams_than_the_budget_still_starts() -> None:
    simulation = make_simulation(max_batch_tokens=1)
    prompts = [range(10 * index, 10 * index + 3) for index in range(BLOCK + 2)]
    simulation.scheduler.submit(make_group("g", prompts, 2))
    assert run(simulation) == ["g"]


def test_a_rollback_computes_the_last_kept_token_again() -> None:
    simulation = make_simulation()
    group = make_group("g", [range(9)], 12)
    simulation.scheduler.submit(group)
    for token in range(6):
        simulation.step()
        group.commit([token])
    group.rollback(4)
    assert group.output == [0, 1]
    step = simulation.step()
    assert [count for _, count in step.scheduled] == [1]
    group.commit([9])
    group.rollback(3)
    step = simulation.step()
    assert [count for _, count in step.scheduled] == [1]
    assert group.streams[0].num_computed == 9
    simulation.scheduler.remove(group, keep=False)
    assert simulation.scheduler.allocators["m"].num_held == 0


def test_forced_tokens_are_computed_in_one_step() -> None:
    simulation = make_simulation()
    group = make_group("g", [range(5), range(20, 28)], 12)
    simulation.scheduler.submit(group)
    simulation.step()
    group.commit([1, 2, 3])
    step = simulation.step()
    assert [count for _, count in step.scheduled] == [3, 3]
    assert step.ready == [group]


def test_streams_of_several_models_are_in_one_step() -> None:
    simulation = make_simulation(models=("base", "expert"))
    group = StreamGroup("g", 0, [Stream("base", range(9)), Stream("expert", range(5))], 2)
    simulation.scheduler.submit(group)
    step = simulation.step()
    assert set(step.plans) == {"base", "expert"}
    assert step.rows == [(0, 0)]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), num_streams=st.integers(1, 3), num_models=st.integers(1, 3))
def test_random_traffic_is_exact_and_leaves_nothing_behind(
    seed: int, num_streams: int, num_models: int
) -> None:
    chance = random.Random(seed)
    models = [f"m{index}" for index in range(num_models)]
    simulation = make_simulation(
        num_blocks=chance.randrange(30, 80),
        max_groups=chance.randrange(1, 7),
        max_batch_tokens=chance.randrange(1, 40),
        models=models,
    )
    scheduler = simulation.scheduler
    stems = [[chance.randrange(3)] * chance.randrange(1, 25) for _ in range(3)]
    alive: list[StreamGroup] = []
    submitted: dict[str, list[StreamGroup]] = {model: [] for model in models}
    admitted: dict[str, list[StreamGroup]] = {model: [] for model in models}

    def note_admissions() -> None:
        for group in scheduler.admit():
            for model in group.models:
                admitted[model].append(group)

    for turn in range(120):
        if turn < 80 and chance.random() < 0.5:
            prompts = [
                [*chance.choice(stems), *(chance.randrange(3) for _ in range(chance.randrange(5)))]
                for _ in range(num_streams)
            ]
            own = chance.sample(models, chance.randrange(1, num_models + 1))
            group = make_group(str(turn), prompts, chance.randrange(1, 10), own)
            scheduler.submit(group)
            alive.append(group)
            for model in own:
                submitted[model].append(group)
        if alive and chance.random() < 0.15:
            group = alive.pop(chance.randrange(len(alive)))
            if group.state is GroupState.WAITING:
                for model in group.models:
                    submitted[model].remove(group)
            scheduler.remove(group, keep=chance.random() < 0.5)
        note_admissions()
        for group in simulation.step().ready:
            group.commit([chance.randrange(3)])
            if len(group.output) >= group.max_tokens:
                scheduler.remove(group, keep=True)
                alive.remove(group)
            elif chance.random() < 0.1:
                group.rollback(chance.randrange(1, len(group.output) + 1))
    for _ in range(5000):
        note_admissions()
        if not scheduler.has_work:
            break
        for group in simulation.step().ready:
            group.commit([0])
            if len(group.output) >= group.max_tokens:
                scheduler.remove(group, keep=True)
    assert not scheduler.has_work, "somebody starved"
    assert scheduler.num_waiting == 0
    assert admitted == submitted
    for pool in scheduler.allocators.values():
        assert pool.num_held == pool.num_reserved == 0
        assert pool.num_free + pool.num_findable == pool.num_blocks
