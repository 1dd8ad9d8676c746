import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bosal_server.engine.blocks import BlockAllocator
from bosal_server.engine.group import GroupState, Stream, StreamGroup
from bosal_server.engine.scheduler import Scheduler, check_size
from bosal_server.engine.scheduler_step import SchedulerStep
from bosal_server.errors import RequestTooLarge

BLOCK = 4


@dataclass
class Simulation:
    """A scheduler with a cache that remembers, for each place, the text up to that token."""

    scheduler: Scheduler
    cache: dict[tuple[str, int, int], tuple[int, ...]] = field(default_factory=dict)
    num_computed: int = 0

    def step(self) -> SchedulerStep:
        self.scheduler.admit()
        before = {
            id(stream): stream.num_computed
            for group in self.scheduler.running
            for stream in group.streams
        }
        step = self.scheduler.plan()
        streams = [stream for stream, _ in step.scheduled]
        assert len(streams) == len(set(map(id, streams)))
        writes: dict[tuple[str, int, int], tuple[int, ...]] = {}
        for stream, count in step.scheduled:
            assert count > 0
            text = (*stream.prompt, *stream.group.output)
            begin = stream.num_computed
            for position in range(begin):
                block = stream.blocks[position // BLOCK]
                known = self.cache[stream.model, block, position % BLOCK]
                assert known == text[: position + 1], "somebody else's keys and values"
            for position in range(begin, begin + count):
                place = (stream.model, stream.blocks[position // BLOCK], position % BLOCK)
                assert place not in writes, "two streams write one place"
                writes[place] = text[: position + 1]
        self.num_computed += len(writes)
        self.cache |= writes
        assert step.ready or step.scheduled or not self.scheduler.running or before
        self._check_gangs(step)
        self.scheduler.complete(step)
        return step

    def _check_gangs(self, step: SchedulerStep) -> None:
        scheduled = {id(stream): count for stream, count in step.scheduled}
        for group, rows in zip(step.ready, step.rows, strict=True):
            assert len(rows) == len(group.streams)
            for stream in group.streams:
                assert scheduled[id(stream)] == stream.num_missing
        for group in self.scheduler.running:
            if group.state is GroupState.DECODING:
                assert group in step.ready


def make_simulation(
    *,
    num_blocks: int = 64,
    max_groups: int = 8,
    max_batch_tokens: int = 16,
    models: Sequence[str] = ("m",),
) -> Simulation:
    pools = {name: BlockAllocator(num_blocks, BLOCK, name.encode()) for name in models}
    return Simulation(Scheduler(pools, max_groups=max_groups, max_batch_tokens=max_batch_tokens))


def make_group(
    name: str, prompts: Sequence[Sequence[int]], max_tokens: int, models: Sequence[str] = ("m",)
) -> StreamGroup:
    """Make a group with every prompt on every model."""
    streams = [Stream(model, prompt) for model in models for prompt in prompts]
    return StreamGroup(name, 0, streams, max_tokens)


def run(simulation: Simulation, *, limit: int = 1000) -> list[str]:
    """Decode everything greedily with made-up tokens; return the order of endings."""
    endings: list[str] = []
    for _ in range(limit):
        if not simulation.scheduler.has_work:
            return endings
        step = simulation.step()
        for group in step.ready:
            group.commit([len(group.output) % 7])
            if len(group.output) == group.max_tokens:
                simulation.scheduler.remove(group, keep=True)
                endings.append(group.request_id)
    raise AssertionError("the scheduler is stuck")


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


def test_a_group_may_share_a_prefix_with_itself() -> None:
    simulation = make_simulation()
    stem = list(range(16))
    simulation.scheduler.submit(make_group("g", [stem, [*stem, 90, 91, 92]], 3))
    assert run(simulation) == ["g"]


def test_equal_prompts_are_computed_once() -> None:
    simulation = make_simulation(max_batch_tokens=64)
    prompt = list(range(18))
    for index in range(5):
        simulation.scheduler.submit(make_group(f"r{index}", [prompt], 1))
    run(simulation)
    # The four full blocks once, the two tokens behind them by everybody.
    assert simulation.num_computed == 16 + 5 * 2


def test_the_whole_prompt_is_never_taken_from_the_cache() -> None:
    simulation = make_simulation()
    prompt = list(range(16))
    for name in ("first", "second"):
        group = make_group(name, [prompt], 1)
        simulation.scheduler.submit(group)
        run(simulation)
    assert group.streams[0].cached_tokens == 12
    assert simulation.num_computed == 16 + 4


def test_a_conversation_finds_its_own_answer_in_the_cache() -> None:
    simulation = make_simulation()
    first = make_group("first", [list(range(6))], 8)
    simulation.scheduler.submit(first)
    run(simulation)
    again = make_group("again", [[*range(6), *first.output, 50, 51]], 2)
    simulation.scheduler.submit(again)
    run(simulation)
    assert again.streams[0].cached_tokens == 12


def test_a_waiting_group_goes_on_when_the_writer_is_cancelled() -> None:
    simulation = make_simulation(max_batch_tokens=6)
    prompt = list(range(30))
    writer, follower, third = (make_group(name, [prompt], 2) for name in "wft")
    for group in (writer, follower, third):
        simulation.scheduler.submit(group)
    simulation.step()
    assert writer.streams[0].num_computed == 6
    assert follower.streams[0].num_computed == 0
    simulation.scheduler.remove(writer, keep=True)
    assert sorted(run(simulation)) == ["f", "t"]
    assert simulation.scheduler.allocators["m"].num_held == 0


def test_a_pinned_scaffold_survives_other_traffic() -> None:
    simulation = make_simulation(num_blocks=24)
    scaffold = list(range(200, 216))
    pinning = StreamGroup("pin", 0, [Stream("m", [*scaffold, 1], 18)], 2)
    simulation.scheduler.submit(pinning)
    run(simulation)
    for index in range(8):
        simulation.scheduler.submit(make_group(str(index), [range(index, index + 50)], 10))
        run(simulation)
    late = make_group("late", [[*scaffold, 7, 8]], 2)
    simulation.scheduler.submit(late)
    run(simulation)
    assert late.streams[0].cached_tokens == 16


def test_admission_is_first_come_first_served() -> None:
    simulation = make_simulation(num_blocks=8)
    order = []
    simulation.scheduler.submit(make_group("a", [range(12)], 8))  # 5 of 8 blocks
    simulation.scheduler.submit(make_group("big", [range(50, 62)], 18))  # 8 blocks: must wait
    for index in range(3):
        simulation.scheduler.submit(make_group(f"small{index}", [[index]], 2))
    for _ in range(200):
        order += [group.request_id for group in simulation.scheduler.admit()]
        step = simulation.step()
        for group in step.ready:
            group.commit([1])
            if len(group.output) == group.max_tokens:
                simulation.scheduler.remove(group, keep=True)
    assert order == ["a", "big", "small0", "small1", "small2"]
    assert not simulation.scheduler.has_work


def test_a_full_cache_holds_up_its_own_model_alone() -> None:
    simulation = make_simulation(num_blocks=8, models=("full", "idle"))
    scheduler = simulation.scheduler
    scheduler.submit(make_group("running", [range(12)], 8, ("full",)))
    scheduler.submit(make_group("waiting", [range(50, 62)], 18, ("full",)))
    scheduler.submit(make_group("other", [[1, 2]], 2, ("idle",)))
    assert [group.request_id for group in scheduler.admit()] == ["running", "other"]
    assert sorted(run(simulation)) == ["other", "running", "waiting"]


def test_a_group_on_several_models_is_passed_on_none_of_them() -> None:
    simulation = make_simulation(num_blocks=8, models=("a", "b"))
    scheduler = simulation.scheduler
    scheduler.submit(make_group("first", [range(12)], 8, ("a",)))
    scheduler.submit(make_group("both", [range(50, 62)], 18, ("a", "b")))
    scheduler.submit(make_group("late", [[1, 2]], 2, ("b",)))
    assert [group.request_id for group in scheduler.admit()] == ["first"]
    assert run(simulation) == ["first", "both", "late"]


def test_a_slot_goes_to_the_oldest_that_fits() -> None:
    simulation = make_simulation(max_groups=1, models=("a", "b"))
    for name, model in (("1", "b"), ("2", "a"), ("3", "b"), ("4", "b"), ("5", "a")):
        simulation.scheduler.submit(make_group(name, [[1, 2]], 2, (model,)))
    assert run(simulation) == ["1", "2", "3", "4", "5"]


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


@pytest.mark.parametrize(
    ("prompts", "max_tokens", "needed", "limit"),
    [([90], 20, 110, 100), ([30, 30], 10, 20, 16), ([60], 5, 17, 16)],
)
def test_what_can_never_fit_is_refused_with_the_numbers(
    prompts: list[int], max_tokens: int, needed: int, limit: int
) -> None:
    pool = BlockAllocator(16, BLOCK)
    with pytest.raises(RequestTooLarge) as caught:
        check_size(pool, prompt_lengths=prompts, max_tokens=max_tokens, context_tokens=100)
    assert caught.value.metadata["needed"] == str(needed)
    assert caught.value.metadata["limit"] == str(limit)
    assert str(needed) in str(caught.value)


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
